//! Many requests at the same time beside the same one after the other, and the cost of a token in this crate.
//!
//! ```console
//! $ cargo run --release --example many -- model.gguf 32 64
//! ```
//!
//! With 0 requests only streams are measured: on one thread, in processor time, which other programs disturb least.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use ostro::{Model, RequestBuilder, TextMessageRole, TextModelBuilder};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model_id = arguments.next().context("which model? a folder, a hub id or a .gguf file")?;
    let requests: usize = arguments.next().map_or(Ok(32), |number| number.parse())?;
    let tokens: usize = arguments.next().map_or(Ok(64), |number| number.parse())?;
    let builder = TextModelBuilder::new(model_id).with_max_model_len(4096);
    if requests == 0 {
        let model = builder.with_threads(1).build().await?;
        streamed(&model, tokens).await?; // what is only done once
        println!("a stream {:.4} ms per token", streamed(&model, tokens).await?);
        return Ok(());
    }
    let model = builder.with_max_num_seqs(requests).build().await?;
    answer(&model, 0, 8).await?;
    batched(&model, requests, tokens).await
}

/// All answers one after the other, then all at the same time.
async fn batched(model: &Model, requests: usize, tokens: usize) -> Result<()> {
    let started = Instant::now();
    let mut one_by_one = Vec::new();
    for number in 0..requests {
        one_by_one.push(answer(model, number, tokens).await?);
    }
    let sequential = started.elapsed();

    let started = Instant::now();
    let tasks = (0..requests).map(|number| {
        let model = model.clone();
        tokio::spawn(async move { answer(&model, number, tokens).await })
    });
    let together = try_join_all(tasks).await?.into_iter().collect::<ostro::Result<Vec<_>>>()?;
    let concurrent = started.elapsed();
    anyhow::ensure!(together == one_by_one, "the answers differ");

    let rate = |time: Duration| requests as f64 * tokens as f64 / time.as_secs_f64();
    println!("{requests} requests of {tokens} tokens, equal answers");
    println!("one by one {:8.2} s {:7.1} tokens/s", sequential.as_secs_f64(), rate(sequential));
    println!("together   {:8.2} s {:7.1} tokens/s", concurrent.as_secs_f64(), rate(concurrent));
    println!("ratio      {:8.1} %", 100.0 * concurrent.as_secs_f64() / sequential.as_secs_f64());
    Ok(())
}

fn request(text: &str, tokens: usize) -> RequestBuilder {
    let request = RequestBuilder::new().add_message(TextMessageRole::User, text);
    request.set_sampler_max_len(tokens).set_sampler_ignore_eos(true)
}

async fn answer(model: &Model, number: usize, tokens: usize) -> ostro::Result<Option<String>> {
    let request = request(&format!("Story number {number}: once upon a time"), tokens);
    let response = model.send_chat_request(request).await?;
    Ok(response.choices.into_iter().next().and_then(|choice| choice.message.content))
}

/// Milliseconds of processor time per token of ten streams, one after the other.
async fn streamed(model: &Model, tokens: usize) -> Result<f64> {
    let started = processor_seconds()?;
    for _ in 0..10 {
        let mut stream = model.stream_chat_request(request("Once upon a time", tokens)).await?;
        while let Some(response) = stream.next().await {
            response.into_chunk()?;
        }
    }
    Ok((processor_seconds()? - started) * 1000.0 / (10 * tokens) as f64)
}

/// Of all threads of this process; Linux only.
fn processor_seconds() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let schedule = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += schedule.split(' ').next().context("no time")?.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}
