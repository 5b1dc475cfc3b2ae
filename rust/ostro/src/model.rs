//! A loaded model.

use std::sync::Arc;

use pyo3::conversion::FromPyObjectOwned;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::conversation::{Conversation, News, Wanted};
use crate::door;
use crate::error::{Error, Result};
use crate::isq::IsqName;
use crate::messages::{TextMessageRole, TextMessages, TokenizeInput};
use crate::request::{RequestBuilder, RequestLike};
use crate::response::ChatCompletionResponse;
use crate::stream::{Stream, parse};
use crate::tools::Tool;
use crate::value::{Value, dict};

/// A model that answers. Clones are the same model; any number of tasks and threads may ask at the same time, and
/// their requests are computed together. The last clone's drop closes it.
#[derive(Debug, Clone)]
pub struct Model(Arc<Loaded>);

/// The package's `ModelHost`.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Taken only by the drop.
    host: Option<Py<PyAny>>,
    name: String,
    context_length: usize,
    bos_id: Option<u32>,
    sees: bool,
}

impl Loaded {
    pub(crate) fn of(host: &Bound<'_, PyAny>) -> PyResult<Self> {
        let config = host.getattr("config")?;
        Ok(Self {
            host: Some(host.clone().unbind()),
            name: host.getattr("name")?.extract()?,
            context_length: host.getattr("context_length")?.extract()?,
            bos_id: config.getattr("bos_token_id")?.extract()?,
            sees: !config.getattr("vision")?.is_none(),
        })
    }

    /// The host, which is there until the drop.
    pub(crate) fn python<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.host.as_ref().map_or_else(|| py.None().into_bound(py), |host| host.bind(py).clone())
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let Some(host) = self.host.take() else { return };
        // Closing waits for the engine: not here, and not in the door's thread.
        door::post(move |py| {
            let close = || -> PyResult<()> {
                let workers = py.import("ostro.rust_door")?.getattr("workers")?;
                workers.call_method1("submit", (host.getattr(py, "close")?,)).map(drop)
            };
            let _ = close();
        });
    }
}

/// What the engine has done since the start, and what it does between two of its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Sequences that are generated.
    pub running: usize,
    /// Sequences that wait for a place.
    pub waiting: usize,
    /// Steps so far.
    pub steps: u64,
    /// Rows computed for prompts so far.
    pub prompt_tokens: u64,
    /// Tokens generated so far.
    pub completion_tokens: u64,
    /// Images encoded so far.
    pub images: u64,
    /// Memory for keys and values, in bytes.
    pub kv_bytes: u64,
}

impl Model {
    pub(crate) fn over(loaded: Loaded) -> Self {
        Self(Arc::new(loaded))
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it can be shown images.
    #[must_use]
    pub fn sees(&self) -> bool {
        self.0.sees
    }

    /// Answer a request. Dropping the future cancels it.
    ///
    /// # Errors
    /// `RequestValidation` for the request, `Inference` if the engine fails, `Cancelled` if the model is closed.
    pub async fn send_chat_request<R: RequestLike>(&self, request: R) -> Result<ChatCompletionResponse> {
        let fields = request.into().fields()?;
        let response: ChatCompletionResponse =
            match Conversation::submit(&self.0, fields, Wanted::Whole).outcome().await? {
                News::Answer(json) => parse(&json)?,
                other => return Err(Error::UnexpectedResponse(format!("{other:?}"))),
            };
        if response.choices.iter().any(|choice| choice.finish_reason == "canceled") {
            return Err(Error::Cancelled { partial_response: Some(Box::new(response)) });
        }
        Ok(response)
    }

    /// Answer a request piece by piece. Dropping the stream cancels it.
    ///
    /// # Errors
    /// `RequestValidation` for the request; what goes wrong later comes out of the stream.
    pub async fn stream_chat_request<R: RequestLike>(&self, request: R) -> Result<Stream> {
        let fields = request.into().fields()?;
        Stream::open(Conversation::submit(&self.0, fields, Wanted::Pieces)).await
    }

    /// What the model expects after a conversation, before anything is sampled: logits over the vocabulary, in one
    /// chunk, and the ids of the prompt (soft tokens of images as padding). Of the request only the messages count.
    ///
    /// # Errors
    /// As [`send_chat_request`](Self::send_chat_request).
    pub async fn send_raw_chat_request<R: RequestLike>(&self, request: R) -> Result<(Vec<Vec<f32>>, Vec<u32>)> {
        let fields = request.into().fields()?;
        match Conversation::submit(&self.0, fields, Wanted::Logits).outcome().await? {
            News::Logits(row, token_ids) => Ok((vec![row], token_ids)),
            other => Err(Error::UnexpectedResponse(format!("{other:?}"))),
        }
    }

    /// The answer to one user message.
    ///
    /// # Errors
    /// As [`send_chat_request`](Self::send_chat_request).
    pub async fn chat(&self, message: impl ToString) -> Result<String> {
        let messages = TextMessages::new().add_message(TextMessageRole::User, message);
        let response = self.send_chat_request(messages).await?;
        let content = response.choices.into_iter().next().and_then(|choice| choice.message.content);
        content.ok_or_else(|| Error::UnexpectedResponse("an answer without content".into()))
    }

    /// Ids of messages (with the chat template and the assistant's turn opened) or of a raw text.
    ///
    /// `tools`, `enable_thinking`: not offered. `add_special_tokens`: `<bos>` in front. `add_generation_prompt`: must
    /// be true for messages. An image is a run of its soft tokens.
    ///
    /// # Errors
    /// `RequestValidation`.
    pub async fn tokenize(
        &self,
        text: impl Into<TokenizeInput>,
        tools: Option<Vec<Tool>>,
        add_special_tokens: bool,
        add_generation_prompt: bool,
        enable_thinking: Option<bool>,
    ) -> Result<Vec<u32>> {
        if tools.is_some_and(|tools| !tools.is_empty()) {
            return Err(Error::unsupported("tools", "tools are not offered by this version of ostro"));
        }
        if enable_thinking == Some(true) {
            let message = "enable_thinking is not offered: Gemma 3 has no thinking mode";
            return Err(Error::unsupported("enable_thinking", message));
        }
        match text.into() {
            TokenizeInput::Text(text) => {
                let options = vec![("add_special_tokens", add_special_tokens.into())];
                self.host_call("tokenize", vec![text.into()], options).await
            }
            TokenizeInput::Messages(_) if !add_generation_prompt => {
                let message = "messages without an opened turn of the assistant are not offered";
                Err(Error::unsupported("add_generation_prompt", message))
            }
            TokenizeInput::Messages(messages) => {
                let messages = RequestBuilder::from(messages).into_messages();
                let mut ids: Vec<u32> = self.host_call("tokenize_chat", vec![messages], vec![]).await?;
                if !add_special_tokens && ids.first() == self.0.bos_id.as_ref() {
                    ids.remove(0);
                }
                Ok(ids)
            }
        }
    }

    /// The text of token ids, with or without the literal texts of control tokens.
    ///
    /// # Errors
    /// `RequestValidation` for ids that no token has.
    pub async fn detokenize(&self, tokens: Vec<u32>, skip_special_tokens: bool) -> Result<String> {
        let options = vec![("skip_special_tokens", skip_special_tokens.into())];
        self.host_call("detokenize", vec![tokens.into()], options).await
    }

    /// Quantize again from the model's files, to another number format. Returns when the new weights are in use;
    /// requests go on meanwhile.
    ///
    /// # Errors
    /// `RequestValidation` for the format, `Inference` if it fails.
    pub async fn re_isq_model(&self, isq: impl Into<IsqName>) -> Result<()> {
        self.host_call::<Option<bool>>("re_isq", vec![isq.into().0.into()], vec![]).await.map(drop)
    }

    /// Longest prompt plus answer, in tokens.
    ///
    /// # Errors
    /// None; a `Result` and an `Option` as in mistral.rs.
    pub fn max_sequence_length(&self) -> Result<Option<usize>> {
        Ok(Some(self.0.context_length))
    }

    /// Ids of the loaded models: one.
    ///
    /// # Errors
    /// None; a `Result` as in mistral.rs.
    pub fn list_models(&self) -> Result<Vec<String>> {
        Ok(vec![self.0.name.clone()])
    }

    /// Counts of the engine.
    ///
    /// # Errors
    /// `Panic` if they cannot be had.
    pub async fn stats(&self) -> Result<EngineStats> {
        let model = Arc::clone(&self.0);
        door::call(move |module| {
            let py = module.py();
            let read = || -> PyResult<EngineStats> {
                let stats = model.python(py).getattr("loop")?.call_method0("stats")?;
                let count = |name: &str| stats.getattr(name)?.extract::<u64>();
                Ok(EngineStats {
                    running: stats.getattr("running")?.extract()?,
                    waiting: stats.getattr("waiting")?.extract()?,
                    steps: count("steps")?,
                    prompt_tokens: count("prompt_tokens")?,
                    completion_tokens: count("completion_tokens")?,
                    images: count("images")?,
                    kv_bytes: count("kv_bytes")?,
                })
            };
            read().map_err(|error| Error::of(&error, py, false))
        })
        .await
    }

    /// End all requests, which get `Cancelled`, and free the engine. Later requests are refused.
    ///
    /// # Errors
    /// `Inference` if that fails.
    pub async fn close(&self) -> Result<()> {
        self.host_call::<Option<bool>>("close", vec![], vec![]).await.map(drop)
    }

    /// Call a method of the host in one of the package's threads.
    async fn host_call<T>(
        &self,
        method: &'static str,
        arguments: Vec<Value>,
        options: Vec<(&'static str, Value)>,
    ) -> Result<T>
    where
        T: for<'py> FromPyObjectOwned<'py> + Send + 'static,
    {
        let model = Arc::clone(&self.0);
        let start = move |module: &Bound<'_, PyModule>| {
            let py = module.py();
            let call = model.python(py).getattr(method)?;
            let arguments = arguments.iter().map(|value| value.to_python(py));
            let arguments = [Ok(call)].into_iter().chain(arguments).collect::<PyResult<Vec<_>>>()?;
            let options = dict(py, &options)?;
            let workers = module.getattr("workers")?;
            Ok(workers.call_method("submit", PyTuple::new(py, arguments)?, Some(&options))?.unbind())
        };
        door::submit(false, start, |value| value.extract().map_err(Into::into)).await
    }
}
