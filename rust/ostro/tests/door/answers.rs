//! Whole answers: the same as Python gives.

use ostro::blocking::BlockingModel;
use ostro::{
    MultimodalMessages, RequestBuilder, SamplingParams, StopTokens, TextMessageRole, TextMessages, VisionLoaderType,
    VisionMessages, VisionModelBuilder,
};
use serde_json::{Value, json};

use crate::models::{DEMO, demo, gguf, picture, picture_path, python, real};

const QUESTION: &str = "What is depicted here? Please describe the scene in detail.";

/// Content and counts of Python's answer, to a request with these arguments (Python text).
fn in_python(model: &str, arguments: &str) -> Value {
    let program = format!(
        "from ostro import ChatCompletionRequest, Runner\n\
         with Runner({model:?}, context_length=2048) as runner:\n\
         \x20   print(runner.send_chat_completion_request(ChatCompletionRequest({arguments})).model_dump_json())"
    );
    let mut answer: Value = serde_json::from_str(&python(&program)).unwrap();
    for name in ["id", "created", "usage"] {
        answer.as_object_mut().unwrap().remove(name);
    }
    answer
}

fn comparable(response: &ostro::ChatCompletionResponse) -> Value {
    let mut answer = serde_json::to_value(response).unwrap();
    for name in ["id", "created", "usage"] {
        answer.as_object_mut().unwrap().remove(name);
    }
    answer
}

#[tokio::test]
async fn an_image_is_described_as_python_describes_the_file() {
    let model = demo();
    let messages = VisionMessages::new().add_image_message(TextMessageRole::User, QUESTION, picture(), &model).unwrap();
    let response = model.send_chat_request(messages).await.unwrap();

    let content = response.choices[0].message.content.as_ref().unwrap();
    assert!(content.starts_with("A large pink star ") && content.ends_with("on a black background."), "{content}");
    let usage = &response.usage;
    assert!(usage.prompt_tokens > 16 && usage.completion_tokens > 10, "{usage:?}");
    assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    assert!(usage.avg_prompt_tok_per_sec > 0.0 && usage.avg_compl_tok_per_sec > 0.0, "{usage:?}");

    let path = picture_path();
    let parts = format!(
        "messages=[{{'role': 'user', 'content': [{{'type': 'image', 'path': {path:?}}}, \
         {{'type': 'text', 'text': {QUESTION:?}}}]}}], temperature=0"
    );
    assert_eq!(comparable(&response), in_python(DEMO, &parts));
}

#[tokio::test]
async fn every_form_of_messages_and_builders_gives_the_same() {
    let model = VisionModelBuilder::new(DEMO, VisionLoaderType::Gemma3).build().await.unwrap();
    let none = VisionModelBuilder::new(DEMO, None).with_max_num_seqs(2).build().await.unwrap();
    let user = || TextMessageRole::User;
    let requests = [
        RequestBuilder::from(
            VisionMessages::new().add_image_message(user(), QUESTION, vec![picture()], &model).unwrap(),
        ),
        MultimodalMessages::new().add_image_message(user(), QUESTION, picture()).into(),
        RequestBuilder::new().add_image_message(user(), QUESTION, picture().into_rgb8()),
    ];
    let mut answers = Vec::new();
    for request in requests {
        answers.push(model.send_chat_request(request.clone()).await.unwrap().choices);
        answers.push(none.send_chat_request(request).await.unwrap().choices);
    }
    assert!(answers.iter().all(|choices| *choices == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn several_images_are_seen_in_their_order() {
    let model = demo();
    let black = image::DynamicImage::new_rgb8(64, 64);
    let ask = async |images: Vec<image::DynamicImage>| {
        let messages = MultimodalMessages::new().add_image_message(TextMessageRole::User, QUESTION, images);
        let response = model.send_chat_request(messages).await.unwrap();
        (response.usage.prompt_tokens, response.choices[0].message.content.clone())
    };
    let one = ask(vec![picture()]).await;
    let two = ask(vec![picture(), black.clone()]).await;
    let turned = ask(vec![black, picture()]).await;
    assert!(two.0 > one.0 && two.0 == turned.0, "{one:?} {two:?}");
    assert_ne!(two.1, turned.1);
}

#[tokio::test]
async fn a_real_model_answers_as_in_python() {
    let request = RequestBuilder::new()
        .add_message(TextMessageRole::System, "Be brief.")
        .add_message(TextMessageRole::User, "Once upon a time")
        .return_logprobs(true)
        .set_sampler_topn_logprobs(2)
        .set_sampler_max_len(12)
        .set_sampler_temperature(0.8)
        .set_sampler_topk(20)
        .set_sampler_topp(0.9)
        .set_sampler_minp(0.01)
        .set_sampler_frequency_penalty(0.5)
        .set_sampler_presence_penalty(0.25)
        .set_sampler_repetition_penalty(1.5)
        .set_sampler_logits_bias([(107, -2.0)].into())
        .set_sampler_dry_params(ostro::DrySamplingParams::new_with_defaults(0.5, None, None, None).unwrap())
        .set_sampler_seed(7)
        .set_sampler_n_choices(2)
        .set_sampler_ignore_eos(true);
    let response = real().send_chat_request(request).await.unwrap();
    assert_eq!(response.choices.len(), 2);
    assert_eq!(response.choices[0].finish_reason, "length");
    let wanted = in_python(
        gguf(),
        "messages=[{'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': 'Once upon a time'}], \
         logprobs=True, top_logprobs=2, max_tokens=12, temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, \
         frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=1.5, logit_bias={107: -2.0}, \
         dry_multiplier=0.5, seed=7, n_choices=2, ignore_eos=True",
    );
    let told = comparable(&response);
    // Python's numbers have twice the digits.
    let texts = |answer: &Value| {
        let choices = answer["choices"].as_array().unwrap().iter();
        choices.map(|choice| (choice["message"].clone(), tokens(choice))).collect::<Vec<_>>()
    };
    assert_eq!(texts(&told), texts(&wanted));
    let first = |answer: &Value| answer["choices"][0]["logprobs"]["content"][0]["logprob"].as_f64().unwrap();
    assert!((first(&told) - first(&wanted)).abs() < 1e-5);
}

fn tokens(choice: &Value) -> Vec<(Value, Value, usize)> {
    let content = choice["logprobs"]["content"].as_array().unwrap().iter();
    content
        .map(|token| (token["token"].clone(), token["bytes"].clone(), token["top_logprobs"].as_array().unwrap().len()))
        .collect()
}

#[tokio::test]
async fn greedy_unless_told_otherwise() {
    let model = real();
    let ask = async |request: RequestBuilder| {
        model.send_chat_request(request.set_sampler_max_len(8)).await.unwrap().choices[0].message.content.clone()
    };
    let base = || RequestBuilder::from(TextMessages::new().add_message(TextMessageRole::User, "The sea is"));
    let greedy = ask(base().set_sampling(SamplingParams::deterministic())).await;
    assert_eq!(ask(base()).await, greedy);
    assert_eq!(ask(base().set_sampler_frequency_penalty(0.0)).await, greedy);
    assert_eq!(ask(base().set_deterministic_sampler()).await, greedy);
    let sampled = base().set_sampler_temperature(2.0).set_sampler_topp(1.0);
    assert_eq!(ask(sampled.clone().set_sampler_seed(3)).await, ask(sampled.clone().set_sampler_seed(3)).await);
    assert_ne!(ask(sampled.set_sampler_seed(3)).await, greedy);
}

#[tokio::test]
async fn stop_texts_end_the_answer() {
    let model = demo();
    let request = RequestBuilder::new().add_image_message(TextMessageRole::User, QUESTION, picture());
    let whole = model.send_chat_request(request.clone()).await.unwrap();
    let stopped = request.set_sampler_stop_toks(StopTokens::Seqs(vec!["star".into()]));
    let stopped = model.send_chat_request(stopped).await.unwrap();
    assert_eq!(stopped.choices[0].finish_reason, "stop");
    let (head, _) = whole.choices[0].message.content.as_ref().unwrap().split_once("star").unwrap();
    assert_eq!(stopped.choices[0].message.content.as_deref(), Some(head));
}

#[test]
fn a_program_without_a_runtime_waits_instead() {
    let model = BlockingModel::new(demo());
    let request = RequestBuilder::new().add_image_message(TextMessageRole::User, QUESTION, picture());
    let whole = model.send_chat_request(request.clone()).unwrap().choices[0].message.content.clone().unwrap();
    let chunks = model.stream_chat_request(request).unwrap();
    let pieces = chunks.map(|piece| piece.into_chunk().unwrap().choices[0].delta.content.clone().unwrap());
    assert_eq!(pieces.collect::<String>(), whole);
    assert!(!model.chat("What is two plus two?").unwrap().is_empty());
}

#[tokio::test]
async fn responses_are_the_json_of_the_wire() {
    let response =
        demo().send_chat_request(TextMessages::new().add_message(TextMessageRole::User, "Hi")).await.unwrap();
    let json = serde_json::to_value(&response).unwrap();
    assert_eq!(json["object"], json!("chat.completion"));
    assert_eq!(json["choices"][0]["message"]["role"], json!("assistant"));
    assert_eq!(serde_json::from_value::<ostro::ChatCompletionResponse>(json).unwrap(), response);
}
