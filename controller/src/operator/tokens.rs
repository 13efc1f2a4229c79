//! Join tokens: made by an operator who keeps the secret; only its hash comes here.

use std::time::Duration;

use fieldfare_fleet::{Labels, TenantName};
use fieldfare_proto::v1::{CreateTokenRequest, Token, TokenRecord, TokenRole};

use crate::keys::TokenId;
use crate::limits::{TOKEN_LIFETIME_DEFAULT, TOKEN_LIFETIME_MAX, TOKEN_USES_MAX};
use crate::plane::ControlPlane;
use crate::records::attempt;
use crate::refusal::Refusal;

/// Makes a token from the hash of a secret that the caller drew.
pub(super) async fn create(plane: &ControlPlane, request: CreateTokenRequest) -> Result<Token, Refusal> {
    let hash: [u8; 32] = request.secret_hash.as_slice().try_into().map_err(|_| {
        Refusal::invalid(
            "secret_hash",
            format!("has {} bytes, expected the 32 of SHA-256", request.secret_hash.len()),
        )
    })?;
    let name = TenantName::new(request.name.as_str()).map_err(|error| Refusal::invalid("name", error))?;
    if request.role() == TokenRole::Unspecified {
        return Err(Refusal::invalid("role", "expected device, trainer or operator"));
    }
    let uses = request.uses.max(1);
    if uses > TOKEN_USES_MAX {
        return Err(Refusal::invalid(
            "uses",
            format!("is {uses}, at most {TOKEN_USES_MAX} are accepted"),
        ));
    }
    if request.role() != TokenRole::Device && (request.require_approval || !request.labels.is_empty()) {
        return Err(Refusal::invalid(
            "role",
            "labels and approval are for tokens of devices",
        ));
    }
    let labels = Labels::new(request.labels.clone()).map_err(|error| Refusal::invalid("labels", error))?;
    let lifetime = lifetime(request.lifetime_ms)?;
    let id = TokenId::of(&hash);
    let now = plane.clock.now();
    let record = attempt!("the token", plane.records, change, {
        let key = plane.keys.token(&id);
        if change.read::<TokenRecord>(&key).await?.is_some() {
            return Err(Refusal::Exists {
                what: "token",
                name: id.to_string(),
            });
        }
        let mut record = TokenRecord {
            generation: None,
            name: name.to_string(),
            role: request.role,
            secret_hash: hash.to_vec(),
            created_unix_ms: crate::clock::unix_ms(now),
            expires_unix_ms: crate::clock::unix_ms(now.saturating_add(lifetime)),
            uses_left: uses,
            revoked: false,
            labels: labels.clone().into(),
            require_approval: request.require_approval,
        };
        change.put(key, &mut record);
        record
    });
    Ok(token(id.to_string(), record))
}

fn lifetime(ms: u64) -> Result<Duration, Refusal> {
    let lifetime = if ms == 0 {
        TOKEN_LIFETIME_DEFAULT
    } else {
        Duration::from_millis(ms)
    };
    if lifetime > TOKEN_LIFETIME_MAX {
        let expected = format!("is {ms} ms, at most {} ms are accepted", TOKEN_LIFETIME_MAX.as_millis());
        return Err(Refusal::invalid("lifetime_ms", expected));
    }
    Ok(lifetime)
}

fn token(id: String, record: TokenRecord) -> Token {
    Token {
        id,
        name: record.name,
        role: record.role,
        created_unix_ms: record.created_unix_ms,
        expires_unix_ms: record.expires_unix_ms,
        uses_left: record.uses_left,
        revoked: record.revoked,
        labels: record.labels,
        require_approval: record.require_approval,
    }
}

/// Every token, by its id.
pub(super) async fn list(plane: &ControlPlane) -> Result<Vec<Token>, Refusal> {
    let prefix = plane.keys.tokens();
    let records = plane.records.list::<TokenRecord>(&prefix).await?;
    Ok(records
        .into_iter()
        .map(|(key, record)| token(key.below(&prefix).unwrap_or_default().to_owned(), record))
        .collect())
}

/// Ends a token. What it enrolled stays enrolled.
pub(super) async fn revoke(plane: &ControlPlane, id: &str) -> Result<(), Refusal> {
    let parsed = TokenId::parse(id)
        .ok_or_else(|| Refusal::invalid("id", "expected the 32 hexadecimal digits of a token's id"))?;
    let key = plane.keys.token(&parsed);
    attempt!("the token", plane.records, change, {
        let record: Option<TokenRecord> = change.read(&key).await?;
        let mut record = record.ok_or_else(|| Refusal::missing("token", id))?;
        if !record.revoked {
            record.revoked = true;
            change.put(key.clone(), &mut record);
        }
    });
    Ok(())
}
