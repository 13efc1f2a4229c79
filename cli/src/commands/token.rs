//! `fieldfare token`: one-time tokens with which devices, trainers and operators join.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use fieldfare_proto::v1;
use fieldfare_tls::{JoinRole, JoinSecret, JoinToken, RootPin};
use serde::Serialize;

use super::Session;
use crate::args::at_least_one;
use crate::clock;
use crate::output::{note, show, since, table};
use crate::signing;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Makes a token. It is printed once and not kept anywhere.
    Create(Create),
    /// Lists tokens, without their secrets.
    List,
    /// Makes a token worthless.
    Revoke {
        /// Its id.
        id: String,
    },
}

/// Arguments of `token create`.
#[derive(Clone, Debug, Args)]
pub struct Create {
    /// What the bearer becomes.
    #[arg(long, value_enum, default_value_t = Role::Device)]
    pub role: Role,
    /// Shown in lists.
    #[arg(long, default_value = "token")]
    pub name: String,
    /// Hours until it is worthless.
    #[arg(long, default_value_t = 24, value_parser = at_least_one)]
    pub hours: u32,
    /// How many may join with it.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub uses: u32,
    /// Labels of every device that joins with it, for example `site=north,kind=gateway`.
    #[arg(long, value_parser = super::labels, default_value = "")]
    pub labels: BTreeMap<String, String>,
    /// Devices wait for `fieldfare devices approve`.
    #[arg(long)]
    pub require_approval: bool,
}

/// What the bearer of a token becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// A device of the fleet.
    Device,
    /// A trainer.
    Trainer,
    /// An operator.
    Operator,
}

impl Role {
    fn wire(self) -> v1::TokenRole {
        match self {
            Self::Device => v1::TokenRole::Device,
            Self::Trainer => v1::TokenRole::Trainer,
            Self::Operator => v1::TokenRole::Operator,
        }
    }

    fn join(self) -> JoinRole {
        match self {
            Self::Device => JoinRole::Device,
            Self::Trainer => JoinRole::Trainer,
            Self::Operator => JoinRole::Operator,
        }
    }
}

#[derive(Serialize)]
struct View {
    id: String,
    name: String,
    role: &'static str,
    created_unix_ms: i64,
    expires_unix_ms: i64,
    uses_left: u32,
    revoked: bool,
    labels: BTreeMap<String, String>,
    require_approval: bool,
    /// Only right after it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Serialize)]
struct Revoked {
    id: String,
    revoked: bool,
}

impl View {
    fn of(token: v1::Token) -> Self {
        let role = match token.role() {
            v1::TokenRole::Device => "device",
            v1::TokenRole::Trainer => "trainer",
            v1::TokenRole::Operator => "operator",
            v1::TokenRole::Unspecified => "unknown",
        };
        Self {
            id: token.id,
            name: token.name,
            role,
            created_unix_ms: token.created_unix_ms,
            expires_unix_ms: token.expires_unix_ms,
            uses_left: token.uses_left,
            revoked: token.revoked,
            labels: token.labels,
            require_approval: token.require_approval,
            token: None,
        }
    }
}

/// Makes a token: the secret is drawn here, and the controller learns its hash alone. Its text, and what the controller keeps.
///
/// # Errors
/// There is no release root yet, or the controller refuses.
pub async fn create(session: &Session, create: &Create) -> Result<(String, v1::Token)> {
    let identity = session.context.identity()?;
    let state = signing::trusted(&session.context)?;
    let secret = JoinSecret::from_random(clock::random_bytes()?);
    let authority = identity
        .bundle()
        .authorities()
        .first()
        .ok_or_else(|| anyhow!("the credential names no authority"))?;
    let root = state.root();
    let token = JoinToken {
        endpoints: vec![session.context.grpc()?],
        authority: authority.digest(),
        root: RootPin {
            version: root.version().get(),
            sha256: fieldfare_fleet::Digest::from_bytes(*root.sha256().as_bytes()),
        },
        role: create.role.join(),
        secret,
    };
    let lifetime = Duration::from_secs(u64::from(create.hours) * 3600);
    let request = v1::CreateTokenRequest {
        role: create.role.wire().into(),
        name: create.name.clone(),
        lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
        uses: create.uses,
        labels: create.labels.clone(),
        require_approval: create.require_approval,
        secret_hash: token.secret.hash().as_bytes().to_vec(),
    };
    let answer = session.client.call(
        request,
        |mut api, request| async move { api.create_token(request).await },
    );
    let kept = answer.await?.token.context("the controller answered without a token")?;
    Ok((token.to_text()?, kept))
}

/// Does it.
///
/// # Errors
/// What the controller says.
pub async fn run(session: &Session, action: Action) -> Result<()> {
    match action {
        Action::Create(arguments) => {
            let (text, kept) = create(session, &arguments).await?;
            note(format!(
                "a secret: hand it to the {} that joins, and to nobody else",
                View::of(kept.clone()).role
            ));
            let view = View {
                token: Some(text),
                ..View::of(kept)
            };
            show(session.format, &view, |view| view.token.clone().unwrap_or_default())
        }
        Action::List => {
            let request = v1::ListTokensRequest {};
            let answer = session.client.call(
                request,
                |mut api, request| async move { api.list_tokens(request).await },
            );
            let views: Vec<View> = answer.await?.tokens.into_iter().map(View::of).collect();
            show(session.format, &views, |views| list(views))
        }
        Action::Revoke { id } => {
            let request = v1::RevokeTokenRequest { id: id.clone() };
            session
                .client
                .call(
                    request,
                    |mut api, request| async move { api.revoke_token(request).await },
                )
                .await?;
            show(session.format, &Revoked { id, revoked: true }, |token| {
                format!("token {} is revoked", token.id)
            })
        }
    }
}

fn list(views: &[View]) -> String {
    let now = clock::now();
    table(
        ["id", "name", "role", "uses left", "created", "state"],
        views.iter().map(|view| {
            let over = u64::try_from(view.expires_unix_ms).is_ok_and(|end| end <= now.unix_ms());
            let state = match view {
                View { revoked: true, .. } => "revoked",
                View { uses_left: 0, .. } => "used",
                _ if over => "expired",
                _ => "valid",
            };
            [
                view.id.clone(),
                view.name.clone(),
                view.role.to_owned(),
                view.uses_left.to_string(),
                since(now, view.created_unix_ms),
                state.to_owned(),
            ]
        }),
    )
}
