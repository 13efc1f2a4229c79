//! Generation, one token at a time.

use std::sync::Arc;

use super::cache::KvCache;
use super::forward::{Decoder, Wanted};
use super::lora::AppliedAdapter;
use super::sampling::{Sampler, Sampling};
use super::stop::{Matched, StopMatcher};
use super::{Engine, Model, RunError};
use crate::limits;
use crate::tokenizer::Detokenizer;

/// How to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// How each token is chosen.
    pub sampling: Sampling,
    /// The most tokens to generate. The context may end a generation earlier.
    pub max_tokens: usize,
    /// Texts that end the generation and are not part of it; at most [`limits::MAX_STOP_STRINGS`].
    pub stop: Vec<String>,
}

impl Default for GenerationOptions {
    /// Greedy, up to 256 tokens, no stop strings.
    fn default() -> Self {
        Self {
            sampling: Sampling::Greedy,
            max_tokens: 256,
            stop: Vec::new(),
        }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the sequence or the turn.
    EndToken,
    /// A stop string came up.
    StopString,
    /// `max_tokens` were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedToken {
    /// The token.
    pub token: u32,
    /// Text that can be shown now; empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// Natural logarithm of the token's probability under the model, before temperature and truncation.
    pub log_probability: f32,
}

/// What one [`Session::step`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A part of the prompt was computed.
    Prefilled {
        /// Prompt tokens computed so far.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was generated.
    Token(GeneratedToken),
    /// The generation is over. Every later step says the same, without text.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that had been held back.
        text: String,
    },
}

/// A whole generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The text, without end token and stop string.
    pub text: String,
    /// The tokens, end token included.
    pub tokens: Vec<u32>,
    /// Natural logarithm of each token's probability.
    pub log_probabilities: Vec<f32>,
    /// Why it ended.
    pub reason: FinishReason,
}

impl Generation {
    /// Geometric mean of the tokens' probabilities: 0 to 1, and 0 where nothing was generated.
    pub fn confidence(&self) -> f32 {
        confidence(&self.log_probabilities)
    }
}

/// One sequence being generated. It holds its cache, and may be dropped at any moment.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    adapter: Option<Arc<AppliedAdapter>>,
    cache: KvCache,
    prompt: Vec<u32>,
    prefilled: usize,
    /// The token that was chosen last and is not in the cache yet.
    latest: Option<u32>,
    sampler: Sampler,
    stop: StopMatcher,
    detokenizer: Detokenizer,
    max_tokens: usize,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    finished: Option<FinishReason>,
}

impl Engine {
    /// Begins a generation after `prompt`. Nothing is computed yet.
    pub fn session(&self, prompt: &[u32], options: &GenerationOptions) -> Result<Session, RunError> {
        if prompt.is_empty() {
            return Err(RunError::Empty);
        }
        if options.stop.len() > limits::MAX_STOP_STRINGS {
            return Err(RunError::StopStrings {
                found: options.stop.len(),
            });
        }
        self.model.check(prompt)?;
        Ok(Session {
            model: Arc::clone(&self.model),
            adapter: self.adapter.clone(),
            cache: KvCache::new(&self.model.config),
            prompt: prompt.to_vec(),
            prefilled: 0,
            latest: None,
            sampler: Sampler::new(options.sampling),
            stop: StopMatcher::new(&options.stop),
            detokenizer: Detokenizer::new(),
            max_tokens: options.max_tokens,
            tokens: Vec::new(),
            log_probabilities: Vec::new(),
            finished: None,
        })
    }

    /// Generates to the end.
    pub fn generate(&self, prompt: &[u32], options: &GenerationOptions) -> Result<Generation, RunError> {
        let mut session = self.session(prompt, options)?;
        let mut text = String::new();
        loop {
            match session.step()? {
                Step::Prefilled { .. } => {}
                Step::Token(token) => text.push_str(&token.text),
                Step::Finished { reason, text: rest } => {
                    text.push_str(&rest);
                    let Session {
                        tokens,
                        log_probabilities,
                        ..
                    } = session;
                    return Ok(Generation {
                        text,
                        tokens,
                        log_probabilities,
                        reason,
                    });
                }
            }
        }
    }
}

impl Session {
    /// Computes the next part: up to [`limits::PREFILL_CHUNK`] tokens of the prompt, or one token. Between steps a session may be dropped, or others advanced.
    pub fn step(&mut self) -> Result<Step, RunError> {
        if let Some(reason) = self.finished {
            return Ok(Step::Finished {
                reason,
                text: String::new(),
            });
        }
        let last = self.prompt.len() - 1;
        if self.prefilled < last {
            let end = last.min(self.prefilled + limits::PREFILL_CHUNK);
            let chunk = self.prompt[self.prefilled..end].to_vec();
            self.forward(&chunk, Wanted::None);
            self.prefilled = end;
            return Ok(Step::Prefilled {
                done: end,
                total: self.prompt.len(),
            });
        }
        if self.tokens.len() >= self.max_tokens {
            return Ok(self.finish(FinishReason::MaxTokens));
        }
        if self.cache.len() >= self.model.config.context {
            return Ok(self.finish(FinishReason::ContextFull));
        }
        let input = self.latest.unwrap_or(self.prompt[last]);
        let logits = self.forward(&[input], Wanted::Last);
        self.choose(&logits)
    }

    /// Prompt tokens.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// Tokens generated so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Natural logarithms of the generated tokens' probabilities.
    pub fn log_probabilities(&self) -> &[f32] {
        &self.log_probabilities
    }

    /// Geometric mean of the probabilities of the tokens so far: 0 to 1, and 0 before the first.
    pub fn confidence(&self) -> f32 {
        confidence(&self.log_probabilities)
    }

    fn forward(&mut self, tokens: &[u32], wanted: Wanted) -> Vec<f32> {
        let (config, weights) = (&self.model.config, &self.model.weights);
        let decoder = Decoder {
            config,
            weights,
            adapter: self.adapter.as_deref(),
        };
        decoder.forward(&mut self.cache, tokens, wanted)
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Step, RunError> {
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(RunError::NotFinite);
        }
        let choice = self.sampler.choose(logits);
        self.latest = Some(choice.token);
        self.tokens.push(choice.token);
        self.log_probabilities.push(choice.log_probability);
        if self.model.tokenizer.vocabulary().ends_generation(choice.token) {
            return Ok(self.finish(FinishReason::EndToken));
        }
        let text = self.detokenizer.push(&self.model.tokenizer, choice.token);
        match self.stop.push(&text) {
            Matched::Text(text) => {
                let log_probability = choice.log_probability;
                Ok(Step::Token(GeneratedToken {
                    token: choice.token,
                    text,
                    log_probability,
                }))
            }
            Matched::Stop(text) => {
                self.finished = Some(FinishReason::StopString);
                Ok(Step::Finished {
                    reason: FinishReason::StopString,
                    text,
                })
            }
        }
    }

    fn finish(&mut self, reason: FinishReason) -> Step {
        self.finished = Some(reason);
        let rest = self.detokenizer.finish();
        let text = match self.stop.push(&rest) {
            Matched::Text(text) => text + &self.stop.finish(),
            Matched::Stop(text) => text,
        };
        Step::Finished { reason, text }
    }
}

fn confidence(log_probabilities: &[f32]) -> f32 {
    if log_probabilities.is_empty() {
        return 0.0;
    }
    let mean = log_probabilities.iter().sum::<f32>() / log_probabilities.len() as f32;
    mean.exp()
}
