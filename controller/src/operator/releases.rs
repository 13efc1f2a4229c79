//! Releases and the repository as operators see them.

use fieldfare_fleet::{ModelName, ReleaseId};
use fieldfare_proto::v1::{Fleet, Release, ReleaseRecord, ReleaseStanding, Repository};
use fieldfare_release::tuf::SigningKey;

use crate::plane::ControlPlane;
use crate::refusal::Refusal;
use crate::repository::manifests::release_id;

/// What an operator needs to write a root and join tokens.
pub(super) async fn fleet(plane: &ControlPlane) -> Result<Fleet, Refusal> {
    let online = plane.releases.online().present()?;
    let next = plane.releases.online().next()?;
    let pem = |key: &SigningKey| key.public().to_pem().to_owned();
    Ok(Fleet {
        trust_domain: plane.access.domain().to_string(),
        tenant: plane.access.tenant().to_string(),
        authority_sha256: plane.authority.issuing().certificate().digest().as_bytes().to_vec(),
        grpc_endpoints: plane.grpc_endpoints.iter().map(ToString::to_string).collect(),
        artifact_endpoint: plane.artifact_endpoint.to_string(),
        snapshot_public_key_pem: pem(&online.snapshot),
        timestamp_public_key_pem: pem(&online.timestamp),
        next_snapshot_public_key_pem: next.as_ref().map(|next| pem(&next.snapshot)).unwrap_or_default(),
        next_timestamp_public_key_pem: next.as_ref().map(|next| pem(&next.timestamp)).unwrap_or_default(),
        root_version: plane.releases.pointer().await?.root_version,
        controller_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The current signed metadata.
pub(super) async fn repository(plane: &ControlPlane) -> Result<Repository, Refusal> {
    let Some(current) = plane.releases.current().await? else {
        return Ok(Repository::default());
    };
    let snapshot = current
        .files()
        .into_iter()
        .find(|file| file.name.ends_with(".snapshot.json"));
    Ok(Repository {
        root: current.root().bytes().to_vec(),
        targets: current.targets().map(|file| file.bytes().to_vec()).unwrap_or_default(),
        snapshot: snapshot.map(|file| file.bytes).unwrap_or_default(),
        timestamp: current
            .timestamp()
            .map(|file| file.bytes().to_vec())
            .unwrap_or_default(),
    })
}

async fn release(plane: &ControlPlane, id: ReleaseId, record: ReleaseRecord) -> Result<Release, Refusal> {
    Ok(Release {
        model: id.model.to_string(),
        number: id.number.0,
        manifest: plane.manifests.bytes(&record).await?,
        standing: record.standing,
        created_unix_ms: record.created_unix_ms,
        manifest_target: record.manifest_target,
    })
}

/// Every release, or those of one model, the oldest first.
pub(super) async fn list(plane: &ControlPlane, model: &str) -> Result<Vec<Release>, Refusal> {
    let found: Vec<_> = {
        let records = plane.mirror.read();
        let all = records
            .releases
            .iter()
            .filter(|((of, _), _)| model.is_empty() || of.as_str() == model);
        all.map(|((of, number), record)| (of.clone(), *number, record.clone()))
            .collect()
    };
    let mut releases = Vec::with_capacity(found.len());
    for (model, number, record) in found {
        let id = ReleaseId {
            model,
            number: fieldfare_fleet::ReleaseNumber(number),
        };
        releases.push(release(plane, id, record).await?);
    }
    Ok(releases)
}

/// A manifest target, `MODEL:N`, or `MODEL` for its newest published release.
pub(super) async fn get(plane: &ControlPlane, text: &str) -> Result<Release, Refusal> {
    let missing = || Refusal::missing("release", text);
    let asked = match (release_id(text), text.split_once(':')) {
        (Ok(id), _) => (id.model, Some(id.number.0)),
        (Err(_), Some((model, number))) => {
            let number = number
                .parse()
                .map_err(|_| Refusal::invalid("release", format!("{number:?} is no release number")))?;
            (model_name(model)?, Some(number))
        }
        (Err(_), None) => (model_name(text)?, None),
    };
    let found = {
        let records = plane.mirror.read();
        let of_model = records.releases.iter().filter(|((model, _), _)| *model == asked.0);
        let mut fitting = of_model.filter(|((_, number), record)| match asked.1 {
            Some(wanted) => *number == wanted,
            None => record.standing() == ReleaseStanding::Published,
        });
        fitting
            .next_back()
            .map(|((_, number), record)| (*number, record.clone()))
    };
    let (number, record) = found.ok_or_else(missing)?;
    let id = ReleaseId {
        model: asked.0,
        number: fieldfare_fleet::ReleaseNumber(number),
    };
    release(plane, id, record).await
}

fn model_name(text: &str) -> Result<ModelName, Refusal> {
    ModelName::new(text).map_err(|error| Refusal::invalid("release", error))
}
