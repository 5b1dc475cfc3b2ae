//! Texts to ids and back.

use either::Either;
use ostro::{Error, MultimodalMessages, RequestBuilder, TextMessageRole, TextMessages};

use crate::models::{demo, gguf, picture, python, real};

#[tokio::test]
async fn a_text_and_its_ids() {
    let model = real();
    let text = "Grüße, <start_of_turn>world!";
    let ids = model.tokenize(text, None, true, true, None).await.unwrap();
    let program = format!(
        "from ostro import Runner\nwith Runner({:?}, context_length=64) as runner: print(runner.tokenize_text({text:?}))",
        gguf()
    );
    assert_eq!(format!("{ids:?}"), python(&program));
    assert_eq!(model.tokenize(text.to_owned(), None, false, true, None).await.unwrap(), ids[1..]);
    assert_eq!(model.detokenize(ids.clone(), false).await.unwrap(), format!("<bos>{text}"));
    assert_eq!(model.detokenize(ids, true).await.unwrap(), "Grüße, world!");
}

#[tokio::test]
async fn messages_have_the_template_around_them() {
    let model = real();
    let messages = TextMessages::new().add_message(TextMessageRole::User, "Hello");
    let ids = model.tokenize(Either::Left(messages.clone()), None, true, true, None).await.unwrap();
    let text = model.detokenize(ids.clone(), false).await.unwrap();
    assert_eq!(text, "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n");
    assert_eq!(model.tokenize(messages, None, false, true, None).await.unwrap(), ids[1..]);
}

#[tokio::test]
async fn an_image_is_a_run_of_soft_tokens() {
    let model = demo();
    let ask = |images: Vec<image::DynamicImage>| {
        MultimodalMessages::new().add_image_message(TextMessageRole::User, "What?", images)
    };
    let one = model.tokenize(ask(vec![picture()]), None, true, true, None).await.unwrap();
    let two = model.tokenize(ask(vec![picture(), picture()]), None, true, true, None).await.unwrap();
    let longest_run = one.chunk_by(|a, b| a == b).map(<[u32]>::len).max().unwrap();
    assert!(longest_run >= 4 && two.len() >= one.len() + longest_run, "{longest_run} {} {}", one.len(), two.len());
}

#[tokio::test]
async fn raw_logits_are_those_that_the_first_token_is_chosen_by() {
    let model = real();
    let request = || RequestBuilder::new().add_message(TextMessageRole::User, "The capital of France is");
    let (chunks, ids) = model.send_raw_chat_request(request()).await.unwrap();
    let ask = Either::Left(TextMessages::new().add_message(TextMessageRole::User, "The capital of France is"));
    assert_eq!(ids, model.tokenize(ask, None, true, true, None).await.unwrap());
    assert_eq!(chunks.len(), 1);
    let row = &chunks[0];
    assert_eq!(row.len(), 262_144);

    let wanted = request().set_sampler_max_len(1).return_logprobs(true).set_sampler_ignore_eos(true);
    let response = model.send_chat_request(wanted).await.unwrap();
    let first = response.choices[0].logprobs.as_ref().unwrap().content.as_ref().unwrap()[0].clone();
    let (best, largest) = row.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    assert!((f64::from(first.logprob) + sum.ln()).abs() < 1e-4, "{first:?} {sum}");
    assert_eq!(model.detokenize(vec![u32::try_from(best).unwrap()], false).await.unwrap(), first.token);
}

#[tokio::test]
async fn what_is_not_offered_is_said() {
    let messages = || TextMessages::new().add_message(TextMessageRole::User, "Hello");
    for (error, wanted) in [
        (real().tokenize(messages(), None, true, false, None).await.unwrap_err(), "assistant"),
        (real().tokenize(messages(), None, true, true, Some(true)).await.unwrap_err(), "thinking"),
        (real().detokenize(vec![1, u32::MAX], true).await.unwrap_err(), "tokens[1] must be an id below"),
    ] {
        assert!(matches!(error, Error::RequestValidation(_)) && error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn the_context_has_an_end() {
    assert_eq!(real().max_sequence_length().unwrap(), Some(2048));
    assert_eq!(real().list_models().unwrap(), [real().name()]);
}
