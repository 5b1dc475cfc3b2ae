//! Fused regions: what a layer of the decoder or of the image encoder does, one parallel region each.
//!
//! Shapes are checked here, once; below, kernels trust them. Row-major float32 throughout; n is the number of rows
//! (tokens). No result depends on the number of threads, on how many rows share a call, or on the instruction set.

mod attention;
mod best;
mod embed;
mod encoder;
mod feed_forward;
mod product;
mod projection;
mod quantize;
mod repack;
mod screen;
mod select;

use std::sync::{Mutex, PoisonError};

pub use attention::{Rows, attend, qkv};
pub use best::{Best, best_of_head};
pub use embed::{embed, rope};
pub use encoder::{Linear, encoder_qkv, layer_norm, linear, linear_add, norm_gelu};
pub use feed_forward::feed_forward;
pub use projection::{head, project_add};
pub use quantize::quantize;
pub use repack::{repack, wants_strips};
pub use screen::Screen;
pub use select::{log_sum_exp, top_k};

pub use crate::attention::Attend;
pub use crate::matmul::Mode;

use crate::isa::Isa;
use crate::team::Team;
use product::Workspace;

/// A shape or index that does not fit; nothing was computed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(pub String);

/// A thread team with its scratch memory.
pub struct Machine {
    team: Team,
    isa: Isa,
    workspace: Mutex<Workspace>,
}

impl Machine {
    /// `threads` 0: as many as the affinity mask and the cgroup quota allow.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize, isa: Isa) -> std::io::Result<Self> {
        let team = Team::new(threads)?;
        let workspace = Mutex::new(Workspace::new(team.threads()));
        Ok(Self { team, isa, workspace })
    }

    /// Members of the team.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `work` with the team and the scratch memory; one caller at a time.
    fn with<R>(&self, work: impl FnOnce(&Team, &mut Workspace) -> R) -> R {
        // A panic leaves scratch memory behind that the next call overwrites: nothing to distrust.
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        work(&self.team, &mut workspace)
    }
}

/// `RMSNorm`: x / sqrt(mean(x^2) + eps) * weight.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// One factor per column, Gemma's `1 +` included.
    pub weight: &'a [f32],
    /// Added to the mean of squares.
    pub eps: f32,
}

/// `LayerNorm`: (x - mean(x)) / sqrt(var(x) + eps) * weight + bias.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// One factor per column.
    pub weight: &'a [f32],
    /// One summand per column.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm<'_> {
    fn check(&self, width: usize) -> Result<(), ShapeError> {
        check_len("norm", self.weight.len(), width)?;
        check_len("norm bias", self.bias.len(), width)
    }
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), ShapeError> {
    if holds { Ok(()) } else { Err(ShapeError(message())) }
}

/// Number of rows of `values` at `cols` each.
fn rows_of(name: &str, values: &[f32], cols: usize) -> Result<usize, ShapeError> {
    check(cols > 0 && values.len().is_multiple_of(cols), || {
        format!("{name}: {} values are no rows of {cols}", values.len())
    })?;
    Ok(values.len() / cols)
}

fn check_len(name: &str, found: usize, expected: usize) -> Result<(), ShapeError> {
    check(found == expected, || format!("{name}: {found} values, expected {expected}"))
}
