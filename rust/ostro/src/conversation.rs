//! A request on its way: events come from the engine's thread into a channel, dropping the reader cancels.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use pyo3::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::door;
use crate::error::{Error, Result};
use crate::model::Loaded;
use crate::value::{Value, dict};

/// What the engine's thread says.
#[derive(Debug)]
pub(crate) enum News {
    /// The request runs under this id, since then, by this model.
    Opened { id: String, created: u64, model: String },
    /// More text of a choice.
    Text(usize, String),
    /// A chunk, in JSON.
    Chunk(String),
    /// The whole answer, in JSON; the last news.
    Answer(String),
    /// Logits after the prompt, and the prompt's ids; the last news.
    Logits(Vec<f32>, Vec<u32>),
    /// The last news, too.
    Failed(Error),
}

/// What a request is to bring; the name that the package has for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    Pieces,
    Whole,
    Logits,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Self::Pieces => "pieces",
            Self::Whole => "whole",
            Self::Logits => "logits",
        }
    }
}

/// The engine's end, which Python calls.
#[pyclass(frozen)]
struct Sink(UnboundedSender<News>);

impl Sink {
    fn send(&self, news: News) {
        // Nobody listens any more: the reader's drop has cancelled the request.
        let _ = self.0.send(news);
    }
}

#[pymethods]
impl Sink {
    fn opened(&self, id: String, created: u64, model: String) {
        self.send(News::Opened { id, created, model });
    }

    fn text(&self, index: usize, text: String) {
        self.send(News::Text(index, text));
    }

    fn chunk(&self, json: String) {
        self.send(News::Chunk(json));
    }

    fn answer(&self, json: String) {
        self.send(News::Answer(json));
    }

    fn logits(&self, row: &[u8], token_ids: Vec<u32>) {
        let (numbers, _) = row.as_chunks();
        self.send(News::Logits(numbers.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect(), token_ids));
    }

    fn failed(&self, error: &Bound<'_, PyAny>) {
        let py = error.py();
        self.send(News::Failed(Error::of(&PyErr::from_value(error.clone()), py, false)));
    }
}

/// The reader's end. Dropping it cancels the request, wherever that is.
#[derive(Debug)]
pub(crate) struct Conversation {
    news: UnboundedReceiver<News>,
    /// Set by the job that submits the request, which runs before that of a drop.
    python: Arc<OnceLock<Py<PyAny>>>,
    ended: bool,
    /// Keeps the model from being closed under its requests.
    model: Arc<Loaded>,
}

impl Conversation {
    /// Submit a request. Returns at once; whether it is accepted is the first news.
    pub(crate) fn submit(model: &Arc<Loaded>, fields: Vec<(&'static str, Value)>, wanted: Wanted) -> Self {
        let (sender, news) = unbounded_channel();
        let python = Arc::new(OnceLock::new());
        let (submitted, loaded) = (Arc::clone(&python), Arc::clone(model));
        door::post(move |py| {
            if sender.is_closed() {
                return;
            }
            let start = |py| -> PyResult<()> {
                let sink = Py::new(py, Sink(sender.clone()))?;
                let arguments = (loaded.python(py), sink, dict(py, &fields)?, wanted.name());
                let conversation = py.import("ostro.rust_door")?.getattr("Conversation")?.call1(arguments)?;
                let _ = submitted.set(conversation.unbind());
                Ok(())
            };
            let result = door::caught(|| start(py).map_err(|error| Error::of(&error, py, false)));
            if let Err(error) = result {
                let _ = sender.send(News::Failed(error));
            }
        });
        Self { news, python, ended: false, model: Arc::clone(model) }
    }

    /// The next news, None after the last.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<News>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let news = match self.news.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(news)) => news,
            Poll::Ready(None) => News::Failed(Error::Panic("the engine dropped a request without a word".into())),
        };
        self.ended = matches!(news, News::Answer(_) | News::Logits(..) | News::Failed(_));
        Poll::Ready(Some(news))
    }

    pub(crate) async fn next(&mut self) -> Option<News> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Nothing more will come: a drop need not cancel.
    pub(crate) fn set_ended(&mut self) {
        self.ended = true;
    }

    /// The last news of a request that is not streamed.
    pub(crate) async fn outcome(mut self) -> Result<News> {
        while let Some(news) = self.next().await {
            if let News::Failed(error) = news {
                return Err(error);
            }
            if self.ended {
                return Ok(news);
            }
        }
        Err(Error::UnexpectedResponse("no answer".into()))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let (python, model) = (Arc::clone(&self.python), Arc::clone(&self.model));
        if self.ended {
            return;
        }
        door::post(move |py| {
            if let Some(conversation) = python.get() {
                let _ = conversation.call_method0(py, "cancel");
            }
            drop(model);
        });
    }
}
