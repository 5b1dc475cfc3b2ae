//! A conversation: what was said is said again with each request, and costs nothing twice.
//!
//! ```console
//! $ cargo run --release --example chat -- google/gemma-3-1b-it
//! ```

use anyhow::{Context, Result};
use ostro::{RequestBuilder, TextMessageRole, TextModelBuilder};

#[tokio::main]
async fn main() -> Result<()> {
    let model_id = std::env::args().nth(1).context("which model? a folder, a hub id or a .gguf file")?;
    let model = TextModelBuilder::new(model_id).build().await?;

    let mut request = RequestBuilder::new()
        .add_message(TextMessageRole::System, "Answer in one short sentence.")
        .set_sampler_temperature(0.7)
        .set_sampler_seed(1)
        .set_sampler_max_len(40);
    for question in ["What is the capital of France?", "And what is it known for?"] {
        println!("> {question}");
        request = request.add_message(TextMessageRole::User, question);
        let response = model.send_chat_request(request.clone()).await?;
        let answer = response.choices[0].message.content.clone().unwrap_or_default();
        println!("{answer}");
        request = request.add_message(TextMessageRole::Assistant, answer);
    }
    Ok(())
}
