//! OpenAI's error bodies.

use axum::Json;
use axum::extract::rejection::StringRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::serving::RequestError;
use crate::serving::protocol::Blame;

/// What went wrong, in the words that OpenAI's clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// No bearer token, or another than ours.
    InvalidApiKey,
    /// A field is wrong.
    InvalidRequest,
    /// The model is not the one that serves.
    ModelNotFound,
    /// The prompt and the answer do not fit the context.
    ContextLength,
    /// The path is none.
    NotFound,
    /// The path knows other methods.
    Method,
    /// The body is too long.
    TooLarge,
    /// Too much is asked at once.
    Busy,
    /// Nothing serves at the moment.
    NothingServes,
    /// The model failed.
    Model,
}

impl Code {
    const fn status(self) -> StatusCode {
        match self {
            Self::InvalidApiKey => StatusCode::UNAUTHORIZED,
            Self::InvalidRequest | Self::ContextLength => StatusCode::BAD_REQUEST,
            Self::ModelNotFound | Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::NothingServes => StatusCode::SERVICE_UNAVAILABLE,
            Self::Model => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Busy => "rate_limit_error",
            Self::NothingServes | Self::Model => "server_error",
            _ => "invalid_request_error",
        }
    }

    const fn code(self) -> Option<&'static str> {
        match self {
            Self::InvalidApiKey => Some("invalid_api_key"),
            Self::ModelNotFound => Some("model_not_found"),
            Self::ContextLength => Some("context_length_exceeded"),
            Self::Busy => Some("rate_limit_exceeded"),
            Self::NothingServes => Some("no_release_serves"),
            Self::InvalidRequest | Self::NotFound | Self::Method | Self::TooLarge | Self::Model => None,
        }
    }
}

/// An error as OpenAI's clients expect it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// What went wrong.
    pub code: Code,
    /// One sentence.
    pub message: String,
    /// The field that is wrong.
    pub param: Option<String>,
}

impl ApiError {
    /// An error that no field is to blame for.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
        }
    }

    /// A wrong field.
    pub fn field(param: &str, message: impl Into<String>) -> Self {
        Self {
            code: Code::InvalidRequest,
            message: message.into(),
            param: Some(param.to_owned()),
        }
    }

    /// Nothing serves yet, or at the moment.
    pub fn nothing_serves() -> Self {
        Self::new(
            Code::NothingServes,
            "no release serves on this device at the moment; try again later",
        )
    }

    /// A body that cannot be read.
    pub fn body(rejection: &StringRejection) -> Self {
        let code = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            Code::TooLarge
        } else {
            Code::InvalidRequest
        };
        Self::new(code, rejection.body_text())
    }

    /// The body: `{"error": {...}}`.
    pub fn json(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.code.kind(),
            "param": self.param,
            "code": self.code.code(),
        } })
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Gone => Self::nothing_serves(),
            RequestError::Busy => Self::new(Code::Busy, error.to_string()),
            RequestError::Failed { blame, reason } => match blame {
                Blame::Request => Self::new(Code::InvalidRequest, reason),
                Blame::ContextLength => Self::new(Code::ContextLength, reason),
                Blame::Model => Self::new(Code::Model, reason),
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let retry = matches!(self.code, Code::Busy | Code::NothingServes);
        let mut response = (self.code.status(), Json(self.json())).into_response();
        if retry {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}
