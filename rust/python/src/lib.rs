//! `ostro._kernels`: numpy arrays in, numpy arrays out, the GIL released in between.
//!
//! Nothing is computed or decided here; shapes are checked by `ostro_kernels::regions`.

#![allow(clippy::needless_pass_by_value, reason = "PyO3 extracts arguments by value")]

mod calls;
mod encoder;
mod quantize;
mod roofline;
mod weights;

use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use ostro_kernels::isa::Isa;
use ostro_kernels::kv;
use ostro_kernels::matmul::{Mode, Precision};
use ostro_kernels::regions::Machine;
use pyo3::exceptions::{PyMemoryError, PyValueError};
use pyo3::prelude::*;

fn invalid(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Persistent threads with their scratch memory, and how their products treat activations.
#[pyclass(frozen, module = "ostro._kernels")]
struct Team(Machine, Mode);

#[pymethods]
impl Team {
    #[new]
    #[pyo3(signature = (threads = 0, isa = "auto", compute = "int14"))]
    fn new(threads: usize, isa: &str, compute: &str) -> PyResult<Self> {
        let available = Isa::available();
        let isa = match isa {
            "auto" => Isa::detect(),
            name => *available.iter().find(|level| level.name() == name).ok_or_else(|| {
                let names: Vec<_> = available.iter().map(|level| level.name()).collect();
                invalid(format!("isa {name:?} is not available here; choose auto, {}", names.join(", ")))
            })?,
        };
        let mode = match compute {
            "int8" => Mode::Blocks(Precision::Int8),
            "int14" => Mode::Blocks(Precision::Int14),
            "mixed" => Mode::Mixed,
            "f32" => Mode::Exact,
            name => return Err(invalid(format!("compute {name:?} is none of int8, int14, mixed, f32"))),
        };
        Ok(Self(Machine::new(threads, isa)?, mode))
    }

    #[getter]
    fn threads(&self) -> usize {
        self.0.threads()
    }

    #[getter]
    fn isa(&self) -> &'static str {
        self.0.isa().name()
    }

    #[getter]
    fn reads_strips(&self) -> bool {
        self.0.isa().reads_strips()
    }
}

/// Pages of keys and values of all layers of one kind.
#[pyclass(frozen, module = "ostro._kernels")]
struct KvStore(RwLock<kv::KvStore>);

impl KvStore {
    fn read(&self) -> PyResult<RwLockReadGuard<'_, kv::KvStore>> {
        self.0.read().map_err(invalid)
    }

    fn write(&self) -> PyResult<RwLockWriteGuard<'_, kv::KvStore>> {
        self.0.write().map_err(invalid)
    }
}

#[pymethods]
impl KvStore {
    #[new]
    fn new(layers: usize, kv_heads: usize, head_dim: usize, dtype: &str) -> PyResult<Self> {
        let dtype = kv::KvType::parse(dtype)
            .ok_or_else(|| invalid(format!("unknown KV dtype {dtype:?}; choose f32 or f16")))?;
        Ok(Self(RwLock::new(kv::KvStore::new(layers, kv_heads, head_dim, dtype).map_err(invalid)?)))
    }

    fn reserve(&self, pages: usize) -> PyResult<()> {
        self.write()?.reserve(pages).map_err(|error| PyMemoryError::new_err(error.to_string()))
    }

    #[getter]
    fn pages(&self) -> PyResult<usize> {
        Ok(self.read()?.pages())
    }

    #[getter]
    fn nbytes(&self) -> PyResult<usize> {
        Ok(self.read()?.nbytes())
    }

    #[getter]
    fn page_nbytes(&self) -> PyResult<usize> {
        Ok(self.read()?.page_nbytes())
    }
}

#[pymodule]
mod _kernels {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::calls::{attend, embed, feed_forward, head, log_sum_exp, project_add, qkv, rope, top_k};
    #[pymodule_export]
    use super::encoder::{encoder_qkv, layer_norm, linear, linear_add, norm_gelu};
    #[pymodule_export]
    use super::quantize::quantize;
    #[pymodule_export]
    use super::roofline::{cache_size, multiply_peaks, read_bandwidth};
    #[pymodule_export]
    use super::weights::Matrix;
    #[pymodule_export]
    use super::{KvStore, Team};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("PAGE_SIZE", ostro_kernels::kv::PAGE)?;
        module.add("STRIP", ostro_kernels::formats::STRIP)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
