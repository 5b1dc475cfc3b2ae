//! Choosing from a row of logits: the k largest, and log(sum(exp)).

#![allow(clippy::inline_always, reason = "only what is inlined into `dispatch` is compiled for its instruction set")]

mod log_sum_exp;
mod top_k;

pub use log_sum_exp::log_sum_exp;
pub use top_k::top_k;
