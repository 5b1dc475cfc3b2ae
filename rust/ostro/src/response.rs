//! What the model answers, in mistral.rs's classes and OpenAI's spelling: `serde` makes the wire's JSON of them.

use serde::{Deserialize, Serialize};

/// The whole answer to a chat request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChatCompletionResponse {
    /// `chatcmpl-...`.
    pub id: String,
    /// One entry for each answer that was asked for.
    pub choices: Vec<Choice>,
    /// Unix time in seconds.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Always `local`.
    pub system_fingerprint: String,
    /// Always `chat.completion`.
    pub object: String,
    /// Counts and speeds.
    pub usage: Usage,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Choice {
    /// `stop`, `length` or `canceled`.
    pub finish_reason: String,
    /// Its place among the choices.
    pub index: usize,
    /// What was said.
    pub message: ResponseMessage,
    /// Of every token, if asked for.
    pub logprobs: Option<Logprobs>,
}

/// The assistant's turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResponseMessage {
    /// The text.
    pub content: Option<String>,
    /// Always `assistant`.
    pub role: String,
    /// Tools that the model calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallResponse>>,
    /// Thoughts, of models that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChatCompletionChunkResponse {
    /// The same in all chunks of an answer.
    pub id: String,
    /// The choices that go on.
    pub choices: Vec<ChunkChoice>,
    /// Unix time in seconds, at the start of the answer.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Always `local`.
    pub system_fingerprint: String,
    /// Always `chat.completion.chunk`.
    pub object: String,
    /// In the last chunk only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What a chunk adds to one of the answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChunkChoice {
    /// Set in an answer's last chunk.
    pub finish_reason: Option<String>,
    /// Which of the answers.
    pub index: usize,
    /// What is added.
    pub delta: Delta,
    /// Of the added tokens, if asked for.
    pub logprobs: Option<Logprobs>,
}

/// What is added to the assistant's turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Delta {
    /// Text; empty where nothing but the end is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// `assistant`, in every chunk.
    #[serde(default)]
    pub role: String,
    /// Tools that the model calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallResponse>>,
    /// Thoughts, of models that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

/// Counts in tokens, speeds in tokens per second (0 over no time), durations in seconds.
///
/// Answers to one request run side by side: counts are sums (the prompt once), durations the longest's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Generated tokens.
    pub completion_tokens: usize,
    /// Tokens of the prompt, image tokens among them.
    pub prompt_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// All tokens over the whole time.
    pub avg_tok_per_sec: f32,
    /// Prompt tokens over the time to the first token.
    pub avg_prompt_tok_per_sec: f32,
    /// Generated tokens over the time from there.
    pub avg_compl_tok_per_sec: f32,
    /// From the start of the computation to its end.
    pub total_time_sec: f32,
    /// To the first token.
    pub total_prompt_time_sec: f32,
    /// From there.
    pub total_completion_time_sec: f32,
}

/// Log-probabilities, token by token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Logprobs {
    /// One entry per token.
    pub content: Option<Vec<ResponseLogprob>>,
}

/// A token, the natural logarithm of its probability, and the likeliest alternatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ResponseLogprob {
    /// Its text; bytes that are no whole character show as U+FFFD.
    pub token: String,
    /// After penalties and temperature, before top-k, top-p and min-p.
    pub logprob: f32,
    /// Its text's bytes.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that might have been chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// As in [`ResponseLogprob`].
    pub logprob: f32,
    /// Its text's bytes.
    pub bytes: Option<Vec<u8>>,
}

/// A call of a tool; also what a request says about earlier calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallResponse {
    /// Its place among the calls.
    pub index: usize,
    /// To be named by the tool's answer.
    pub id: String,
    /// `type` on the wire.
    #[serde(rename = "type")]
    pub tp: ToolCallType,
    /// What is called.
    pub function: CalledFunction,
}

/// The only kind of tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolCallType {
    /// A function.
    Function,
}

/// Name and arguments of a called function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalledFunction {
    /// Its name.
    pub name: String,
    /// JSON.
    pub arguments: String,
}
