//! Arguments on their way to Python.

use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::images::Picture;

/// A value that Python will be given. Without the interpreter it is only held.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Nothing,
    Flag(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    /// A dict with texts as keys.
    Record(Vec<(&'static str, Value)>),
    /// A dict from token ids to numbers.
    Biases(Vec<(u32, f64)>),
    Picture(Arc<Picture>),
}

impl Value {
    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Nothing => Ok(py.None().into_bound(py)),
            Self::Flag(value) => value.into_bound_py_any(py),
            Self::Integer(value) => value.into_bound_py_any(py),
            Self::Number(value) => value.into_bound_py_any(py),
            Self::Text(value) => value.into_bound_py_any(py),
            Self::List(values) => {
                let items = values.iter().map(|value| value.to_python(py)).collect::<PyResult<Vec<_>>>()?;
                PyList::new(py, items)?.into_bound_py_any(py)
            }
            Self::Record(fields) => dict(py, fields)?.into_bound_py_any(py),
            Self::Biases(pairs) => {
                let biases = PyDict::new(py);
                for (id, bias) in pairs {
                    biases.set_item(id, bias)?;
                }
                biases.into_bound_py_any(py)
            }
            Self::Picture(picture) => picture.to_python(py),
        }
    }
}

/// A dict of named values.
pub(crate) fn dict<'py>(py: Python<'py>, fields: &[(&'static str, Value)]) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in fields {
        dict.set_item(*name, value.to_python(py)?)?;
    }
    Ok(dict)
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Self::Number(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<std::path::PathBuf> for Value {
    fn from(value: std::path::PathBuf) -> Self {
        Self::Text(value.to_string_lossy().into_owned())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }
}
