//! Requests with more to say than their messages.

use serde_json::json;

use crate::error::{Error, Result};
use crate::images::Images;
use crate::messages::{
    Message, MultimodalMessages, TextMessageRole, TextMessages, VisionMessages, image_message, text_message,
};
use crate::response::ToolCallResponse;
use crate::sampling::{DrySamplingParams, SamplingParams, StopTokens};
use crate::tools::{Constraint, Tool, ToolChoice};
use crate::value::Value;

/// What can be sent to a model: messages as they are, or a [`RequestBuilder`].
pub trait RequestLike: Into<RequestBuilder> {}

impl<T: Into<RequestBuilder>> RequestLike for T {}

/// A conversation and how it is to be answered.
///
/// Without any `set_sampler_*` that says how tokens are chosen (temperature, topk, topp, minp), answers are greedy;
/// with one, what is not said follows the model's `generation_config.json`.
#[derive(Debug, Clone)]
#[must_use]
pub struct RequestBuilder {
    messages: Vec<Message>,
    sampling: SamplingParams,
    /// Whether somebody said how tokens are chosen.
    sampled: bool,
    return_logprobs: bool,
    constraint: Constraint,
    tools: Vec<Tool>,
    tool_choice: ToolChoice,
    /// Fields of Python's request that are passed through.
    others: Vec<(&'static str, Value)>,
}

impl Default for RequestBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl From<TextMessages> for RequestBuilder {
    fn from(messages: TextMessages) -> Self {
        MultimodalMessages::from(messages).into()
    }
}

impl From<VisionMessages> for RequestBuilder {
    fn from(messages: VisionMessages) -> Self {
        messages.0.into()
    }
}

impl From<MultimodalMessages> for RequestBuilder {
    fn from(messages: MultimodalMessages) -> Self {
        let builder = Self { messages: messages.messages, ..Self::new() };
        match messages.enable_thinking {
            Some(wanted) => builder.enable_thinking(wanted),
            None => builder,
        }
    }
}

/// Setters that only store.
macro_rules! sampler {
    ($($(#[$doc:meta])* $name:ident($field:ident: $type:ty $(, $sampled:ident)?);)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $field: $type) -> Self {
            self.sampling.$field = Some($field);
            $(self.$sampled = true;)?
            self
        }
    )*};
}

impl RequestBuilder {
    /// An empty conversation, answered greedily.
    pub fn new() -> Self {
        Self {
            messages: Vec::new(),
            sampling: SamplingParams::model_defaults(),
            sampled: false,
            return_logprobs: false,
            constraint: Constraint::None,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            others: Vec::new(),
        }
    }

    /// Add a message.
    pub fn add_message(mut self, role: TextMessageRole, text: impl ToString) -> Self {
        self.messages.push(text_message(&role, &text));
        self
    }

    /// Add a message with one image or several, which the model sees before the text.
    pub fn add_image_message(mut self, role: TextMessageRole, text: impl ToString, images: impl Into<Images>) -> Self {
        self.messages.push(image_message(&role, &text, images.into()));
        self
    }

    /// Add what a tool answered to the call `tool_id`.
    pub fn add_tool_message(mut self, tool_content: impl ToString, tool_id: impl ToString) -> Self {
        let mut message = text_message(&TextMessageRole::Tool, &tool_content);
        message.push(("tool_call_id", tool_id.to_string().into()));
        self.messages.push(message);
        self
    }

    /// Add a message in which the assistant called tools.
    pub fn add_message_with_tool_call(
        mut self,
        role: TextMessageRole,
        text: impl ToString,
        tool_calls: Vec<ToolCallResponse>,
    ) -> Self {
        let calls = tool_calls.into_iter().map(|call| {
            let function = vec![("name", call.function.name.into()), ("arguments", call.function.arguments.into())];
            Value::Record(vec![
                ("id", call.id.into()),
                ("type", "function".into()),
                ("function", Value::Record(function)),
            ])
        });
        let mut message = text_message(&role, &text);
        message.push(("tool_calls", Value::List(calls.collect())));
        self.messages.push(message);
        self
    }

    /// Report the log-probability of each token.
    pub fn return_logprobs(mut self, return_logprobs: bool) -> Self {
        self.return_logprobs = return_logprobs;
        self
    }

    /// See [`Constraint`].
    pub fn set_constraint(mut self, constraint: Constraint) -> Self {
        self.constraint = constraint;
        self
    }

    /// See [`Tool`].
    pub fn set_tools(mut self, tools: Vec<Tool>) -> Self {
        self.tools = tools;
        self
    }

    /// See [`ToolChoice`].
    pub fn set_tool_choice(mut self, tool_choice: ToolChoice) -> Self {
        self.tool_choice = tool_choice;
        self
    }

    /// Take all sampling parameters as given.
    pub fn set_sampling(mut self, params: SamplingParams) -> Self {
        self.sampling = params;
        self.sampled = true;
        self
    }

    /// Answer greedily, without penalties or limits; forgets what other setters said.
    pub fn set_deterministic_sampler(mut self) -> Self {
        self.sampling = SamplingParams::deterministic();
        self.sampled = true;
        self
    }

    sampler! {
        /// See [`SamplingParams::temperature`].
        set_sampler_temperature(temperature: f64, sampled);
        /// See [`SamplingParams::top_k`].
        set_sampler_topk(top_k: usize, sampled);
        /// See [`SamplingParams::top_p`].
        set_sampler_topp(top_p: f64, sampled);
        /// See [`SamplingParams::min_p`].
        set_sampler_minp(min_p: f64, sampled);
        /// See [`SamplingParams::frequency_penalty`].
        set_sampler_frequency_penalty(frequency_penalty: f32);
        /// See [`SamplingParams::presence_penalty`].
        set_sampler_presence_penalty(presence_penalty: f32);
        /// See [`SamplingParams::repetition_penalty`] (ostro only).
        set_sampler_repetition_penalty(repetition_penalty: f32);
        /// See [`SamplingParams::stop_toks`].
        set_sampler_stop_toks(stop_toks: StopTokens);
        /// See [`SamplingParams::max_len`].
        set_sampler_max_len(max_len: usize);
        /// See [`SamplingParams::logits_bias`].
        set_sampler_logits_bias(logits_bias: std::collections::HashMap<u32, f32>);
        /// See [`SamplingParams::dry_params`].
        set_sampler_dry_params(dry_params: DrySamplingParams);
    }

    /// See [`SamplingParams::top_n_logprobs`].
    pub fn set_sampler_topn_logprobs(mut self, top_n_logprobs: usize) -> Self {
        self.sampling.top_n_logprobs = top_n_logprobs;
        self
    }

    /// See [`SamplingParams::n_choices`].
    pub fn set_sampler_n_choices(mut self, n_choices: usize) -> Self {
        self.sampling.n_choices = n_choices;
        self
    }

    /// Go on after the end-of-turn token.
    pub fn set_sampler_ignore_eos(self, ignore_eos: bool) -> Self {
        self.with("ignore_eos", ignore_eos)
    }

    /// Make sampling repeatable (ostro only).
    pub fn set_sampler_seed(self, seed: i64) -> Self {
        self.with("seed", seed)
    }

    /// Drop the oldest tokens of a conversation that is too long instead of refusing it.
    pub fn with_truncate_sequence(self, truncate: bool) -> Self {
        self.with("truncate_sequence", truncate)
    }

    /// Show oblong images in crops as well (ostro only).
    pub fn with_pan_and_scan(self, pan_and_scan: bool) -> Self {
        self.with("pan_and_scan", pan_and_scan)
    }

    /// Gemma 3 has no thinking mode: `true` is refused when the request is sent.
    pub fn enable_thinking(self, enable_thinking: bool) -> Self {
        self.with("enable_thinking", enable_thinking)
    }

    /// Gemma 3 has no thinking mode: all but `off` and `none` is refused when the request is sent.
    pub fn with_reasoning_effort(self, effort: impl ToString) -> Self {
        self.with("reasoning_effort", effort.to_string())
    }

    /// Adapters are not offered: refused when the request is sent.
    pub fn set_adapter(self, adapter: impl ToString) -> Self {
        self.with("adapter", adapter.to_string())
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.others.push((name, value.into()));
        self
    }

    /// The messages alone.
    pub(crate) fn into_messages(self) -> Value {
        Value::List(self.messages.into_iter().map(Value::Record).collect())
    }

    /// Fields of Python's `ChatCompletionRequest`, which judges them.
    pub(crate) fn fields(mut self) -> Result<Vec<(&'static str, Value)>> {
        if !self.sampled {
            self.sampling.temperature = Some(0.0);
        }
        let alternatives = self.sampling.top_n_logprobs;
        let mut fields = self.sampling.fields()?;
        if self.return_logprobs {
            fields.extend([("logprobs", true.into()), ("top_logprobs", alternatives.into())]);
        }
        let grammar = match self.constraint {
            Constraint::None => None,
            Constraint::Regex(regex) => Some(("regex", regex)),
            Constraint::Lark(lark) => Some(("lark", lark)),
            Constraint::JsonSchema(schema) => Some(("json_schema", schema.to_string())),
            Constraint::Llguidance(grammar) => Some(("llguidance", grammar.to_string())),
        };
        if let Some((kind, grammar)) = grammar {
            fields.extend([("grammar", grammar.into()), ("grammar_type", kind.into())]);
        }
        if !self.tools.is_empty() {
            fields.push((
                "tool_schemas",
                self.tools.iter().map(|tool| json!(tool).to_string()).collect::<Vec<_>>().into(),
            ));
        }
        match self.tool_choice {
            ToolChoice::Auto => {}
            ToolChoice::None => fields.push(("tool_choice", "none".into())),
            ToolChoice::Tool(tool) => {
                let name = tool.function.name;
                return Err(Error::unsupported("tool_choice", format!("calls of tools ({name}) are not offered")));
            }
        }
        fields.extend(self.others);
        fields.push(("messages", Value::List(self.messages.into_iter().map(Value::Record).collect())));
        Ok(fields)
    }
}
