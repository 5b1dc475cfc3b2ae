//! The crate against the package itself: with the vision model inside it, and with the real 270m.

mod answers;
mod concurrent;
mod errors;
mod models;
mod quantized;
mod streams;
mod tokens;
