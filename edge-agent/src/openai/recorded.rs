//! A request under way that leaves a record in the audit log however it ends: which model, how long, how many tokens, and never a
//! word of it.

use std::time::Instant;

use fieldfare_proto::v1::{AuditInference, AuditInferenceEnd, AuditInferenceKind};

use super::request::Kind;
use crate::audit::Audit;
use crate::install::audited;
use crate::serving::protocol::{Blame, Finish, Summary};
use crate::serving::{Piece, Request, RequestError, Served};

/// A request, and what is recorded of it.
pub(super) struct Recorded {
    request: Request,
    audit: Audit,
    began: Instant,
    /// Written when it ends, or when nobody waits for it any more.
    inference: Option<AuditInference>,
}

fn millis(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX)
}

fn tokens(count: usize) -> Option<u32> {
    Some(u32::try_from(count).unwrap_or(u32::MAX))
}

impl Recorded {
    /// A request of this kind that began at some moment.
    pub(super) fn new(request: Request, kind: Kind, served: &Served, audit: Audit, began: Instant) -> Self {
        let kind = match kind {
            Kind::Chat => AuditInferenceKind::Chat,
            Kind::Completion => AuditInferenceKind::Completion,
        };
        let inference = AuditInference {
            kind: kind.into(),
            model: Some(audited::named(&served.installed)),
            end: AuditInferenceEnd::Cancelled.into(),
            ..AuditInference::default()
        };
        Self {
            request,
            audit,
            began,
            inference: Some(inference),
        }
    }

    /// The next piece of the answer; nothing after the last. The record is on its way before the last piece is given.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, RequestError> {
        let next = self.request.next().await;
        match &next {
            Ok(Some(Piece::Text(_))) => self.note_text(),
            Ok(Some(Piece::Finished(summary))) => self.finish(summary),
            Ok(None) => {}
            // The request asked for what cannot be: no model answered anything.
            Err(RequestError::Failed {
                blame: Blame::Request | Blame::ContextLength,
                ..
            }) => self.inference = None,
            Err(_) => self.end(AuditInferenceEnd::Failed),
        }
        next
    }

    /// The whole answer.
    pub(super) async fn whole(mut self) -> Result<(String, Summary), RequestError> {
        let mut text = String::new();
        while let Some(piece) = self.next().await? {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Finished(summary) => {
                    text.push_str(&summary.text);
                    return Ok((text, summary));
                }
            }
        }
        Err(RequestError::Gone)
    }

    fn note_text(&mut self) {
        let now = millis(self.began);
        if let Some(inference) = &mut self.inference {
            inference.first_text_ms.get_or_insert(now);
        }
    }

    fn finish(&mut self, summary: &Summary) {
        if !summary.text.is_empty() {
            self.note_text();
        }
        if let Some(inference) = &mut self.inference {
            inference.prompt_tokens = tokens(summary.prompt_tokens);
            inference.completion_tokens = tokens(summary.completion_tokens);
            inference.confidence = Some(summary.confidence);
        }
        self.end(match summary.finish {
            Finish::Stop => AuditInferenceEnd::Stop,
            Finish::Length => AuditInferenceEnd::Length,
        });
    }

    fn end(&mut self, how: AuditInferenceEnd) {
        if let Some(mut inference) = self.inference.take() {
            inference.end = how.into();
            inference.latency_ms = millis(self.began);
            self.audit.inference(inference);
        }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.end(AuditInferenceEnd::Cancelled);
    }
}
