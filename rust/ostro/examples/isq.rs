//! Quantize while loading, and once more at run time.
//!
//! ```console
//! $ cargo run --release --example isq -- google/gemma-3-1b-it q4k q8_0
//! ```

use anyhow::{Context, Result};
use ostro::MultimodalModelBuilder;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model_id = arguments.next().context("which model? a folder or a hub id of unquantized weights")?;
    let first = arguments.next().unwrap_or_else(|| "q4k".into());

    let model = MultimodalModelBuilder::new(model_id).with_isq(first.as_str()).with_logging().build().await?;
    println!("{first}: {}", model.chat("What is two plus two?").await?);

    for format in arguments {
        model.re_isq_model(format.as_str()).await?;
        println!("{format}: {}", model.chat("What is two plus two?").await?);
    }
    Ok(())
}
