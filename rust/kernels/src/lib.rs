//! Numeric kernels of ostro. Nothing here knows about Python, files or text.

#![cfg_attr(test, allow(clippy::float_cmp, reason = "exact results are what the tests are about"))]

pub mod attention;
pub mod formats;
pub mod gelu;
pub mod isa;
pub mod kv;
pub mod matmul;
pub mod norm;
mod pages;
pub mod quantize;
pub mod regions;
pub mod roofline;
mod room;
pub mod rope;
pub mod select;
mod simd;
pub mod team;
