//! `Matrix`: weights that stay where Python keeps them.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1, PyUntypedArrayMethods};
use ostro_kernels::formats::{Format, STRIP, Weights, planes};
use ostro_kernels::regions::{self, Screen, ShapeError};
use pyo3::prelude::*;

use crate::{Team, invalid};

/// Bytes of an array.
#[derive(Clone, Copy)]
struct Bytes {
    start: *const u8,
    len: usize,
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr(), len: bytes.len() }
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        assert!(at <= self.len);
        (Self { len: at, ..self }, Self { start: self.start.wrapping_add(at), len: self.len - at })
    }

    fn part(self, range: Range<usize>) -> Self {
        self.split_at(range.end).0.split_at(range.start).1
    }

    /// The bytes, to be written to.
    ///
    /// # Safety
    /// They may be written to, nobody else reads or writes them for `'a`, and what has them stays alive.
    unsafe fn as_mut<'a>(self) -> &'a mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast_mut(), self.len) }
    }
}

/// Where the rows are.
#[derive(Clone, Copy)]
struct Layout {
    strips: Bytes,
    /// The lower plane of all strips, if they are in planes.
    lower: Bytes,
    /// The rows behind the strips.
    data: Bytes,
}

/// Where a matrix lies at some time.
pub struct Storage {
    /// What keeps the bytes alive: the room, if there is one, and what the matrix was made of, until all of it was moved.
    arrays: Vec<Py<PyArray1<u8>>>,
    layout: Layout,
    /// Rows that were moved, and where to.
    moved: usize,
    room: Option<Bytes>,
    format: Format,
    rows: usize,
    cols: usize,
}

// SAFETY: the bytes belong to arrays that `arrays` keeps alive. `new` found the matrix's own array read-only, and of the
// other one `repack` writes only what no storage shows yet.
unsafe impl Send for Storage {}
// SAFETY: as above; shared reads only.
unsafe impl Sync for Storage {}

impl Storage {
    pub fn weights(&self) -> Weights<'_> {
        let Layout { strips, lower, data } = self.layout;
        // SAFETY: addresses and lengths within arrays that are kept alive; numpy does not move an array's buffer while
        // references to the array exist.
        let [strips, lower, data] =
            [strips, lower, data].map(|bytes| unsafe { std::slice::from_raw_parts(bytes.start, bytes.len) });
        let weights = if lower.is_empty() {
            Weights::with_strips(strips, data, self.format, self.rows, self.cols)
        } else {
            Weights::with_planes(strips, lower, data, self.rows, self.cols)
        };
        weights.expect("checked in new")
    }

    fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols).expect("checked in new")
    }

    /// The room of `size` bytes for all rows, of which those up to `stop` will be moved there.
    fn room(&self, room: &mut PyReadwriteArray1<'_, u8>, size: usize, stop: usize) -> PyResult<Bytes> {
        let Self { rows, moved, .. } = *self;
        if !room.is_contiguous() {
            return Err(invalid("room: not contiguous"));
        }
        let place = Bytes { start: room.as_array_mut().as_ptr(), len: room.len() };
        if place.len != size || self.room.is_some_and(|room| room.start != place.start) {
            return Err(invalid("room: not the one for this matrix"));
        }
        if stop <= moved || stop > rows || (stop < rows && !stop.is_multiple_of(STRIP)) {
            return Err(invalid(format!("stop {stop}: {moved} of {rows} rows are moved, in strips of {STRIP}")));
        }
        Ok(place)
    }

    /// The same with rows up to `stop` in the room.
    fn moved(&self, py: Python<'_>, array: Py<PyArray1<u8>>, room: Bytes, stop: usize, layout: Layout) -> Self {
        let mut arrays = vec![array];
        if stop < self.rows {
            arrays.extend(self.arrays.last().map(|source| source.clone_ref(py)));
        }
        Self { arrays, layout, moved: stop, room: Some(room), ..*self }
    }
}

/// A weight matrix [rows, cols] in its file's number format; keeps its bytes alive.
#[pyclass(frozen, module = "ostro._kernels")]
pub struct Matrix {
    storage: RwLock<Arc<Storage>>,
    /// What will be `screen`, while it is made.
    begun: Mutex<Option<Screen>>,
    screen: OnceLock<Screen>,
}

impl Matrix {
    /// Where it is now. What is read from there stays there.
    pub fn storage(&self) -> Arc<Storage> {
        Arc::clone(&self.storage.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What all rows are in few bits, if there is that. Rows are in planes before there is a screen of planes.
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.get()
    }

    fn set_storage(&self, storage: Storage) {
        *self.storage.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(storage);
    }

    /// The screen as it is, a new one if there is none, with more rows; for `keep_screen`.
    fn grow_screen(
        &self,
        py: Python<'_>,
        new: impl FnOnce() -> Result<Screen, ShapeError> + Send,
        grow: impl FnOnce(&mut Screen) -> Result<(), ShapeError> + Send,
    ) -> PyResult<Screen> {
        if self.screen.get().is_some() {
            return Err(invalid("the screen has all rows"));
        }
        // Not kept locked: who waits for it may hold the interpreter, which `detach` waits for.
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| {
            let mut screen = begun.map_or_else(new, Ok)?;
            grow(&mut screen)?;
            Ok::<_, ShapeError>(screen)
        })
        .map_err(invalid)
    }

    fn keep_screen(&self, screen: Screen) {
        if screen.is_complete() {
            // Who came first is as good.
            let _ = self.screen.set(screen);
        } else {
            *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(screen);
        }
    }
}

#[pymethods]
impl Matrix {
    #[new]
    fn new(data: PyReadonlyArray1<'_, u8>, format: &str, rows: usize, cols: usize) -> PyResult<Self> {
        let format = Format::parse(format).ok_or_else(|| invalid(format!("unknown number format {format:?}")))?;
        let bytes = data.as_slice().map_err(invalid)?;
        Weights::new(bytes, format, rows, cols).map_err(invalid)?;
        if data.getattr("flags")?.getattr("writeable")?.extract()? {
            return Err(invalid("the weights' bytes must be a read-only array"));
        }
        let layout = Layout { strips: Bytes::of(&[]), lower: Bytes::of(&[]), data: Bytes::of(bytes) };
        let arrays = vec![data.as_unbound().clone_ref(data.py())];
        let storage = Storage { arrays, layout, moved: 0, room: None, format, rows, cols };
        Ok(Self { storage: RwLock::new(Arc::new(storage)), begun: Mutex::default(), screen: OnceLock::new() })
    }

    fn repack(&self, py: Python<'_>, team: &Team, mut room: PyReadwriteArray1<'_, u8>, stop: usize) -> PyResult<()> {
        let now = self.storage();
        let row_bytes = now.row_bytes();
        let place = now.room(&mut room, now.rows * row_bytes, stop)?;
        if now.layout.lower.len > 0 {
            return Err(invalid("the rows before are in planes"));
        }
        // SAFETY: within the room, which is contiguous and borrowed for writing. No storage shows these bytes: they are
        // behind what was moved.
        let part = unsafe { place.part(now.moved * row_bytes..stop * row_bytes).as_mut() };
        py.detach(|| regions::repack(&team.0, now.weights(), now.moved..stop, part)).map_err(invalid)?;
        let packed = if regions::wants_strips(&team.0, now.format) { stop / STRIP * STRIP } else { 0 };
        let (strips, behind) = place.split_at(packed * row_bytes);
        let Layout { strips: before, lower, data } = now.layout;
        let data = if stop == now.rows { behind } else { data.split_at(strips.len.saturating_sub(before.len)).1 };
        let layout = Layout { strips, lower, data };
        self.set_storage(now.moved(py, room.as_unbound().clone_ref(py), place, stop, layout));
        Ok(())
    }

    fn split(&self, py: Python<'_>, team: &Team, mut room: PyReadwriteArray1<'_, u8>, stop: usize) -> PyResult<()> {
        let now = self.storage();
        let Layout { strips, lower, data } = now.layout;
        if now.format != planes::WHOLE || !now.rows.is_multiple_of(STRIP) || (strips.len > 0) != (lower.len > 0) {
            return Err(invalid("planes are of matrices in Q8_0 of whole strips, no row of which is moved elsewhere"));
        }
        let sizes = |rows: usize| planes::nbytes(rows, now.cols);
        let place = now.room(&mut room, sizes(now.rows).iter().sum(), stop)?;
        let (upper, lower) = place.split_at(sizes(now.rows)[0]);
        let [from, to] = [now.moved, stop].map(sizes);
        // SAFETY: as above, in each plane.
        let parts = unsafe { [upper.part(from[0]..to[0]).as_mut(), lower.part(from[1]..to[1]).as_mut()] };
        let screen = self.grow_screen(
            py,
            || Screen::of_planes(now.rows, now.cols),
            |screen| {
                let [upper, lower] = parts;
                screen.split(&team.0, now.weights(), stop, upper, lower)
            },
        )?;
        let data = data.split_at((stop - now.moved) * now.row_bytes()).1;
        let layout = Layout { strips: upper.part(0..to[0]), lower: lower.part(0..to[1]), data };
        self.set_storage(now.moved(py, room.as_unbound().clone_ref(py), place, stop, layout));
        self.keep_screen(screen);
        Ok(())
    }

    fn extend_screen(&self, py: Python<'_>, team: &Team, stop: usize) -> PyResult<()> {
        let now = self.storage();
        let new = || Screen::new(&team.0, now.rows, now.cols);
        let screen = self.grow_screen(py, new, |screen| screen.extend(&team.0, now.weights(), stop))?;
        self.keep_screen(screen);
        Ok(())
    }

    #[getter]
    fn split_nbytes(&self) -> usize {
        let now = self.storage();
        planes::nbytes(now.rows, now.cols).iter().sum()
    }

    #[getter]
    fn screen_nbytes(&self) -> Option<usize> {
        self.screen().map(Screen::nbytes)
    }

    #[getter]
    fn has_strips(&self) -> bool {
        self.storage().format.has_strips()
    }

    #[getter]
    fn moved(&self) -> usize {
        self.storage().moved
    }

    #[getter]
    fn rows(&self) -> usize {
        self.storage().rows
    }

    #[getter]
    fn cols(&self) -> usize {
        self.storage().cols
    }

    #[getter]
    fn format(&self) -> &'static str {
        self.storage().format.name()
    }

    #[getter]
    fn data(&self, py: Python<'_>) -> Py<PyArray1<u8>> {
        self.storage().arrays.last().expect("there is at least one").clone_ref(py)
    }

    fn dequantize<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let storage = self.storage();
        let weights = storage.weights();
        if start > stop || stop > weights.rows() {
            return Err(invalid(format!("rows {start}:{stop} of a matrix with {} rows", weights.rows())));
        }
        let out = PyArray2::<f32>::zeros(py, [stop - start, weights.cols()], false);
        let mut view = out.readwrite();
        let values = view.as_slice_mut().map_err(invalid)?;
        py.detach(|| {
            for (row, values) in (start..stop).zip(values.chunks_exact_mut(weights.cols().max(1))) {
                weights.dequantize_row(row, values);
            }
        });
        drop(view);
        Ok(out)
    }
}
