//! The module's functions for the image encoder.

use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2};
use ostro_kernels::regions::{self, LayerNorm, Linear};
use pyo3::prelude::*;

use crate::calls::detached;
use crate::weights::{Matrix, Storage};
use crate::{KvStore, Team, invalid};

type Vector<'py> = PyReadonlyArray1<'py, f32>;
type Rows<'py> = PyReadonlyArray2<'py, f32>;
type RowsOut<'py> = PyReadwriteArray2<'py, f32>;

fn as_linear<'a>(matrix: &'a Storage, bias: &'a Vector<'_>) -> PyResult<Linear<'a>> {
    Ok(Linear { weights: matrix.weights(), bias: bias.as_slice()? })
}

fn as_norm<'a>(weight: &'a Vector<'_>, bias: &'a Vector<'_>, eps: f32) -> PyResult<LayerNorm<'a>> {
    Ok(LayerNorm { weight: weight.as_slice()?, bias: bias.as_slice()?, eps })
}

#[pyfunction]
pub fn linear(
    py: Python<'_>,
    team: &Team,
    x: Rows<'_>,
    proj: &Matrix,
    bias: Vector<'_>,
    mut out: RowsOut<'_>,
) -> PyResult<()> {
    let proj = proj.storage();
    let (x, proj, out) = (x.as_slice()?, as_linear(&proj, &bias)?, out.as_slice_mut()?);
    detached(py, || regions::linear(&team.0, x, proj, out, team.1))
}

#[pyfunction]
pub fn layer_norm(
    py: Python<'_>,
    team: &Team,
    x: Rows<'_>,
    norm: Vector<'_>,
    norm_bias: Vector<'_>,
    eps: f32,
    mut out: RowsOut<'_>,
) -> PyResult<()> {
    let (x, norm, out) = (x.as_slice()?, as_norm(&norm, &norm_bias, eps)?, out.as_slice_mut()?);
    detached(py, || regions::layer_norm(&team.0, x, norm, out))
}

#[pyfunction]
pub fn encoder_qkv(
    py: Python<'_>,
    team: &Team,
    x: Rows<'_>,
    norm: Vector<'_>,
    norm_bias: Vector<'_>,
    eps: f32,
    q_proj: &Matrix,
    q_bias: Vector<'_>,
    k_proj: &Matrix,
    k_bias: Vector<'_>,
    v_proj: &Matrix,
    v_bias: Vector<'_>,
    start: usize,
    store: &KvStore,
    mut q: RowsOut<'_>,
) -> PyResult<()> {
    let (x, norm, q) = (x.as_slice()?, as_norm(&norm, &norm_bias, eps)?, q.as_slice_mut()?);
    let [q_proj, k_proj, v_proj] = [q_proj.storage(), k_proj.storage(), v_proj.storage()];
    let projections = [as_linear(&q_proj, &q_bias)?, as_linear(&k_proj, &k_bias)?, as_linear(&v_proj, &v_bias)?];
    py.detach(|| {
        let mut store = store.write()?;
        regions::encoder_qkv(&team.0, x, norm, projections, start, &mut store, q, team.1).map_err(invalid)
    })
}

#[pyfunction]
pub fn linear_add(
    py: Python<'_>,
    team: &Team,
    mut x: RowsOut<'_>,
    h: Rows<'_>,
    proj: &Matrix,
    bias: Vector<'_>,
) -> PyResult<()> {
    let proj = proj.storage();
    let (x, h, proj) = (x.as_slice_mut()?, h.as_slice()?, as_linear(&proj, &bias)?);
    detached(py, || regions::linear_add(&team.0, x, h, proj, team.1))
}

#[pyfunction]
pub fn norm_gelu(
    py: Python<'_>,
    team: &Team,
    x: Rows<'_>,
    norm: Vector<'_>,
    norm_bias: Vector<'_>,
    eps: f32,
    proj: &Matrix,
    bias: Vector<'_>,
    mut out: RowsOut<'_>,
) -> PyResult<()> {
    let (x, norm, out) = (x.as_slice()?, as_norm(&norm, &norm_bias, eps)?, out.as_slice_mut()?);
    let proj = proj.storage();
    let proj = as_linear(&proj, &bias)?;
    detached(py, || regions::norm_gelu(&team.0, x, norm, proj, out, team.1))
}
