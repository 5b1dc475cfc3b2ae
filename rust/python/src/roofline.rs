//! What the machine can do at best, measured on a team of its own.

use ostro_kernels::roofline;
use ostro_kernels::team::Team;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

#[pyfunction]
pub fn cache_size() -> Option<usize> {
    roofline::cache_bytes()
}

#[pyfunction]
#[pyo3(signature = (threads = 0))]
pub fn read_bandwidth(py: Python<'_>, threads: usize) -> PyResult<f64> {
    py.detach(|| {
        let team = Team::new(threads)?;
        roofline::read_bandwidth(&team).map_err(|error| PyMemoryError::new_err(error.to_string()))
    })
}

/// (family, instructions, multiply-accumulates per second) of each.
#[pyfunction]
#[pyo3(signature = (threads = 0))]
pub fn multiply_peaks(py: Python<'_>, threads: usize) -> PyResult<Vec<(&'static str, &'static str, f64)>> {
    let peaks = py.detach(|| Team::new(threads).map(|team| roofline::peaks(&team)))?;
    Ok(peaks.into_iter().map(|peak| (peak.family.name(), peak.instructions, peak.macs_per_second)).collect())
}
