//! A device's local API, as an app on the device would use it: OpenAI's endpoints, examples, evaluation.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use fieldfare_lm::example::Example;
use serde::Deserialize;
use serde_json::{Value, json};

use super::data;
use super::report::Answer;
use crate::limits::{DEVICE_REQUEST_TIMEOUT, EXAMPLES_PER_REQUEST};

/// Most tokens of the answer that is shown.
const ANSWER_TOKENS: u32 = 48;

/// An agent's local API.
#[derive(Clone, Debug)]
pub struct LocalApi {
    base: String,
    token: String,
    http: reqwest::Client,
}

/// What an agent measured with its serving process.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Examples measured.
    pub examples: u64,
    /// Nats per token, over the tokens that count.
    pub loss: f64,
    /// Share of exact answers; nothing for plain text.
    pub exact_match: Option<f64>,
    /// Which bytes were measured.
    pub installed: Installed,
}

/// Which bytes answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Installed {
    /// The variant.
    pub variant: String,
    /// Target name of the release's manifest.
    pub manifest: String,
    /// SHA-256 of the weights, hexadecimal.
    pub weights_sha256: String,
    /// SHA-256 of the adapter, hexadecimal.
    pub adapter_sha256: Option<String>,
}

#[derive(Deserialize)]
struct EndpointsFile {
    api: String,
}

#[derive(Deserialize)]
struct EvaluationAnswer {
    examples: u64,
    loss_nats_per_token: Option<f64>,
    exact_match: Option<f64>,
    #[serde(flatten)]
    installed: Installed,
}

#[derive(Deserialize)]
struct Own {
    tokens_per_second: f64,
    confidence: f64,
}

impl LocalApi {
    /// The API of a running agent, from its folder.
    ///
    /// # Errors
    /// The agent's files cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let endpoints: EndpointsFile =
            serde_json::from_str(&read("endpoints.json")?).context("reading endpoints.json")?;
        let token = read("api-token")?.trim().to_owned();
        let http = reqwest::Client::builder()
            .timeout(DEVICE_REQUEST_TIMEOUT)
            .no_proxy()
            .build()
            .context("the HTTP client")?;
        Ok(Self {
            base: endpoints.api,
            token,
            http,
        })
    }

    /// Where it listens, for example `http://127.0.0.1:40123`.
    pub fn base(&self) -> &str {
        &self.base
    }

    async fn post(&self, path: &str, kind: &str, body: String) -> Result<Value> {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(&self.token);
        let answer = request
            .header(reqwest::header::CONTENT_TYPE, kind)
            .body(body)
            .send()
            .await;
        let answer = answer.with_context(|| format!("asking {}{path}", self.base))?;
        let status = answer.status();
        let text = answer
            .text()
            .await
            .with_context(|| format!("reading the answer of {path}"))?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if !status.is_success() {
            let message = value
                .pointer("/error/message")
                .and_then(Value::as_str)
                .map_or_else(|| value.to_string(), str::to_owned);
            bail!("{path} answered {status}: {message}");
        }
        Ok(value)
    }

    /// Adds examples to what the device may train on.
    ///
    /// # Errors
    /// The agent refuses them.
    pub async fn add_examples(&self, examples: &[Example]) -> Result<()> {
        for part in examples.chunks(EXAMPLES_PER_REQUEST) {
            self.post("/fieldfare/v1/examples", "application/x-ndjson", data::to_lines(part))
                .await?;
        }
        Ok(())
    }

    /// Measures the serving model on held-out examples, which are not kept.
    ///
    /// # Errors
    /// Nothing serves, or an example does not fit the model.
    pub async fn evaluate(&self, examples: &[Example]) -> Result<Measured> {
        let part = &examples[..examples.len().min(EXAMPLES_PER_REQUEST)];
        let answer = self
            .post("/fieldfare/v1/evaluate", "application/x-ndjson", data::to_lines(part))
            .await?;
        let answer: EvaluationAnswer = serde_json::from_value(answer).context("reading the evaluation")?;
        let loss = answer.loss_nats_per_token.context("the evaluation measured no token")?;
        Ok(Measured {
            examples: answer.examples,
            loss,
            exact_match: answer.exact_match,
            installed: answer.installed,
        })
    }

    /// Asks through OpenAI's endpoints: a conversation by chat, anything else as a completion. The likeliest answer.
    ///
    /// # Errors
    /// Nothing serves.
    pub async fn ask(&self, question: &Question) -> Result<Answer> {
        let (path, mut body, pointer) = match question {
            Question::Text(prompt) => ("/v1/completions", json!({"prompt": prompt}), "/choices/0/text"),
            Question::Conversation(messages) => (
                "/v1/chat/completions",
                json!({"messages": messages}),
                "/choices/0/message/content",
            ),
        };
        body["temperature"] = json!(0);
        body["max_tokens"] = json!(ANSWER_TOKENS);
        let answer = self.post(path, "application/json", body.to_string()).await?;
        let text = answer
            .pointer(pointer)
            .and_then(Value::as_str)
            .context("the answer has no text")?;
        let own: Own = serde_json::from_value(answer["fieldfare"].clone()).context("the answer's field `fieldfare`")?;
        Ok(Answer {
            text: text.trim().to_owned(),
            confidence: own.confidence,
            tokens_per_second: own.tokens_per_second,
        })
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Text to continue.
    Text(String),
    /// A conversation to answer.
    Conversation(Vec<Value>),
}

impl Question {
    /// The question of an example: its prompt, or the first half of a plain text.
    pub fn of(example: &Example) -> Self {
        match example {
            Example::Completion { prompt, .. } => Self::Text(prompt.clone()),
            Example::Messages { messages } => {
                let before = &messages[..messages.len().saturating_sub(1)];
                Self::Conversation(
                    before
                        .iter()
                        .map(|m| json!({"role": m.role, "content": m.content}))
                        .collect(),
                )
            }
            Example::Text { text } => {
                let words: Vec<&str> = text.split_whitespace().collect();
                Self::Text(words[..words.len().div_ceil(2)].join(" "))
            }
        }
    }

    /// The question for people.
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Conversation(messages) => {
                let last = messages.last().and_then(|message| message["content"].as_str());
                last.unwrap_or_default().to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fieldfare_lm::tokenizer::ChatMessage;

    use super::*;

    #[test]
    fn a_question_is_what_comes_before_the_answer() {
        let message = |role: &str, content: &str| ChatMessage {
            role: role.to_owned(),
            content: content.to_owned(),
        };
        let completion = Example::Completion {
            prompt: "a".to_owned(),
            completion: "b".to_owned(),
        };
        assert_eq!(Question::of(&completion), Question::Text("a".to_owned()));
        let chat = Example::Messages {
            messages: vec![message("system", "s"), message("user", "q"), message("assistant", "r")],
        };
        assert_eq!(Question::of(&chat).shown(), "q");
        assert_eq!(
            Question::of(&Example::Text {
                text: "one two three".to_owned()
            }),
            Question::Text("one two".to_owned())
        );
    }
}
