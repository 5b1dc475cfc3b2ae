//! The program of mistral.rs's Gemma 3 page, with ostro's name in it.
//!
//! ```console
//! $ cargo run --release --example vision -- google/gemma-3-4b-it http://127.0.0.1:8000/picture.png
//! ```

use anyhow::{Context, Result};
use ostro::{IsqType, TextMessageRole, VisionLoaderType, VisionMessages, VisionModelBuilder};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model_id = arguments.next().context("which model? a folder, a hub id or a .gguf file")?;
    let image_url = arguments.next().context("which picture? an http URL or a path")?;
    let quantize = arguments.next().is_some_and(|argument| argument == "--isq");

    let builder = VisionModelBuilder::new(model_id, VisionLoaderType::Gemma3).with_logging();
    let model = if quantize { builder.with_isq(IsqType::Q4K) } else { builder }.build().await?;

    let bytes = if image_url.starts_with("http") {
        // Fetched in a thread where waiting is allowed.
        tokio::task::spawn_blocking(|| reqwest::blocking::get(image_url)?.bytes()).await??.to_vec()
    } else {
        std::fs::read(&image_url).with_context(|| image_url)?
    };
    let image = image::load_from_memory(&bytes)?;

    let messages = VisionMessages::new().add_image_message(
        TextMessageRole::User,
        "What is depicted here? Please describe the scene in detail.",
        image,
        &model,
    )?;

    let response = model.send_chat_request(messages).await?;

    println!("{}", response.choices[0].message.content.as_ref().unwrap());
    dbg!(response.usage.avg_prompt_tok_per_sec, response.usage.avg_compl_tok_per_sec);

    Ok(())
}
