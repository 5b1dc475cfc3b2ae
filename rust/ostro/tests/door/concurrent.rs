//! Many requests at the same time.

use futures::future::join_all;
use ostro::{Model, RequestBuilder, TextMessageRole};

use crate::models::{alone, demo, picture};

const REQUESTS: usize = 32;

fn request(number: usize) -> RequestBuilder {
    RequestBuilder::new()
        .add_message(TextMessageRole::User, format!("Story number {number}: once upon a time"))
        .set_sampler_max_len(12)
        .set_sampler_ignore_eos(true)
}

async fn answer(model: &Model, number: usize) -> String {
    let response = model.send_chat_request(request(number)).await.unwrap();
    response.choices[0].message.content.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_one_after_the_other_in_far_fewer_steps() {
    let (_turn, model) = alone().await;
    let start = model.stats().await.unwrap().steps;
    let mut one_by_one = Vec::new();
    for number in 0..REQUESTS {
        one_by_one.push(answer(&model, number).await);
    }
    let between = model.stats().await.unwrap().steps;
    let tasks = (0..REQUESTS).map(|number| {
        let model = model.clone();
        tokio::spawn(async move { answer(&model, number).await })
    });
    let together: Vec<_> = join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    let end = model.stats().await.unwrap().steps;

    assert_eq!(together, one_by_one);
    let (alone, batched) = (between - start, end - between);
    assert!(batched * 100 < alone * 45, "{batched} steps together, {alone} one by one");
}

#[tokio::test(flavor = "current_thread")]
async fn the_runtime_goes_on_while_requests_are_prepared() {
    let model = demo();
    let ask = || {
        let request = RequestBuilder::new().add_image_message(TextMessageRole::User, "What is this?", picture());
        model.send_chat_request(request)
    };
    let mut turns = 0;
    let answers = {
        let mut all = std::pin::pin!(join_all((0..8).map(|_| ask())));
        loop {
            // One worker thread serves this loop, eight requests with images and their events.
            tokio::select! {
                biased;
                answers = &mut all => break answers,
                () = tokio::time::sleep(std::time::Duration::from_millis(1)) => turns += 1,
            }
        }
    };
    assert!(turns > 5, "{turns}");
    let first = answers[0].as_ref().unwrap().choices.clone();
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().choices == first));
}
