//! Numeric kernels of ostro. Nothing here knows about Python, files or text.

pub mod formats;
pub mod isa;
