//! An answer as it comes into being.
//!
//! ```console
//! $ cargo run --release --example streaming -- google/gemma-3-1b-it
//! ```

use std::io::Write;

use anyhow::{Context, Result};
use ostro::{RequestBuilder, Response, TextMessageRole, TextModelBuilder};

#[tokio::main]
async fn main() -> Result<()> {
    let model_id = std::env::args().nth(1).context("which model? a folder, a hub id or a .gguf file")?;
    let model = TextModelBuilder::new(model_id).build().await?;

    let request =
        RequestBuilder::new().add_message(TextMessageRole::User, "Tell me about the sea.").set_sampler_max_len(60);
    let mut stream = model.stream_chat_request(request).await?;
    let mut usage = None;
    while let Some(response) = stream.next().await {
        match response {
            Response::Chunk(chunk) => {
                print!("{}", chunk.choices[0].delta.content.as_deref().unwrap_or_default());
                std::io::stdout().flush()?;
                usage = chunk.usage.or(usage);
            }
            Response::InternalError(error) | Response::ValidationError(error) => return Err(anyhow::anyhow!(error)),
            _ => {}
        }
    }
    let usage = usage.context("the last chunk brings the usage")?;
    println!("\n{} tokens, {:.1} tokens/s", usage.completion_tokens, usage.avg_compl_tok_per_sec);
    Ok(())
}
