//! The local API: on loopback, behind a bearer token that only the owner can read.

mod examples;
mod settings;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fieldfare_files::{self as files, FileError, Secrecy};
use fieldfare_proto::v1;
use fieldfare_release::Sha256Digest;
use fieldfare_tls::IdentityHandle;
use fieldfare_tls::limits::{REQUEST_DRAIN_TIMEOUT, REQUEST_HEAD_TIMEOUT};
use fieldfare_tls::{PlainSettings, serve_plain};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::clock;
use crate::config::AgentConfig;
use crate::folder::Folder;
use crate::limits::{LOCAL_CONNECTIONS_MAX, MAX_EXAMPLES_BODY_BYTES, MAX_REQUEST_BYTES};
use crate::openai::{self, ApiError, Code};
use crate::private::PrivateStore;
use crate::rounds::RoundsView;
use crate::serving::Serving;
use crate::session::Connection;
pub use settings::SettingsOwner;

/// Why the local API does not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiStartError {
    /// The address is reachable from elsewhere.
    #[error("{0} is not a loopback address: the local API would be everybody's")]
    NotLoopback(SocketAddr),
    /// Somebody else listens there.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The token cannot be kept.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no randomness for a token.
    #[error(transparent)]
    Randomness(#[from] clock::NoRandomness),
}

/// What the handlers see.
#[derive(Debug)]
pub struct ApiState {
    /// What serves.
    pub serving: Serving,
    /// Examples and ledger.
    pub private: Arc<PrivateStore>,
    /// The owner's settings.
    pub settings: SettingsOwner,
    /// What the controller is told.
    pub observed: watch::Receiver<v1::ObservedState>,
    /// The session.
    pub connection: watch::Receiver<Connection>,
    /// Training.
    pub rounds: watch::Receiver<RoundsView>,
    /// The audit log.
    pub audit: Audit,
    /// What enrolment fixed.
    pub config: AgentConfig,
    /// Who the device is.
    pub identity: IdentityHandle,
    /// Where everything lies.
    pub folder: Folder,
    /// Digest of the bearer token.
    pub token: Sha256Digest,
}

/// The bearer token of a folder, drawn when there is none yet.
///
/// # Errors
/// The folder refuses, or there is no randomness.
pub fn token(folder: &Folder) -> Result<String, ApiStartError> {
    let known = files::read(&folder.api_token())?.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(known) = known.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()) {
        return Ok(known);
    }
    let token = hex::encode(clock::random_bytes::<32>()?);
    files::replace(&folder.api_token(), format!("{token}\n").as_bytes(), Secrecy::Secret)?;
    Ok(token)
}

/// Listens on a loopback address.
///
/// # Errors
/// The address is not loopback, or taken.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ApiStartError> {
    if !address.ip().is_loopback() {
        return Err(ApiStartError::NotLoopback(address));
    }
    TcpListener::bind(address)
        .await
        .map_err(|source| ApiStartError::Listen { address, source })
}

/// The routes.
pub fn router(state: Arc<ApiState>) -> Router {
    let bulk = Router::new()
        .route(
            "/fieldfare/v1/examples",
            post(examples::add).get(examples::list).delete(examples::erase_all),
        )
        .route("/fieldfare/v1/evaluate", post(examples::evaluate))
        .layer(DefaultBodyLimit::max(MAX_EXAMPLES_BODY_BYTES));
    Router::new()
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{model}", get(openai::one_model))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route(
            "/fieldfare/v1/examples/{id}",
            axum::routing::put(examples::correct).delete(examples::erase),
        )
        .route(
            "/fieldfare/v1/settings",
            get(settings::show).patch(settings::change).put(settings::change),
        )
        .route("/fieldfare/v1/status", get(state::status))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .merge(bulk)
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(Arc::clone(&state), authorise))
        .with_state(state)
}

async fn unknown_path(method: Method, uri: Uri) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is nothing at {method} {}", uri.path()))
}

async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(Code::Method, format!("{} does not know {method}", uri.path()))
}

/// Lets nobody in without the token. Digests are compared, so that the time of the comparison says nothing about the token.
async fn authorise(State(state): State<Arc<ApiState>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    // The name of a scheme has no case (RFC 9110, section 11.1).
    let given = given.and_then(|value| value.split_once(' '));
    let given = given
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match given {
        Some(token) if Sha256Digest::of(token.as_bytes()) == state.token => next.run(request).await,
        Some(_) => ApiError::new(
            Code::InvalidApiKey,
            "the bearer token is not the one in this agent's api-token file",
        )
        .into_response(),
        None => ApiError::new(
            Code::InvalidApiKey,
            "expected `Authorization: Bearer TOKEN`, with the token in this agent's api-token file",
        )
        .into_response(),
    }
}

/// Serves until it is told to stop, and a little longer for what is under way.
pub async fn serve(listener: TcpListener, state: Arc<ApiState>, stop: CancellationToken) {
    let settings = PlainSettings {
        connections_max: LOCAL_CONNECTIONS_MAX,
        head_timeout: REQUEST_HEAD_TIMEOUT,
        drain_timeout: REQUEST_DRAIN_TIMEOUT,
    };
    serve_plain(listener, settings, router(state), stop.cancelled_owned()).await;
}
