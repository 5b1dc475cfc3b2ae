//! What goes wrong has a kind, the engine's own text, and its status and code.

use image::DynamicImage;
use ostro::{
    Constraint, Error, Function, GgufModelBuilder, IsqType, ModelDType, MultimodalMessages, MultimodalModelBuilder,
    RequestBuilder, StopTokens, TextMessageRole, TextMessages, TextModelBuilder, TokenSource, Tool, ToolChoice,
    ToolType, VisionMessages,
};
use serde_json::json;

use crate::models::{DEMO, demo, picture, python, real};

fn of_build(result: anyhow::Result<ostro::Model>) -> Error {
    result.unwrap_err().downcast::<Error>().expect("build fails with an ostro::Error")
}

fn ask() -> RequestBuilder {
    RequestBuilder::new().add_message(TextMessageRole::User, "Hello")
}

/// Kind, exception, status, code and a part of the text.
#[track_caller]
fn refused(error: &Error, exception: &str, status: u16, code: &str, text: &str) {
    let Error::RequestValidation(failure) = error else { panic!("{error:?}") };
    assert_eq!((failure.exception.as_str(), error.status(), error.code()), (exception, status, Some(code)), "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

#[tokio::test]
async fn bad_model_ids() {
    let error = of_build(TextModelBuilder::new("/no/such/folder").build().await);
    assert!(matches!(&error, Error::ModelLoad(failure) if failure.exception == "ModelNotFound"), "{error:?}");
    assert!(error.to_string().contains("/no/such/folder"), "{error}");

    let error = of_build(GgufModelBuilder::new("/no/such/folder", vec!["model.gguf"]).build().await);
    assert!(matches!(&error, Error::ModelLoad(failure) if failure.exception == "ModelNotFound"), "{error:?}");

    let broken = std::env::temp_dir().join(format!("ostro-broken-{}.gguf", std::process::id()));
    std::fs::write(&broken, b"GGUF\x03\0\0\0 and nothing that makes sense").unwrap();
    let error = of_build(TextModelBuilder::new(broken.display()).build().await);
    std::fs::remove_file(&broken).unwrap();
    assert!(matches!(&error, Error::ModelLoad(failure) if failure.exception == "CorruptFile"), "{error:?}");
    assert_eq!(error.status(), 500);

    refused(&of_build(TextModelBuilder::new("").build().await), "InvalidParameter", 400, "invalid_value", "model_id");
}

#[tokio::test]
async fn bad_isq_names() {
    let error = of_build(MultimodalModelBuilder::new(DEMO).with_isq("q9k").build().await);
    refused(&error, "InvalidParameter", 400, "invalid_value", "in_situ_quant: unknown type 'q9k'; known are 2, 3, 4");
    for format in IsqType::ALL {
        assert!(error.to_string().contains(format.name()), "{format} in {error}");
    }
}

#[test]
fn names_of_number_formats_are_those_of_python() {
    let named = |names: Vec<String>| names.join(" ");
    let all = named(IsqType::ALL.iter().map(ToString::to_string).collect());
    assert_eq!(all, python("from ostro import IsqType; print(*(member.value for member in IsqType))"));
}

#[tokio::test]
async fn bad_arguments() {
    let build = async |builder: MultimodalModelBuilder| of_build(builder.build().await);
    let demo = || MultimodalModelBuilder::new(DEMO);
    refused(&build(demo().with_max_num_seqs(0)).await, "InvalidParameter", 400, "invalid_value", "max_seqs");
    refused(&build(demo().with_compute("f64")).await, "InvalidParameter", 400, "invalid_value", "compute must be");
    refused(&build(demo().with_kv_dtype("f64")).await, "InvalidParameter", 400, "invalid_value", "kv_dtype must be");
    let token = TokenSource::EnvVar("OSTRO_NO_SUCH_VARIABLE".into());
    let error = build(MultimodalModelBuilder::new("nobody/such-model").with_token_source(token)).await;
    assert!(matches!(&error, Error::ModelLoad(failure) if failure.exception == "HubError"), "{error:?}");
    assert_eq!(error.to_string(), "token_source: the environment variable 'OSTRO_NO_SUCH_VARIABLE' holds no token");
    // A builder's other methods reach the package under names that it knows.
    let model = demo()
        .with_dtype(ModelDType::BF16)
        .with_logging()
        .with_prefix_cache_n(None)
        .with_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
        .with_token_source(TokenSource::None)
        .with_hf_revision("main")
        .from_hf_cache_path(std::env::temp_dir())
        .with_max_model_len(300)
        .with_prompt_chunksize(64.try_into().unwrap())
        .with_force_cpu()
        .with_threads(1)
        .with_seed(5)
        .with_compute("int8")
        .with_kv_dtype("int8")
        .with_kv_bytes(1 << 26)
        .with_max_waiting(3)
        .with_max_edge(896)
        .with_encoder_cache_memory_bytes(1 << 20)
        .with_pan_and_scan(true)
        .build()
        .await
        .unwrap();
    assert_eq!(model.max_sequence_length().unwrap(), Some(300));
}

#[tokio::test]
async fn bad_images() {
    let model = demo();
    let show = async |image: DynamicImage| {
        let messages = MultimodalMessages::new().add_image_message(TextMessageRole::User, "What?", image);
        model.send_chat_request(messages).await.unwrap_err()
    };
    let error = show(DynamicImage::new_rgb8(0, 0)).await;
    refused(&error, "BadImage", 400, "invalid_image", "messages[0].content[0].image: the image is 0 x 0 pixels");
    let error = show(DynamicImage::new_luma8(60_000, 3_000)).await;
    refused(&error, "ImageTooLarge", 413, "image_too_large", "the image is 60000 x 3000 pixels");

    let error =
        VisionMessages::new().add_image_message(TextMessageRole::User, "What?", picture(), &real()).unwrap_err();
    refused(&error, "UnsupportedField", 422, "unsupported_field", "reads text only");
    let messages = MultimodalMessages::new().add_image_message(TextMessageRole::User, "What?", picture());
    let error = real().send_chat_request(messages).await.unwrap_err();
    refused(&error, "UnsupportedField", 422, "unsupported_field", "this model reads text only");
}

#[tokio::test]
async fn bad_requests() {
    let model = real();
    let invalid = ("InvalidParameter", 400, "invalid_value");
    let unsupported = ("UnsupportedField", 422, "unsupported_field");
    let function = Function { description: None, name: "weather".into(), parameters: Some(json!({"type": "object"})) };
    let tool = Tool { tp: ToolType::Function, function };
    let cases = [
        (RequestBuilder::new(), invalid, "messages is empty"),
        (ask().set_sampler_temperature(-1.0), invalid, "temperature"),
        (ask().set_sampler_temperature(f64::NAN), invalid, "temperature"),
        (ask().set_sampler_topp(2.0), invalid, "top_p"),
        (ask().set_sampler_max_len(0), invalid, "max_tokens"),
        (ask().set_sampler_n_choices(0), invalid, "n_choices"),
        (ask().return_logprobs(true).set_sampler_topn_logprobs(99), invalid, "top_logprobs"),
        (ask().set_sampler_logits_bias([(u32::MAX, 1.0)].into()), invalid, "logit_bias"),
        (ask().add_message(TextMessageRole::Custom("judge".into()), "No"), invalid, "messages[1].role is 'judge'"),
        (ask().set_sampler_stop_toks(StopTokens::Ids(vec![1])), unsupported, "token ids as stops"),
        (ask().set_constraint(Constraint::Regex("a+".into())), unsupported, "grammar is not offered"),
        (ask().set_constraint(Constraint::JsonSchema(json!({}))), unsupported, "grammar is not offered"),
        (ask().set_tools(vec![tool.clone()]), unsupported, "tool_schemas is not offered"),
        (ask().set_tool_choice(ToolChoice::Tool(tool)), unsupported, "calls of tools (weather)"),
        (ask().enable_thinking(true), unsupported, "Gemma 3 has no thinking mode"),
        (ask().set_adapter("mine"), unsupported, "adapter is not offered"),
    ];
    for (request, (exception, status, code), text) in cases {
        let error = model.send_chat_request(request.clone()).await.unwrap_err();
        refused(&error, exception, status, code, text);
        let error = model.stream_chat_request(request).await.unwrap_err();
        refused(&error, exception, status, code, text);
    }
    let error = model.send_chat_request(TextMessages::new().enable_thinking(true)).await.unwrap_err();
    refused(&error, "UnsupportedField", 422, "unsupported_field", "thinking");
    let too_long = RequestBuilder::new().add_message(TextMessageRole::User, "word ".repeat(3000));
    let error = model.send_chat_request(too_long.clone()).await.unwrap_err();
    refused(&error, "PromptTooLong", 400, "context_length_exceeded", "limit 2,047");
    assert!(model.send_chat_request(too_long.with_truncate_sequence(true).set_sampler_max_len(1)).await.is_ok());
}

#[tokio::test]
async fn a_full_waiting_line() {
    let model = MultimodalModelBuilder::new(DEMO).with_max_num_seqs(1).with_max_waiting(0).build().await.unwrap();
    let error = model.send_chat_request(ask().set_sampler_n_choices(5)).await.unwrap_err();
    refused(&error, "Overloaded", 429, "overloaded", "try later");
}

#[tokio::test]
async fn cancelled_by_closing_the_model() {
    let model = TextModelBuilder::new(crate::models::gguf()).with_max_model_len(1024).build().await.unwrap();
    let long = || ask().set_sampler_max_len(1000).set_sampler_ignore_eos(true);
    let (other, request) = (model.clone(), long());
    let waiting = tokio::spawn(async move { other.send_chat_request(request).await });
    let mut stream = model.stream_chat_request(long()).await.unwrap();
    stream.next().await.unwrap().into_chunk().unwrap();
    while model.stats().await.unwrap().running < 2 {}
    model.close().await.unwrap();

    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the request was cancelled: the model was closed before the answer had ended");
    let Error::Cancelled { partial_response: Some(partial) } = error else { panic!("{error:?}") };
    assert_eq!(partial.choices[0].finish_reason, "canceled");

    let mut reason = None;
    while let Some(piece) = stream.next().await {
        reason = piece.into_chunk().unwrap().choices[0].finish_reason.clone();
    }
    assert_eq!(reason.as_deref(), Some("canceled"));

    let error = model.send_chat_request(ask()).await.unwrap_err();
    assert!(matches!(&error, Error::Inference(failure) if failure.message == "the engine is closed"), "{error:?}");
    model.close().await.unwrap();
}

#[tokio::test]
async fn bad_isq_names_at_run_time() {
    let error = demo().re_isq_model("q9k").await.unwrap_err();
    refused(&error, "InvalidParameter", 400, "invalid_value", "unknown type 'q9k'; known are 2, 3, 4");
}
