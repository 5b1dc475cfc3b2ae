//! What can go wrong.
//!
//! ```text
//! Error
//!     Setup               the Python package is missing, too old or of another Python
//!     ModelLoad           the model cannot be used
//!     RequestValidation   an argument or a request cannot be served; the caller can change it
//!     Inference           the engine failed
//!     Cancelled           the model was closed while it answered
//!     Panic               a defect in ostro; the program goes on
//!     UnexpectedResponse  package and crate do not understand each other
//! ```

use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::response::ChatCompletionResponse;

/// The result of all calls of this crate but `build`, whose `anyhow::Error` holds an [`Error`] as well.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. Its text is the engine's own, and says what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The Python package cannot be used from this program.
    #[error("{0}")]
    Setup(String),
    /// The model cannot be loaded: not found, damaged, of another architecture.
    #[error("{0}")]
    ModelLoad(Failure),
    /// An argument or a request cannot be served as it is.
    #[error("{0}")]
    RequestValidation(Failure),
    /// The engine failed; nothing the caller did is the cause.
    #[error("{0}")]
    Inference(Failure),
    /// The model was closed before the answer had ended.
    #[error("the request was cancelled: the model was closed before the answer had ended")]
    Cancelled {
        /// What had been said until then.
        partial_response: Option<Box<ChatCompletionResponse>>,
    },
    /// A defect in ostro, caught where it happened.
    #[error("ostro panicked: {0}")]
    Panic(String),
    /// Something else was expected from the package: crate and package are of different versions.
    #[error("unexpected response from the Python package: {0}")]
    UnexpectedResponse(String),
}

/// An exception of the Python package.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Name of the exception's class, such as `PromptTooLong` or `BadImage`.
    pub exception: String,
    /// Its text.
    pub message: String,
    /// The HTTP status that a server would answer with.
    pub status: Option<u16>,
    /// OpenAI's error code, such as `context_length_exceeded`.
    pub code: Option<String>,
    /// Which field of the request is meant.
    pub param: Option<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error {
    /// The exception behind it, if there is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::ModelLoad(failure) | Self::RequestValidation(failure) | Self::Inference(failure) => Some(failure),
            _ => None,
        }
    }

    /// The HTTP status that fits: 500 unless the caller can change something.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.failure().and_then(|failure| failure.status).unwrap_or(500)
    }

    /// OpenAI's error code.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.failure().and_then(|failure| failure.code.as_deref())
    }

    /// What this crate itself refuses, in the shape of the package's `UnsupportedField`.
    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::RequestValidation(Failure {
            exception: "UnsupportedField".into(),
            message: message.into(),
            status: Some(422),
            code: Some("unsupported_field".into()),
            param: Some(param.into()),
        })
    }

    /// An exception, while requests are served or (`loading`) a model is loaded.
    pub(crate) fn of(error: &PyErr, py: Python<'_>, loading: bool) -> Self {
        let value = error.value(py);
        let exception = value.get_type().name().map_or_else(|_| "Exception".into(), |name| name.to_string());
        let text = value.str().map_or_else(|_| exception.clone(), |text| text.to_string());
        if exception == "PanicException" {
            return Self::Panic(text);
        }
        let of_ostro = is_of(py, value, "OstroError");
        // Other exceptions seldom say enough without their name.
        let message = if of_ostro { text } else { format!("{exception}: {text}") };
        let read = |name: &str| if of_ostro { value.getattr(name).ok() } else { None };
        let failure = Failure {
            exception,
            message,
            status: read("status").and_then(|status| status.extract().ok()),
            code: read("code").and_then(|code| code.extract().ok()),
            param: read("param").and_then(|param| param.extract().ok()),
        };
        if is_of(py, value, "RequestError") {
            Self::RequestValidation(failure)
        } else if is_of(py, value, "ModelError") || (loading && !is_of(py, value, "EngineError")) {
            Self::ModelLoad(failure)
        } else {
            Self::Inference(failure)
        }
    }
}

fn is_of(py: Python<'_>, value: &Bound<'_, PyAny>, class: &str) -> bool {
    let class = py.import("ostro.errors").and_then(|errors| errors.getattr(class));
    class.is_ok_and(|class| class.cast::<PyType>().is_ok_and(|class| value.is_instance(class).unwrap_or(false)))
}
