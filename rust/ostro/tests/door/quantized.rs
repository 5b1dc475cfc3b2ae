//! Quantization while loading and at run time.

use ostro::{IsqBits, IsqType, Model, MultimodalModelBuilder, RequestBuilder, TextMessageRole};

use crate::models::{DEMO, demo, picture};

async fn describe(model: &Model) -> String {
    let request = RequestBuilder::new().add_image_message(TextMessageRole::User, "What is this?", picture());
    model.send_chat_request(request).await.unwrap().choices[0].message.content.clone().unwrap()
}

#[tokio::test]
async fn a_quantized_model_sees_the_same() {
    let plain = describe(&demo()).await;
    let builder = || MultimodalModelBuilder::new(DEMO);
    let cache = std::env::temp_dir().join(format!("ostro-rust-isq-{}", std::process::id()));
    for builder in [
        builder().with_isq(IsqType::Q8_0),
        builder().with_auto_isq(IsqBits::Eight).with_isq_vision(false),
        builder().with_isq("q8-0").with_isq_cache(cache.clone()),
    ] {
        let model = builder.build().await.unwrap();
        assert_eq!(describe(&model).await, plain);
    }
    assert!(cache.is_dir());
    std::fs::remove_dir_all(cache).unwrap();
}

#[tokio::test]
async fn a_topology_names_layers() {
    let path = std::env::temp_dir().join(format!("ostro-topology-{}.yaml", std::process::id()));
    std::fs::write(&path, "0-1:\n  isq: Q8_0\n").unwrap();
    let model = MultimodalModelBuilder::new(DEMO).with_topology_from_path(&path).unwrap().build().await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(describe(&model.unwrap()).await, describe(&demo()).await);
    let error = MultimodalModelBuilder::new(DEMO).with_topology_from_path(&path).unwrap_err();
    assert!(error.to_string().starts_with("there is no topology file"), "{error}");
}

#[tokio::test]
async fn a_model_is_quantized_while_it_answers() {
    let model = MultimodalModelBuilder::new(DEMO).build().await.unwrap();
    let plain = describe(&model).await;
    let (changed, meanwhile) = futures::join!(model.re_isq_model(IsqType::Q8_0), describe(&model));
    changed.unwrap();
    assert_eq!(meanwhile, plain);
    assert_eq!(describe(&model).await, plain);
}
