//! Constraints and tools, which are known and not offered yet.

use serde::{Deserialize, Serialize};

/// What an answer must look like. Not offered yet: all but `None` is refused when the request is sent.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Constraint {
    /// Any text.
    None,
    /// A regular expression.
    Regex(String),
    /// A grammar in Lark's language.
    Lark(String),
    /// A JSON schema.
    JsonSchema(serde_json::Value),
    /// A grammar of llguidance.
    Llguidance(serde_json::Value),
}

/// A function that the model may call. Not offered yet: refused when the request is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// `type` on the wire.
    #[serde(rename = "type")]
    pub tp: ToolType,
    /// The function.
    pub function: Function,
}

/// The only kind of tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolType {
    /// A function.
    Function,
}

/// What the model is told about a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// What it does.
    pub description: Option<String>,
    /// Its name.
    pub name: String,
    /// JSON schema of its arguments.
    pub parameters: Option<serde_json::Value>,
}

/// Whether the model may call tools.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ToolChoice {
    /// It must not.
    None,
    /// It decides.
    Auto,
    /// It must call this one.
    Tool(Tool),
}
