//! How tokens are chosen, in mistral.rs's terms. Ranges are judged by the engine.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::value::Value;

/// Sampling parameters. `None` leaves a choice to the model's `generation_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 always takes the most probable token.
    pub temperature: Option<f64>,
    /// Only so many of the most probable tokens.
    pub top_k: Option<usize>,
    /// Only the most probable tokens that together reach this probability.
    pub top_p: Option<f64>,
    /// Only tokens with this share of the most probable one's probability.
    pub min_p: Option<f64>,
    /// Alternatives reported with each token, if log-probabilities are asked for; at most 20.
    pub top_n_logprobs: usize,
    /// Per occurrence of a token in the answer; -2 to 2.
    pub frequency_penalty: Option<f32>,
    /// Once for a token that is in the answer; -2 to 2.
    pub presence_penalty: Option<f32>,
    /// Divides what is in prompt or answer; 1 is off.
    pub repetition_penalty: Option<f32>,
    /// What ends an answer besides its end-of-turn token.
    pub stop_toks: Option<StopTokens>,
    /// Tokens of the answer; None for as many as the context has room for.
    pub max_len: Option<usize>,
    /// Added to the logits of tokens; -100 to 100.
    pub logits_bias: Option<HashMap<u32, f32>>,
    /// Answers to the same conversation.
    pub n_choices: usize,
    /// The "don't repeat yourself" penalty.
    pub dry_params: Option<DrySamplingParams>,
}

impl SamplingParams {
    /// The most probable token every time, without penalties or limits.
    #[must_use]
    pub fn deterministic() -> Self {
        Self { temperature: Some(0.0), ..Self::model_defaults() }
    }

    /// As the model's `generation_config.json` says; for Gemma 3 temperature 1, top-k 64, top-p 0.95.
    #[must_use]
    pub fn model_defaults() -> Self {
        Self {
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            top_n_logprobs: 0,
            frequency_penalty: None,
            presence_penalty: None,
            repetition_penalty: None,
            stop_toks: None,
            max_len: None,
            logits_bias: None,
            n_choices: 1,
            dry_params: None,
        }
    }

    /// Fields of Python's request.
    pub(crate) fn fields(self) -> Result<Vec<(&'static str, Value)>> {
        let mut fields = vec![("n_choices", Value::from(self.n_choices))];
        let mut add = |name, value: Option<Value>| fields.extend(value.map(|value| (name, value)));
        add("temperature", self.temperature.map(Value::from));
        add("top_k", self.top_k.map(Value::from));
        add("top_p", self.top_p.map(Value::from));
        add("min_p", self.min_p.map(Value::from));
        add("frequency_penalty", self.frequency_penalty.map(Value::from));
        add("presence_penalty", self.presence_penalty.map(Value::from));
        add("repetition_penalty", self.repetition_penalty.map(Value::from));
        add("max_tokens", self.max_len.map(Value::from));
        if let Some(biases) = self.logits_bias {
            add("logit_bias", Some(Value::Biases(biases.into_iter().map(|(id, bias)| (id, bias.into())).collect())));
        }
        match self.stop_toks {
            Some(StopTokens::Seqs(texts)) => add("stop_seqs", Some(texts.into())),
            Some(StopTokens::Ids(_)) => {
                return Err(Error::unsupported("stop_toks", "token ids as stops are not offered: give their texts"));
            }
            None => {}
        }
        if let Some(dry) = self.dry_params {
            add("dry_multiplier", Some(dry.multiplier.into()));
            add("dry_base", Some(dry.base.into()));
            add("dry_allowed_length", Some(dry.allowed_length.into()));
            add("dry_sequence_breakers", Some(dry.sequence_breakers.into()));
        }
        Ok(fields)
    }
}

/// What ends an answer and is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopTokens {
    /// Texts, at most 16.
    Seqs(Vec<String>),
    /// Token ids; not offered.
    Ids(Vec<u32>),
}

/// The "don't repeat yourself" penalty: `multiplier * base ^ (match length - allowed_length)`.
#[derive(Debug, Clone, PartialEq)]
pub struct DrySamplingParams {
    /// Across these no repetition is followed.
    pub sequence_breakers: Vec<String>,
    /// 0 is off.
    pub multiplier: f32,
    /// Above 0.
    pub base: f32,
    /// Repetitions up to this length cost nothing.
    pub allowed_length: usize,
}

impl DrySamplingParams {
    /// With the usual values for what is None.
    ///
    /// # Errors
    /// None; ranges are judged when the request is sent.
    pub fn new_with_defaults(
        multiplier: f32,
        sequence_breakers: Option<Vec<String>>,
        base: Option<f32>,
        allowed_length: Option<usize>,
    ) -> anyhow::Result<Self> {
        let usual = || ["\n", ":", "\"", "*"].map(String::from).to_vec();
        Ok(Self {
            sequence_breakers: sequence_breakers.unwrap_or_else(usual),
            multiplier,
            base: base.unwrap_or(1.75),
            allowed_length: allowed_length.unwrap_or(2),
        })
    }
}
