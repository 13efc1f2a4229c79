//! Collecting blobs: what no record names, and nobody stored within the last day, is removed.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use fieldfare_fleet::Timestamp;
use fieldfare_proto::v1::audit_record::Event;
use fieldfare_proto::v1::{CollectArtifactsRequest, CollectArtifactsResponse, ExportRecordsResponse};
use fieldfare_store::Store;
use fieldfare_tls::TimeSource;
use prost::Message;

use crate::audit::call;
use crate::backup::page;
use crate::blobs::{Blobs, Stored};
use crate::config::Collect;
use crate::folder::Folder;
use crate::init::load_fleet;
use crate::keys::Keys;
use crate::limits::{ARTIFACT_GRACE, AUDIT_MESSAGE_BYTES_MAX, COLLECT_INTERVAL, COLLECTED_SHOWN_MAX};
use crate::local;
use crate::named::{Named, Names};
use crate::plane::ControlPlane;
use crate::refusal::{Refusal, chain};

/// What the records of the store name now.
async fn named(store: &Store, keys: &Keys, blobs: &Blobs, names: Names<'_>) -> Result<Named, Refusal> {
    let mut names = names;
    let mut token = String::new();
    loop {
        let ExportRecordsResponse {
            records,
            next_page_token,
        } = page(store, keys, &token).await?;
        for record in &records {
            names.see(record)?;
        }
        token = next_page_token;
        if token.is_empty() {
            return names.finish(blobs).await;
        }
    }
}

/// Removes what nothing names, or only tells what it would remove.
///
/// # Errors
/// What is named is not known for certain: nothing was removed then. Or a file cannot be removed.
pub async fn collect(plane: &ControlPlane, dry_run: bool) -> Result<CollectArtifactsResponse, Refusal> {
    let blobs = plane.releases.blobs();
    // Before the records: what comes after this is not looked at, and what was here and gets a name later is held first.
    let inventory = blobs.inventory().await?;
    let names = Names::new(&plane.keys, &inventory);
    let named = named(plane.records.store(), &plane.keys, blobs, names).await?;
    let now = plane.clock.now().unix_ms();
    let grace = u64::try_from(ARTIFACT_GRACE.as_millis()).unwrap_or(u64::MAX);
    let before = Timestamp::from_unix_ms(now.saturating_sub(grace));
    let mut told = CollectArtifactsResponse::default();
    let count = |told: &mut CollectArtifactsResponse, stored: &Stored| {
        told.removed_count += 1;
        told.removed_bytes += stored.length;
    };
    for (sha256, stored) in &inventory.blobs {
        if named.blobs.contains(sha256) {
            told.kept_count += 1;
        } else if stored.touched > before {
            told.recent_count += 1;
        } else if dry_run || blobs.remove(sha256, before).await? {
            count(&mut told, stored);
            if told.removed.len() < COLLECTED_SHOWN_MAX {
                told.removed.push(sha256.as_bytes().to_vec());
            }
        }
    }
    for (file, stored) in &inventory.unfinished {
        if stored.touched > before {
            told.recent_count += 1;
        } else if dry_run || blobs.remove_unfinished(file, before).await? {
            count(&mut told, stored);
        }
    }
    Ok(told)
}

/// `collect`: asks the controller that runs, and tells what it says, a line for each artifact and one for all of them.
///
/// # Errors
/// No controller runs, or it refuses.
pub async fn ask_to_collect(options: &Collect, clock: &TimeSource) -> Result<String> {
    let folder = Folder::at(&options.dir);
    let mut api = local::controller(&folder, &load_fleet(&folder)?, clock)
        .await
        .context("asking the controller that runs")?;
    let dry_run = options.dry_run;
    let answer = api.collect_artifacts(CollectArtifactsRequest { dry_run }).await;
    let told = answer.context("asking the controller that runs")?.into_inner();
    let mut text = String::new();
    for sha256 in &told.removed {
        text.push_str(&format!("{}\n", hex::encode(sha256)));
    }
    let would = if dry_run { "would remove" } else { "removed" };
    let (removed, bytes) = (told.removed_count, told.removed_bytes);
    let (kept, recent) = (told.kept_count, told.recent_count);
    text.push_str(&format!(
        "{would} {removed} files of {bytes} bytes; {kept} are named, {recent} were stored within the last day\n"
    ));
    Ok(text)
}

/// Collects again and again, until the shutdown.
pub(crate) async fn keep_tidy(plane: Arc<ControlPlane>) {
    loop {
        tokio::select! {
            () = plane.shutdown.cancelled() => return,
            () = tokio::time::sleep(COLLECT_INTERVAL) => {}
        }
        match collect_logged(&plane).await {
            Ok(told) if told.removed_count > 0 => {
                let (blobs, bytes) = (told.removed_count, told.removed_bytes);
                tracing::info!(blobs, bytes, "removed blobs that nothing names");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error = chain(&error), "no blobs are collected"),
        }
    }
}

/// Removes what nothing names; where there is any, the audit log says so first.
async fn collect_logged(plane: &ControlPlane) -> Result<CollectArtifactsResponse, Refusal> {
    let told = collect(plane, true).await?;
    if told.removed_count == 0 {
        return Ok(told);
    }
    let call = call(plane.identity.current().principal(), "collect");
    let logged = plane.audit.record(Event::Call(call)).await?;
    let done = collect(plane, false).await;
    let mut told = done
        .as_ref()
        .map(CollectArtifactsResponse::encode_to_vec)
        .unwrap_or_default();
    if told.len() > AUDIT_MESSAGE_BYTES_MAX {
        told.clear();
    }
    plane.audit.outcome(logged, &done, told).await?;
    done
}
