//! Quantization: a matrix in, the bytes of another one out.

use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use ostro_kernels::formats::Format;
use ostro_kernels::regions;
use pyo3::prelude::*;

use crate::calls::detached;
use crate::weights::Matrix;
use crate::{Team, invalid};

#[pyfunction]
#[pyo3(signature = (team, source, format, importance, out))]
pub fn quantize(
    py: Python<'_>,
    team: &Team,
    source: &Matrix,
    format: &str,
    importance: Option<PyReadonlyArray1<'_, f32>>,
    mut out: PyReadwriteArray1<'_, u8>,
) -> PyResult<()> {
    let format = Format::parse(format).ok_or_else(|| invalid(format!("unknown number format {format:?}")))?;
    let importance = importance.as_ref().map(|importance| importance.as_slice()).transpose()?;
    let (source, out) = (source.storage(), out.as_slice_mut()?);
    detached(py, || regions::quantize(&team.0, source.weights(), format, importance, out))
}
