//! `Matrix`: weights that stay where Python keeps them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadwriteArray1, PyUntypedArrayMethods};
use ostro_kernels::formats::{Format, STRIP, Weights};
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
}

/// Where a matrix lies at some time.
pub struct Storage {
    /// What keeps the bytes alive: the room, if there is one, and what the matrix was made of, until all of it was moved.
    arrays: Vec<Py<PyArray1<u8>>>,
    strips: Bytes,
    /// The rows behind the strips.
    data: Bytes,
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
        // SAFETY: addresses and lengths within arrays that are kept alive; numpy does not move an array's buffer while
        // references to the array exist.
        let [strips, data] =
            [self.strips, self.data].map(|bytes| unsafe { std::slice::from_raw_parts(bytes.start, bytes.len) });
        Weights::with_strips(strips, data, self.format, self.rows, self.cols).expect("checked in new")
    }
}

/// A weight matrix [rows, cols] in its file's number format; keeps its bytes alive.
#[pyclass(frozen, module = "ostro._kernels")]
pub struct Matrix {
    storage: RwLock<Arc<Storage>>,
    /// A coarse copy, while it is made.
    begun: Mutex<Option<Screen>>,
    screen: OnceLock<Screen>,
}

impl Matrix {
    /// Where it is now. What is read from there stays there.
    pub fn storage(&self) -> Arc<Storage> {
        Arc::clone(&self.storage.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A coarse copy of all rows, if there is one.
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.get()
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
        let (strips, data, arrays) = (Bytes::of(&[]), Bytes::of(bytes), vec![data.as_unbound().clone_ref(data.py())]);
        let storage = Storage { arrays, strips, data, moved: 0, room: None, format, rows, cols };
        Ok(Self { storage: RwLock::new(Arc::new(storage)), begun: Mutex::default(), screen: OnceLock::new() })
    }

    fn repack(&self, py: Python<'_>, team: &Team, mut room: PyReadwriteArray1<'_, u8>, stop: usize) -> PyResult<()> {
        let now = self.storage();
        let Storage { format, rows, cols, moved, .. } = *now;
        let row_bytes = format.row_bytes(cols).map_err(invalid)?;
        if !room.is_contiguous() {
            return Err(invalid("room: not contiguous"));
        }
        let place = Bytes { start: room.as_array_mut().as_ptr(), len: room.len() };
        if place.len != rows * row_bytes || now.room.is_some_and(|room| room.start != place.start) {
            return Err(invalid("room: not the one for this matrix"));
        }
        if stop <= moved || stop > rows || (stop < rows && !stop.is_multiple_of(STRIP)) {
            return Err(invalid(format!("stop {stop}: {moved} of {rows} rows are moved, in strips of {STRIP}")));
        }
        let (from, to) = (moved * row_bytes, stop * row_bytes);
        // SAFETY: within the room, which is contiguous and borrowed for writing. No storage shows these bytes: they are
        // behind what was moved.
        let part = unsafe { std::slice::from_raw_parts_mut(place.start.add(from).cast_mut(), to - from) };
        py.detach(|| regions::repack(&team.0, now.weights(), moved..stop, part)).map_err(invalid)?;
        let packed = if regions::wants_strips(&team.0, format) { stop / STRIP * STRIP } else { 0 };
        let mut arrays = vec![room.as_unbound().clone_ref(py)];
        let (strips, data) = if stop == rows {
            place.split_at(packed * row_bytes)
        } else {
            arrays.extend(now.arrays.last().map(|source| source.clone_ref(py)));
            (
                place.split_at(packed * row_bytes).0,
                now.data.split_at((packed * row_bytes).saturating_sub(now.strips.len)).1,
            )
        };
        let next = Storage { arrays, strips, data, moved: stop, room: Some(place), format, rows, cols };
        *self.storage.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }

    fn extend_screen(&self, py: Python<'_>, team: &Team, stop: usize) -> PyResult<()> {
        if self.screen.get().is_some() {
            return Err(invalid("the screen has all rows"));
        }
        let now = self.storage();
        // Not kept locked: who waits for it may hold the interpreter, which `detach` waits for.
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
        let screen = py.detach(|| {
            let mut screen = match begun {
                Some(screen) => screen,
                None => Screen::new(&team.0, now.rows, now.cols)?,
            };
            screen.extend(&team.0, now.weights(), stop)?;
            Ok::<_, ShapeError>(screen)
        });
        let screen = screen.map_err(invalid)?;
        if screen.is_complete() {
            // Who came first is as good.
            let _ = self.screen.set(screen);
        } else {
            *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(screen);
        }
        Ok(())
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
