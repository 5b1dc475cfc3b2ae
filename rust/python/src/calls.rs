//! The module's functions: take slices out of arrays, release the GIL, call a region.

use numpy::{
    PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2, PyUntypedArrayMethods,
};
use ostro_kernels::regions::{self, Attend, Best, Norm, ShapeError};
use pyo3::prelude::*;

use crate::weights::Matrix;
use crate::{KvStore, Team, invalid};

type Vector<'py, T> = PyReadonlyArray1<'py, T>;
type Rows<'py, T> = PyReadonlyArray2<'py, T>;
type RowsOut<'py> = PyReadwriteArray2<'py, f32>;

/// Runs a region without the GIL.
pub(crate) fn detached<T: Send>(py: Python<'_>, region: impl FnOnce() -> Result<T, ShapeError> + Send) -> PyResult<T> {
    py.detach(region).map_err(invalid)
}

#[pyfunction]
pub fn rope<'py>(
    py: Python<'py>,
    team: &Team,
    positions: Vector<'py, i32>,
    inv_freq: Vector<'py, f64>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let out = PyArray2::<f32>::zeros(py, [positions.len(), 2 * inv_freq.len()], false);
    let (positions, inv_freq) = (positions.as_slice()?, inv_freq.as_slice()?);
    let mut view = out.readwrite();
    let table = view.as_slice_mut()?;
    detached(py, || regions::rope(&team.0, positions, inv_freq, table))?;
    drop(view);
    Ok(out)
}

#[pyfunction]
pub fn embed(
    py: Python<'_>,
    team: &Team,
    table: &Matrix,
    token_ids: Vector<'_, i32>,
    scale: f32,
    mut out: RowsOut<'_>,
) -> PyResult<()> {
    let (token_ids, out) = (token_ids.as_slice()?, out.as_slice_mut()?);
    let table = table.storage();
    detached(py, || regions::embed(&team.0, table.weights(), token_ids, scale, out))
}

#[pyfunction]
pub fn qkv(
    py: Python<'_>,
    team: &Team,
    x: Rows<'_, f32>,
    norm: Vector<'_, f32>,
    eps: f32,
    q_proj: &Matrix,
    k_proj: &Matrix,
    v_proj: &Matrix,
    q_norm: Vector<'_, f32>,
    k_norm: Vector<'_, f32>,
    rope: Rows<'_, f32>,
    positions: Vector<'_, i32>,
    row_starts: Vector<'_, i32>,
    page_table: Rows<'_, i32>,
    store: &KvStore,
    layer: usize,
    mut q: RowsOut<'_>,
) -> PyResult<()> {
    let norms = [Norm { weight: q_norm.as_slice()?, eps }, Norm { weight: k_norm.as_slice()?, eps }];
    let norm = Norm { weight: norm.as_slice()?, eps };
    let rows = regions::Rows {
        positions: positions.as_slice()?,
        row_starts: row_starts.as_slice()?,
        page_table: page_table.as_slice()?,
    };
    let (x, rope, q) = (x.as_slice()?, rope.as_slice()?, q.as_slice_mut()?);
    let projections = [q_proj.storage(), k_proj.storage(), v_proj.storage()];
    py.detach(|| {
        let projections = projections.each_ref().map(|matrix| matrix.weights());
        let mut store = store.write()?;
        let mode = team.1;
        regions::qkv(&team.0, x, norm, projections, norms, rope, &rows, &mut store, layer, q, mode).map_err(invalid)
    })
}

#[pyfunction]
pub fn attend(
    py: Python<'_>,
    team: &Team,
    q: Rows<'_, f32>,
    positions: Vector<'_, i32>,
    key_ends: Vector<'_, i32>,
    row_starts: Vector<'_, i32>,
    page_table: Rows<'_, i32>,
    store: &KvStore,
    layer: usize,
    scale: f32,
    window: usize,
    mut out: RowsOut<'_>,
) -> PyResult<()> {
    let (q, positions, key_ends) = (q.as_slice()?, positions.as_slice()?, key_ends.as_slice()?);
    let (row_starts, page_table, out) = (row_starts.as_slice()?, page_table.as_slice()?, out.as_slice_mut()?);
    py.detach(|| {
        let store = &*store.read()?;
        let inputs = Attend { q, positions, key_ends, row_starts, page_table, store, layer, scale, window };
        regions::attend(&team.0, &inputs, out).map_err(invalid)
    })
}

#[pyfunction]
pub fn project_add(
    py: Python<'_>,
    team: &Team,
    mut x: RowsOut<'_>,
    h: Rows<'_, f32>,
    proj: &Matrix,
    norm: Vector<'_, f32>,
    eps: f32,
) -> PyResult<()> {
    let (x, h) = (x.as_slice_mut()?, h.as_slice()?);
    let norm = Norm { weight: norm.as_slice()?, eps };
    let proj = proj.storage();
    detached(py, || regions::project_add(&team.0, x, h, proj.weights(), norm, team.1))
}

#[pyfunction]
pub fn feed_forward(
    py: Python<'_>,
    team: &Team,
    mut x: RowsOut<'_>,
    norm: Vector<'_, f32>,
    eps: f32,
    gate: &Matrix,
    up: &Matrix,
    down: &Matrix,
    post_norm: Vector<'_, f32>,
    post_eps: f32,
    mut hidden: Option<RowsOut<'_>>,
) -> PyResult<()> {
    let x = x.as_slice_mut()?;
    let hidden = hidden.as_mut().map(|hidden| hidden.as_slice_mut()).transpose()?;
    let norms = [Norm { weight: norm.as_slice()?, eps }, Norm { weight: post_norm.as_slice()?, eps: post_eps }];
    let [gate, up, down] = [gate.storage(), up.storage(), down.storage()];
    detached(py, || {
        let gate_and_up = [gate.weights(), up.weights()];
        regions::feed_forward(&team.0, x, norms[0], gate_and_up, down.weights(), norms[1], hidden, team.1)
    })
}

#[pyfunction]
#[pyo3(signature = (team, x, rows, norm, eps, proj, out, best=None))]
pub fn head(
    py: Python<'_>,
    team: &Team,
    x: Rows<'_, f32>,
    rows: Vector<'_, i32>,
    norm: Vector<'_, f32>,
    eps: f32,
    proj: &Matrix,
    mut out: RowsOut<'_>,
    best: Option<(usize, Vector<'_, i32>)>,
) -> PyResult<usize> {
    let (x, rows, out) = (x.as_slice()?, rows.as_slice()?, out.as_slice_mut()?);
    let norm = Norm { weight: norm.as_slice()?, eps };
    let best = best.as_ref().map(|(count, excluded)| Ok::<_, PyErr>((*count, excluded.as_slice()?))).transpose()?;
    // In this order: a screen of planes needs rows that are in planes.
    let screen = proj.screen();
    let storage = proj.storage();
    detached(py, || {
        if let (Some(screen), Some((count, excluded))) = (screen, best) {
            let best = Best { count, excluded };
            return regions::best_of_head(&team.0, x, rows, norm, storage.weights(), screen, best, out, team.1);
        }
        regions::head(&team.0, x, rows, norm, storage.weights(), out, team.1)?;
        Ok(storage.weights().rows())
    })
}

#[pyfunction]
#[allow(clippy::type_complexity, reason = "a pair of arrays")]
pub fn top_k<'py>(
    py: Python<'py>,
    team: &Team,
    logits: Rows<'py, f32>,
    k: usize,
) -> PyResult<(Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<f32>>)> {
    let (rows, cols) = (logits.shape()[0], logits.shape()[1]);
    let k = k.min(cols);
    let (ids, values) = (PyArray2::<i32>::zeros(py, [rows, k], false), PyArray2::<f32>::zeros(py, [rows, k], false));
    let (mut id_view, mut value_view) = (ids.readwrite(), values.readwrite());
    let (id_out, value_out) = (id_view.as_slice_mut()?, value_view.as_slice_mut()?);
    let logits = logits.as_slice()?;
    detached(py, || regions::top_k(&team.0, logits, cols, k, id_out, value_out))?;
    drop((id_view, value_view));
    Ok((ids, values))
}

#[pyfunction]
pub fn log_sum_exp<'py>(py: Python<'py>, team: &Team, logits: Rows<'py, f32>) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let cols = logits.shape()[1];
    let out = PyArray1::<f64>::zeros(py, logits.shape()[0], false);
    let mut view = out.readwrite();
    let (logits, sums) = (logits.as_slice()?, view.as_slice_mut()?);
    detached(py, || regions::log_sum_exp(&team.0, logits, cols, sums))?;
    drop(view);
    Ok(out)
}
