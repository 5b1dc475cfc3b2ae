//! A fault inside the engine reaches the one who asked, and nobody else has to suffer.
//!
//! A program of its own: the fault is put into the interpreter, where all models of a program live.

use ostro::{Error, MultimodalModelBuilder, RequestBuilder, Response, TextMessageRole};
use pyo3::prelude::*;

fn run(code: &std::ffi::CStr) {
    Python::attach(|py| py.run(code, None, None)).expect("the code runs");
}

fn ask() -> RequestBuilder {
    RequestBuilder::new().add_message(TextMessageRole::User, "What is two plus two?")
}

#[tokio::test]
async fn faults_of_the_engine() {
    let model = MultimodalModelBuilder::new("ostro-demo-vision").build().await.unwrap();
    let sound = model.send_chat_request(ask()).await.unwrap();
    run(c"import ostro.engine.sampler as module
module.sound = module.Sampler.sample
def broken(self, logits, states):
    raise RuntimeError('a broken wire')
module.Sampler.sample = broken");

    let error = model.send_chat_request(ask()).await.unwrap_err();
    assert!(matches!(&error, Error::Inference(failure) if failure.exception == "EngineError"), "{error:?}");
    assert!(error.to_string().contains("RuntimeError: a broken wire"), "{error}");
    assert_eq!(error.status(), 500);

    let mut stream = model.stream_chat_request(ask()).await.unwrap();
    let Some(Response::InternalError(error)) = stream.next().await else { panic!("no error") };
    let error = error.downcast::<Error>().unwrap();
    assert!(error.to_string().contains("RuntimeError: a broken wire"), "{error}");
    assert!(stream.next().await.is_none());

    run(c"import ostro.engine.sampler as module
module.Sampler.sample = module.sound");
    assert_eq!(model.send_chat_request(ask()).await.unwrap().choices, sound.choices);
}
