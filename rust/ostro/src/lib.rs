#![doc = include_str!("../README.md")]
#![allow(clippy::needless_pass_by_value, reason = "`impl ToString` and owned arguments, as in mistral.rs")]

pub mod blocking;
pub mod error;

mod builders;
mod choices;
mod conversation;
mod door;
mod images;
mod interpreter;
mod isq;
mod messages;
mod model;
mod request;
mod response;
mod sampling;
mod stream;
mod tools;
mod value;

pub use builders::{GgufModelBuilder, MultimodalModelBuilder, TextModelBuilder, VisionModelBuilder};
pub use choices::{ModelDType, MultimodalLoaderType, TokenSource, Topology, VisionLoaderType};
pub use error::{Error, Failure, Result};
pub use images::Images;
pub use isq::{IsqBits, IsqName, IsqType};
pub use messages::{MultimodalMessages, TextMessageRole, TextMessages, TokenizeInput, VisionMessages};
pub use model::{EngineStats, Model};
pub use request::{RequestBuilder, RequestLike};
pub use response::{
    CalledFunction, ChatCompletionChunkResponse, ChatCompletionResponse, Choice, ChunkChoice, Delta, Logprobs,
    ResponseLogprob, ResponseMessage, ToolCallResponse, ToolCallType, TopLogprob, Usage,
};
pub use sampling::{DrySamplingParams, SamplingParams, StopTokens};
pub use stream::{Response, Stream};
pub use tools::{Constraint, Function, Tool, ToolChoice, ToolType};
