//! The models and the picture that tests use. Loaded once; the tests of a program share them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use image::DynamicImage;
use ostro::blocking::BlockingModel;
use ostro::{Model, MultimodalModelBuilder, TextModelBuilder};

pub const DEMO: &str = "ostro-demo-vision";

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("this is a folder")
}

pub fn picture_path() -> PathBuf {
    repository().join("python/ostro/demo_model/picture.png")
}

pub fn picture() -> DynamicImage {
    image::open(picture_path()).expect("the picture is there")
}

/// What a Python program prints.
pub fn python(program: &str) -> String {
    let output = Command::new(env!("OSTRO_BUILD_PYTHON")).args(["-c", program]).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text").trim_end().to_owned()
}

/// The real 270m.
pub fn gguf() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| python("from ostro.cli.model import demo_file; print(demo_file())"))
}

/// The small vision model of the package.
pub fn demo() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| load(MultimodalModelBuilder::new(DEMO))).clone()
}

/// A real model.
pub fn real() -> Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| load(TextModelBuilder::new(gguf()).with_max_model_len(2048))).clone()
}

/// A real model that nobody else uses until the guard is dropped: its steps can be counted.
pub async fn alone() -> (tokio::sync::MutexGuard<'static, ()>, Model) {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    static MODEL: OnceLock<Model> = OnceLock::new();
    let turn = TURN.lock().await;
    (turn, MODEL.get_or_init(|| load(TextModelBuilder::new(gguf()).with_max_model_len(2048))).clone())
}

fn load(builder: impl Into<ostro::blocking::AnyBuilder>) -> Model {
    BlockingModel::from_builder(builder).expect("the model can be loaded").inner().clone()
}
