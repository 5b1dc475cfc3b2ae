//! Answers piece by piece, and what dropping them does.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::StreamExt;
use ostro::{EngineStats, Model, RequestBuilder, Response, TextMessageRole};

use crate::models::{alone, demo, picture, real};

fn long() -> RequestBuilder {
    let request = RequestBuilder::new().add_message(TextMessageRole::User, "Tell me everything.");
    request.set_sampler_max_len(1500).set_sampler_ignore_eos(true)
}

#[tokio::test]
async fn the_pieces_are_the_answer() {
    let model = demo();
    let request = RequestBuilder::new().add_image_message(TextMessageRole::User, "What is this?", picture());
    let whole = model.send_chat_request(request.clone()).await.unwrap();
    let stream = model.stream_chat_request(request).await.unwrap();
    let chunks: Vec<_> = StreamExt::map(stream, |piece| piece.into_chunk().unwrap()).collect().await;

    let texts = chunks.iter().map(|chunk| chunk.choices[0].delta.content.clone().unwrap());
    assert_eq!(Some(texts.collect::<String>()), whole.choices[0].message.content);
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.len() > 5);
    assert!(others.iter().all(|chunk| chunk.usage.is_none() && chunk.choices[0].finish_reason.is_none()));
    assert!(chunks.iter().all(|chunk| chunk.id == last.id && chunk.choices[0].delta.role == "assistant"));
    assert!(chunks.iter().all(|chunk| chunk.object == "chat.completion.chunk" && chunk.model == model.name()));
    assert_eq!(last.choices[0].finish_reason.as_deref(), Some("stop"));
    let usage = last.usage.as_ref().unwrap();
    assert_eq!(usage.completion_tokens, whole.usage.completion_tokens);
    assert_eq!(usage.prompt_tokens, whole.usage.prompt_tokens);
}

#[tokio::test]
async fn choices_and_log_probabilities_are_streamed_too() {
    let request = RequestBuilder::new()
        .add_message(TextMessageRole::User, "The sea is")
        .set_sampler_n_choices(2)
        .set_sampler_max_len(5)
        .set_sampler_ignore_eos(true)
        .return_logprobs(true);
    let mut stream = real().stream_chat_request(request).await.unwrap();
    let (mut tokens, mut usages, mut ends) = ([0, 0], 0, Vec::new());
    while let Some(piece) = stream.next().await {
        let chunk = piece.into_chunk().unwrap();
        for choice in &chunk.choices {
            let content = choice.logprobs.as_ref().and_then(|logprobs| logprobs.content.as_ref());
            tokens[choice.index] += content.map_or(0, Vec::len);
            ends.extend(choice.finish_reason.clone());
        }
        usages += usize::from(chunk.usage.is_some());
    }
    assert_eq!(tokens, [5, 5]);
    assert_eq!(ends, ["length", "length"]);
    assert_eq!(usages, 1);
}

#[tokio::test]
async fn dropping_a_stream_frees_its_sequence_within_a_step() {
    let (_turn, model) = alone().await;
    let before = settled(&model, 0).await;
    let mut stays = model.stream_chat_request(long()).await.unwrap();
    let mut goes = model.stream_chat_request(long()).await.unwrap();
    for stream in [&mut stays, &mut goes] {
        assert!(matches!(stream.next().await, Some(Response::Chunk(_))));
    }
    assert_eq!(model.stats().await.unwrap().running, before.running + 2);
    drop(goes);
    freed_within_a_step(&model, 1).await;
    // The neighbour goes on as if nothing had happened.
    assert!(matches!(stays.next().await, Some(Response::Chunk(_))));
    drop(stays);
    settled(&model, 0).await;
}

#[tokio::test]
async fn dropping_a_future_frees_its_sequence_within_a_step() {
    let (_turn, model) = alone().await;
    settled(&model, 0).await;
    let stays = model.stream_chat_request(long()).await.unwrap();
    {
        let mut goes = pin!(model.send_chat_request(long()));
        while model.stats().await.unwrap().running < 2 {
            assert!(futures::poll!(&mut goes).is_pending());
        }
    }
    freed_within_a_step(&model, 1).await;
    drop(stays);
    settled(&model, 0).await;
}

#[tokio::test]
async fn dropping_a_future_that_has_not_begun_leaves_nothing() {
    let (_turn, model) = alone().await;
    let tokens = settled(&model, 0).await.completion_tokens;
    for _ in 0..20 {
        let mut request = pin!(model.send_chat_request(long()));
        let poll = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll, Poll::Pending));
    }
    let stats = settled(&model, 0).await;
    assert!(stats.completion_tokens < tokens + 100, "{stats:?}");
}

#[tokio::test]
async fn a_dropped_model_answers_its_streams_to_the_end() {
    let model = ostro::MultimodalModelBuilder::new(crate::models::DEMO).build().await.unwrap();
    let request = RequestBuilder::new().add_image_message(TextMessageRole::User, "What is this?", picture());
    let stream = model.stream_chat_request(request).await.unwrap();
    drop(model);
    let last =
        StreamExt::map(stream, |piece| piece.into_chunk().unwrap()).fold(None, async |_, chunk| Some(chunk)).await;
    assert_eq!(last.unwrap().choices[0].finish_reason.as_deref(), Some("stop"));
}

/// After the drop, whose cancellation stands before this question in the door's line: the step that may run at that
/// moment is the last with more than `left` sequences.
async fn freed_within_a_step(model: &Model, left: usize) {
    let asked = model.stats().await.unwrap();
    loop {
        let stats = model.stats().await.unwrap();
        if stats.steps > asked.steps + 1 {
            assert_eq!(stats.running, left, "{asked:?} {stats:?}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Wait until so many sequences run.
async fn settled(model: &Model, running: usize) -> EngineStats {
    for _ in 0..10_000 {
        let stats = model.stats().await.unwrap();
        if stats.running == running && stats.waiting == 0 {
            return stats;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("sequences are left over: {:?}", model.stats().await);
}
