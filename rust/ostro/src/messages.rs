//! Conversations, as text or with images.

use std::fmt;

use either::Either;

use crate::error::{Error, Result};
use crate::images::Images;
use crate::model::Model;
use crate::value::Value;

/// Who says a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMessageRole {
    /// The human.
    User,
    /// The model.
    Assistant,
    /// Instructions to the model.
    System,
    /// The answer of a tool.
    Tool,
    /// Another name; the engine knows `developer` and `function` besides.
    Custom(String),
}

impl fmt::Display for TextMessageRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::System => "system",
            Self::Tool => "tool",
            Self::Custom(name) => name,
        })
    }
}

/// A message, as Python's request takes it.
pub(crate) type Message = Vec<(&'static str, Value)>;

pub(crate) fn text_message(role: &TextMessageRole, text: &impl ToString) -> Message {
    vec![("role", role.to_string().into()), ("content", text.to_string().into())]
}

/// Images before the text, as mistral.rs has it.
pub(crate) fn image_message(role: &TextMessageRole, text: &impl ToString, images: Images) -> Message {
    let shown = images
        .0
        .into_iter()
        .map(|picture| Value::Record(vec![("type", "image".into()), ("image", Value::Picture(picture))]));
    let said = Value::Record(vec![("type", "text".into()), ("text", text.to_string().into())]);
    vec![("role", role.to_string().into()), ("content", Value::List(shown.chain([said]).collect()))]
}

/// A conversation of texts. Answered greedily: the same question gets the same answer.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct TextMessages {
    pub(crate) messages: Vec<Message>,
    pub(crate) enable_thinking: Option<bool>,
}

impl TextMessages {
    /// An empty conversation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a message.
    pub fn add_message(mut self, role: TextMessageRole, text: impl ToString) -> Self {
        self.messages.push(text_message(&role, &text));
        self
    }

    /// Remove all messages.
    pub fn clear(mut self) -> Self {
        self.messages.clear();
        self
    }

    /// Gemma 3 has no thinking mode: `true` is refused when the request is sent.
    pub fn enable_thinking(mut self, enable_thinking: bool) -> Self {
        self.enable_thinking = Some(enable_thinking);
        self
    }
}

/// A conversation of texts and images. Answered greedily, as [`TextMessages`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct MultimodalMessages {
    pub(crate) messages: Vec<Message>,
    pub(crate) enable_thinking: Option<bool>,
}

impl MultimodalMessages {
    /// An empty conversation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a message without images.
    pub fn add_message(mut self, role: TextMessageRole, text: impl ToString) -> Self {
        self.messages.push(text_message(&role, &text));
        self
    }

    /// Add a message with one image or several, which the model sees before the text.
    pub fn add_image_message(mut self, role: TextMessageRole, text: impl ToString, images: impl Into<Images>) -> Self {
        self.messages.push(image_message(&role, &text, images.into()));
        self
    }

    /// Remove all messages and images.
    pub fn clear(mut self) -> Self {
        self.messages.clear();
        self
    }

    /// Gemma 3 has no thinking mode: `true` is refused when the request is sent.
    pub fn enable_thinking(mut self, enable_thinking: bool) -> Self {
        self.enable_thinking = Some(enable_thinking);
        self
    }
}

/// [`MultimodalMessages`] in the older form, which names the model with every image.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct VisionMessages(pub(crate) MultimodalMessages);

impl VisionMessages {
    /// An empty conversation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Add a message without images.
    pub fn add_message(self, role: TextMessageRole, text: impl ToString) -> Self {
        Self(self.0.add_message(role, text))
    }

    /// Add a message with one image or several, which the model sees before the text.
    ///
    /// # Errors
    /// [`Error::RequestValidation`] if the model reads text only.
    pub fn add_image_message(
        self,
        role: TextMessageRole,
        text: impl ToString,
        images: impl Into<Images>,
        model: &Model,
    ) -> Result<Self> {
        if !model.sees() {
            let message = format!("{} reads text only; images need a model with vision", model.name());
            return Err(Error::unsupported("messages", message));
        }
        Ok(Self(self.0.add_image_message(role, text, images)))
    }

    /// Remove all messages and images.
    pub fn clear(self) -> Self {
        Self(self.0.clear())
    }

    /// Gemma 3 has no thinking mode: `true` is refused when the request is sent.
    pub fn enable_thinking(self, enable_thinking: bool) -> Self {
        Self(self.0.enable_thinking(enable_thinking))
    }
}

impl From<TextMessages> for MultimodalMessages {
    fn from(texts: TextMessages) -> Self {
        Self { messages: texts.messages, enable_thinking: texts.enable_thinking }
    }
}

impl From<TextMessages> for VisionMessages {
    fn from(texts: TextMessages) -> Self {
        Self(texts.into())
    }
}

/// What [`Model::tokenize`] takes: messages, or a text in which control tokens are parsed.
#[derive(Debug, Clone)]
pub enum TokenizeInput {
    /// A conversation, with the chat template around it.
    Messages(MultimodalMessages),
    /// A raw text.
    Text(String),
}

impl From<Either<TextMessages, String>> for TokenizeInput {
    fn from(input: Either<TextMessages, String>) -> Self {
        input.either(Into::into, Self::Text)
    }
}

impl From<TextMessages> for TokenizeInput {
    fn from(messages: TextMessages) -> Self {
        Self::Messages(messages.into())
    }
}

impl From<MultimodalMessages> for TokenizeInput {
    fn from(messages: MultimodalMessages) -> Self {
        Self::Messages(messages)
    }
}

impl From<VisionMessages> for TokenizeInput {
    fn from(messages: VisionMessages) -> Self {
        Self::Messages(messages.0)
    }
}

impl From<&str> for TokenizeInput {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for TokenizeInput {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
