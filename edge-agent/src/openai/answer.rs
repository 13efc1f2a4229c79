//! Answers, whole or as a stream of server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::error::{ApiError, Code};
use super::provenance;
use super::recorded::Recorded;
use super::request::Kind;
use crate::clock;
use crate::serving::protocol::{Finish, Summary};
use crate::serving::{Piece, Served};

/// What every part of one answer says.
pub(super) struct Head {
    kind: Kind,
    id: String,
    created: u64,
    served: Arc<Served>,
}

const fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

fn usage(summary: &Summary) -> Value {
    json!({
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.completion_tokens,
        "total_tokens": summary.prompt_tokens + summary.completion_tokens,
    })
}

impl Head {
    pub(super) fn new(kind: Kind, served: &Arc<Served>) -> Result<Self, ApiError> {
        let id = clock::random_bytes::<12>().map_err(|error| ApiError::new(Code::Model, error.to_string()))?;
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        let id = format!("{prefix}-{}", hex::encode(id));
        Ok(Self {
            kind,
            id,
            created: clock::now_seconds().get(),
            served: Arc::clone(served),
        })
    }

    fn body(&self, streamed: bool, choices: Value) -> Value {
        let object = match (self.kind, streamed) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.served.manifest.model.as_str(),
            "system_fingerprint": self.served.installed.manifest.to_string(),
            "choices": choices,
        })
    }

    fn choice(&self, text: &str, finish: &Summary) -> Value {
        let finish = finish_reason(finish.finish);
        match self.kind {
            Kind::Chat => json!([{
                "index": 0, "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": null, "finish_reason": finish,
            }]),
            Kind::Completion => json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }]),
        }
    }

    fn delta(&self, text: &str, finish: Option<Finish>) -> Value {
        let finish = finish.map(finish_reason);
        match self.kind {
            Kind::Chat => {
                let delta = if text.is_empty() && finish.is_some() {
                    json!({})
                } else {
                    json!({ "content": text })
                };
                json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }])
            }
            Kind::Completion => json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }]),
        }
    }

    /// What only Fieldfare says of an answer.
    fn own(&self, summary: &Summary) -> Value {
        let mut own = provenance(&self.served);
        own["tokens_per_second"] = json!(summary.tokens_per_second);
        own["confidence"] = json!(summary.confidence);
        own
    }
}

/// The whole answer at once.
pub(super) async fn whole(head: Head, request: Recorded) -> Result<Response, ApiError> {
    let (text, summary) = request.whole().await?;
    let mut body = head.body(false, head.choice(&text, &summary));
    body["usage"] = usage(&summary);
    body["fieldfare"] = head.own(&summary);
    Ok(Json(body).into_response())
}

/// Where a stream is.
enum Stage {
    Role,
    Text,
    Usage(Summary),
    Done,
    Over,
}

struct Streaming {
    head: Head,
    request: Recorded,
    /// The first piece, which came before the status was sent.
    first: Option<Piece>,
    include_usage: bool,
    stage: Stage,
}

impl Streaming {
    /// The next event's data; nothing after `[DONE]`.
    async fn next(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Role => {
                self.stage = Stage::Text;
                let choices = json!([{
                    "index": 0, "delta": { "role": "assistant", "content": "" }, "logprobs": null, "finish_reason": null,
                }]);
                Some(self.chunk(choices, None))
            }
            Stage::Text => Some(self.text().await),
            Stage::Usage(summary) => {
                self.stage = Stage::Done;
                Some(self.chunk(json!([]), Some(&summary)))
            }
            Stage::Done => Some("[DONE]".to_owned()),
            Stage::Over => None,
        }
    }

    fn chunk(&self, choices: Value, summary: Option<&Summary>) -> String {
        let mut body = self.head.body(true, choices);
        if self.include_usage {
            body["usage"] = summary.map_or(Value::Null, usage);
        }
        body.to_string()
    }

    async fn text(&mut self) -> String {
        let next = match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.request.next().await,
        };
        match next {
            Ok(Some(Piece::Text(text))) => {
                self.stage = Stage::Text;
                self.chunk(self.head.delta(&text, None), None)
            }
            Ok(Some(Piece::Finished(summary))) => {
                let mut body = self
                    .head
                    .body(true, self.head.delta(&summary.text, Some(summary.finish)));
                body["fieldfare"] = self.head.own(&summary);
                if self.include_usage {
                    body["usage"] = Value::Null;
                }
                self.stage = if self.include_usage {
                    Stage::Usage(summary)
                } else {
                    Stage::Done
                };
                body.to_string()
            }
            Ok(None) => ApiError::nothing_serves().json().to_string(),
            // The status has been sent: the error is the last event, and no `[DONE]` follows it.
            Err(error) => ApiError::from(error).json().to_string(),
        }
    }
}

/// The answer as it comes. What fails before the first token, such as a prompt that is too long, fails with a status. A client
/// that goes away drops the stream, and with it the request.
pub(super) async fn stream(head: Head, mut request: Recorded, include_usage: bool) -> Result<Response, ApiError> {
    let first = request.next().await?;
    let stage = match head.kind {
        Kind::Chat => Stage::Role,
        Kind::Completion => Stage::Text,
    };
    let streaming = Streaming {
        head,
        request,
        first,
        include_usage,
        stage,
    };
    let events = stream::unfold(streaming, |mut streaming| async move {
        let data = streaming.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), streaming))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}
