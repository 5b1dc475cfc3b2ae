//! The same for programs without a runtime: calls that wait.
//!
//! ```no_run
//! use ostro::MultimodalModelBuilder;
//! use ostro::blocking::BlockingModel;
//!
//! fn main() -> ostro::Result<()> {
//!     let model = BlockingModel::from_builder(MultimodalModelBuilder::new("ostro-demo-vision"))?;
//!     println!("{}", model.chat("What is two plus two?")?);
//!     Ok(())
//! }
//! ```

use pollster::block_on;

use crate::builders::Settings;
use crate::error::Result;
use crate::isq::IsqName;
use crate::model::Model;
use crate::request::RequestLike;
use crate::response::ChatCompletionResponse;
use crate::stream::{Response, Stream};

/// Any of the builders.
#[derive(Debug, Clone)]
pub struct AnyBuilder(pub(crate) Settings);

/// A [`Model`] whose methods block the calling thread. Threads may share it; do not call it from asynchronous code.
#[derive(Debug, Clone)]
pub struct BlockingModel(Model);

impl BlockingModel {
    /// Load the model that a builder describes.
    ///
    /// # Errors
    /// `Setup`, `ModelLoad` or, for the arguments, `RequestValidation`.
    pub fn from_builder(builder: impl Into<AnyBuilder>) -> Result<Self> {
        block_on(builder.into().0.load()).map(Self)
    }

    /// The model that is already loaded.
    #[must_use]
    pub fn new(model: Model) -> Self {
        Self(model)
    }

    /// For the methods that are not here, and for asynchronous code.
    #[must_use]
    pub fn inner(&self) -> &Model {
        &self.0
    }

    /// See [`Model::send_chat_request`].
    ///
    /// # Errors
    /// The same.
    pub fn send_chat_request<R: RequestLike>(&self, request: R) -> Result<ChatCompletionResponse> {
        block_on(self.0.send_chat_request(request))
    }

    /// See [`Model::stream_chat_request`].
    ///
    /// # Errors
    /// The same.
    pub fn stream_chat_request<R: RequestLike>(&self, request: R) -> Result<BlockingStream> {
        block_on(self.0.stream_chat_request(request)).map(BlockingStream)
    }

    /// See [`Model::chat`].
    ///
    /// # Errors
    /// The same.
    pub fn chat(&self, message: impl ToString) -> Result<String> {
        block_on(self.0.chat(message))
    }

    /// See [`Model::re_isq_model`].
    ///
    /// # Errors
    /// The same.
    pub fn re_isq_model(&self, isq: impl Into<IsqName>) -> Result<()> {
        block_on(self.0.re_isq_model(isq))
    }
}

/// An iterator over the pieces of an answer. Dropping it ends the generation.
#[derive(Debug)]
#[must_use = "dropping a stream cancels its request"]
pub struct BlockingStream(Stream);

impl Iterator for BlockingStream {
    type Item = Response;

    fn next(&mut self) -> Option<Response> {
        block_on(self.0.next())
    }
}
