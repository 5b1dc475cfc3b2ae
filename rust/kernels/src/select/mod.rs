//! Choosing from a row of logits: the k largest, and log(sum(exp)).

mod log_sum_exp;
mod top_k;

pub use log_sum_exp::log_sum_exp;
pub use top_k::top_k;
