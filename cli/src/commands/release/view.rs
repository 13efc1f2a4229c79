//! A release, as people and programs see it.

use anyhow::Result;
use fieldfare_proto::v1;
use fieldfare_release::{ReleaseManifest, Sha256Digest};
use serde::Serialize;

use super::manifest;
use crate::args::Format;
use crate::clock;
use crate::output::{bytes, show, since, table};

#[derive(Serialize)]
struct View {
    model: String,
    number: u64,
    manifest_target: String,
    manifest_sha256: String,
    standing: &'static str,
    created_unix_ms: i64,
    manifest: Option<ReleaseManifest>,
}

impl View {
    fn of(release: v1::Release) -> Self {
        Self {
            standing: match release.standing() {
                v1::ReleaseStanding::Proposed => "proposed",
                v1::ReleaseStanding::Published => "published",
                v1::ReleaseStanding::Withdrawn => "withdrawn",
                v1::ReleaseStanding::Unspecified => "unknown",
            },
            manifest: manifest(&release).ok().map(|(_, manifest)| manifest),
            manifest_sha256: Sha256Digest::of(&release.manifest).to_string(),
            model: release.model,
            number: release.number,
            manifest_target: release.manifest_target,
            created_unix_ms: release.created_unix_ms,
        }
    }
}

fn list(views: &[View]) -> String {
    let now = clock::now();
    table(
        ["release", "standing", "variants", "made", "manifest"],
        views.iter().map(|view| {
            let variants = view.manifest.iter().flat_map(|manifest| &manifest.variants);
            let names: Vec<String> = variants.map(|variant| variant.name.to_string()).collect();
            [
                format!("{}:{}", view.model, view.number),
                view.standing.to_owned(),
                names.join(", "),
                since(now, view.created_unix_ms),
                view.manifest_target.clone(),
            ]
        }),
    )
}

fn details(view: &View) -> String {
    let head = format!(
        "{}:{} ({})\n{}\nsha256 {}",
        view.model, view.number, view.standing, view.manifest_target, view.manifest_sha256
    );
    let Some(manifest) = &view.manifest else { return head };
    let variants = table(
        ["variant", "size", "held-out loss", "memory", "adapter"],
        manifest.variants.iter().map(|variant| {
            [
                variant.name.to_string(),
                bytes(variant.figures.weight_bytes),
                format!("{:.4} nats/token", variant.figures.held_out_loss),
                bytes(variant.requirements.memory_bytes),
                variant
                    .adapter()
                    .map(|adapter| adapter.target.to_string())
                    .unwrap_or_default(),
            ]
        }),
    );
    let made = serde_json::to_string_pretty(&manifest.provenance).unwrap_or_default();
    format!("{head}\n{variants}\nmade by {made}")
}

/// Prints one release.
pub(super) fn print(format: Format, release: v1::Release) -> Result<()> {
    show(format, &View::of(release), details)
}

/// Prints releases, one a line.
pub(super) fn print_all(format: Format, releases: Vec<v1::Release>) -> Result<()> {
    let views: Vec<View> = releases.into_iter().map(View::of).collect();
    show(format, &views, |views| list(views))
}
