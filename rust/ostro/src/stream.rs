//! Answers piece by piece.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::conversation::{Conversation, News};
use crate::error::{Error, Result};
use crate::response::{ChatCompletionChunkResponse, ChatCompletionResponse, ChunkChoice, Delta};

/// What a stream brings.
#[derive(Debug)]
#[non_exhaustive]
pub enum Response {
    /// A piece of the answer.
    Chunk(ChatCompletionChunkResponse),
    /// The whole answer.
    Done(ChatCompletionResponse),
    /// The engine failed; the last that comes. An [`Error`], which `downcast` gets back.
    InternalError(Box<dyn std::error::Error + Send + Sync>),
    /// The request could not be served after all; the last that comes. An [`Error`], too.
    ValidationError(Box<dyn std::error::Error + Send + Sync>),
}

impl Response {
    /// Chunks as they are, errors as errors.
    ///
    /// # Errors
    /// That of the stream; [`Error::UnexpectedResponse`] for what is no chunk.
    pub fn into_chunk(self) -> Result<ChatCompletionChunkResponse> {
        match self {
            Self::Chunk(chunk) => Ok(chunk),
            Self::Done(_) => Err(Error::UnexpectedResponse("a whole answer instead of a chunk".into())),
            Self::InternalError(error) | Self::ValidationError(error) => {
                Err(error.downcast::<Error>().map_or_else(|other| Error::Panic(other.to_string()), |error| *error))
            }
        }
    }

    fn failed(error: Error) -> Self {
        if matches!(error, Error::RequestValidation(_)) {
            return Self::ValidationError(Box::new(error));
        }
        Self::InternalError(Box::new(error))
    }
}

/// The chunks of an answer while it is generated; a `futures::Stream`. Dropping it ends the generation.
///
/// ```no_run
/// # async fn example(model: ostro::Model) -> ostro::Result<()> {
/// use ostro::{Response, TextMessageRole, TextMessages};
///
/// let messages = TextMessages::new().add_message(TextMessageRole::User, "Tell me a story.");
/// let mut stream = model.stream_chat_request(messages).await?;
/// while let Some(response) = stream.next().await {
///     let chunk = response.into_chunk()?;
///     print!("{}", chunk.choices[0].delta.content.as_deref().unwrap_or_default());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping a stream cancels its request"]
pub struct Stream {
    conversation: Conversation,
    id: String,
    created: u64,
    model: String,
}

impl Stream {
    /// Wait until the request is accepted.
    pub(crate) async fn open(mut conversation: Conversation) -> Result<Self> {
        match conversation.next().await {
            Some(News::Opened { id, created, model }) => Ok(Self { conversation, id, created, model }),
            Some(News::Failed(error)) => Err(error),
            other => Err(Error::UnexpectedResponse(format!("{other:?} before the answer began"))),
        }
    }

    /// The next piece; None at the end, which comes after the chunk with the usage or after an error.
    pub async fn next(&mut self) -> Option<Response> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Response>> {
        self.conversation.poll_next(context).map(|news| news.map(|news| self.response(news)))
    }

    fn response(&mut self, news: News) -> Response {
        let json = match news {
            News::Text(index, text) => return Response::Chunk(self.chunk(index, text)),
            News::Chunk(json) => json,
            News::Failed(error) => return Response::failed(error),
            News::Opened { .. } | News::Answer(_) | News::Logits(..) => {
                return Response::failed(Error::UnexpectedResponse(format!("{news:?} within a stream")));
            }
        };
        match parse::<ChatCompletionChunkResponse>(&json) {
            Ok(chunk) => {
                if chunk.usage.is_some() {
                    self.conversation.set_ended();
                }
                Response::Chunk(chunk)
            }
            Err(error) => Response::failed(error),
        }
    }

    /// What Python would make of text without log-probabilities.
    fn chunk(&self, index: usize, text: String) -> ChatCompletionChunkResponse {
        let delta = Delta { content: Some(text), role: "assistant".into(), tool_calls: None, reasoning_content: None };
        ChatCompletionChunkResponse {
            id: self.id.clone(),
            choices: vec![ChunkChoice { finish_reason: None, index, delta, logprobs: None }],
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: "local".into(),
            object: "chat.completion.chunk".into(),
            usage: None,
        }
    }
}

impl futures_core::Stream for Stream {
    type Item = Response;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Response>> {
        self.get_mut().poll(context)
    }
}

/// Read what the package wrote.
pub(crate) fn parse<'json, T: serde::Deserialize<'json>>(json: &'json str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::UnexpectedResponse(format!("{error} in {json:.200}")))
}
