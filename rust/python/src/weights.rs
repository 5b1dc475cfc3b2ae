//! `Matrix`: weights that stay where Python keeps them.

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use ostro_kernels::formats::{Format, Weights};
use pyo3::prelude::*;

use crate::invalid;

/// A weight matrix [rows, cols] in its file's number format; keeps `data` alive and never copies it.
#[pyclass(frozen, module = "ostro._kernels")]
pub struct Matrix {
    data: Py<PyArray1<u8>>,
    start: *const u8,
    len: usize,
    format: Format,
    rows: usize,
    cols: usize,
}

// SAFETY: the bytes behind `start` belong to an array that `data` keeps alive and that `new` found read-only.
unsafe impl Send for Matrix {}
// SAFETY: as above; shared reads only.
unsafe impl Sync for Matrix {}

impl Matrix {
    pub fn weights(&self) -> Weights<'_> {
        // SAFETY: address and length of the array that `data` keeps alive; numpy does not move an array's
        // buffer while references to the array exist.
        let bytes = unsafe { std::slice::from_raw_parts(self.start, self.len) };
        Weights::new(bytes, self.format, self.rows, self.cols).expect("checked in new")
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
        let (start, len) = (bytes.as_ptr(), bytes.len());
        Ok(Self { data: data.as_unbound().clone_ref(data.py()), start, len, format, rows, cols })
    }

    #[getter]
    fn rows(&self) -> usize {
        self.rows
    }

    #[getter]
    fn cols(&self) -> usize {
        self.cols
    }

    #[getter]
    fn format(&self) -> &'static str {
        self.format.name()
    }

    #[getter]
    fn data(&self, py: Python<'_>) -> Py<PyArray1<u8>> {
        self.data.clone_ref(py)
    }

    fn dequantize<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        if start > stop || stop > self.rows {
            return Err(invalid(format!("rows {start}:{stop} of a matrix with {} rows", self.rows)));
        }
        let out = PyArray2::<f32>::zeros(py, [stop - start, self.cols], false);
        let mut view = out.readwrite();
        let values = view.as_slice_mut().map_err(invalid)?;
        let weights = self.weights();
        py.detach(|| {
            for (row, values) in (start..stop).zip(values.chunks_exact_mut(self.cols.max(1))) {
                weights.dequantize_row(row, values);
            }
        });
        drop(view);
        Ok(out)
    }
}
