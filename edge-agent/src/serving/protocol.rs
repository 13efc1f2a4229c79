//! What the agent and its serving process say to each other: one JSON object on each line, version 1.
//!
//! A second runtime would be a second program that speaks this.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use fieldfare_lm::example::Example;
use fieldfare_lm::tokenizer::ChatMessage;

/// Version of this protocol.
pub const PROTOCOL: u32 = 1;

/// Names one request of a process.
pub type RequestId = u64;

/// From the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Load this release, once.
    Load(Load),
    /// Generate text.
    Generate {
        /// Its name in the answers.
        id: RequestId,
        /// What to continue.
        prompt: Prompt,
        /// How.
        options: Options,
    },
    /// Stop working on a request; it gets no further answer.
    Cancel {
        /// Which one.
        id: RequestId,
    },
    /// Measure the model on examples.
    Evaluate {
        /// Its name in the answers.
        id: RequestId,
        /// On what.
        examples: Vec<Example>,
    },
}

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// The GGUF file.
    pub weights: PathBuf,
    /// The adapter beside it.
    pub adapter: Option<PathBuf>,
    /// Most bytes of address space that the process may take.
    pub address_space: u64,
    /// Most tokens of a sequence: as many as the memory is enough for that the owner grants.
    pub context: u32,
}

/// What to continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// Text as it is.
    Text(String),
    /// A conversation, written by the model's chat template.
    Chat(Vec<ChatMessage>),
}

/// How to generate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// 0 picks the likeliest token.
    pub temperature: f32,
    /// The smallest set of tokens with this probability is drawn from; 1 is all.
    pub top_p: f32,
    /// Draws are reproducible from it.
    pub seed: u64,
    /// Generation ends before any of these.
    pub stop: Vec<String>,
}

impl Options {
    /// The likeliest token each time.
    pub const fn greedy(max_tokens: usize) -> Self {
        Self {
            max_tokens,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }
    }
}

/// From the serving process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// The first line.
    Hello {
        /// The version it speaks.
        protocol: u32,
    },
    /// The release is loaded.
    Loaded {
        /// Most tokens of a sequence.
        context: usize,
    },
    /// The release cannot be loaded; the process ends.
    LoadFailed {
        /// Why.
        reason: String,
    },
    /// More text of a request.
    Text {
        /// Which request.
        id: RequestId,
        /// The text.
        text: String,
    },
    /// A request is done.
    Finished {
        /// Which request.
        id: RequestId,
        /// How it went.
        summary: Summary,
    },
    /// An evaluation is done.
    Evaluated {
        /// Which request.
        id: RequestId,
        /// What was measured.
        measured: Evaluation,
    },
    /// A request failed.
    Failed {
        /// Which request.
        id: RequestId,
        /// Whose fault it is.
        blame: Blame,
        /// Why.
        reason: String,
    },
}

/// Whose fault a failed request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The request asks for what cannot be.
    Request,
    /// The request does not fit the model's context.
    ContextLength,
    /// The model.
    Model,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model or a stop string ended it.
    Stop,
    /// The most tokens that were asked for, or that fit.
    Length,
}

/// How a request went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Text that came after the last [`Answer::Text`].
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
    /// Tokens generated per second, from the first token on; the prompt is not counted.
    pub tokens_per_second: f64,
    /// Geometric mean of the probabilities of the tokens generated, 0 to 1.
    pub confidence: f32,
}

/// What was measured on examples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Examples measured.
    pub examples: u64,
    /// Sum of the cross-entropies over the tokens that count, in nats.
    pub nats: f64,
    /// Tokens that count: of completions, and of plain texts.
    pub tokens: u64,
    /// Examples with a completion.
    pub completions: u64,
    /// Completions that greedy decoding gave exactly, white space at the ends aside.
    pub exact: u64,
}

impl Evaluation {
    /// Nats per token, if there are tokens.
    pub fn loss(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nats / self.tokens as f64)
    }

    /// Share of completions that were exact, if there are any.
    pub fn exact_match(&self) -> Option<f64> {
        (self.completions > 0).then(|| self.exact as f64 / self.completions as f64)
    }
}
