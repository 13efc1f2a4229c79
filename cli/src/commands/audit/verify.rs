//! `fieldfare audit verify`: the verdict on a log.

use anyhow::Result;
use fieldfare_audit::folder::LogFolder;
use fieldfare_audit::read::{Examined, examine};
use fieldfare_audit::verify::{Finding, Report, segment_name};
use fieldfare_release::UnixSeconds;
use serde::Serialize;

use super::Judged;
use crate::args::Format;
use crate::exit::refused;
use crate::output;

/// The verdict on one log.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    path: String,
    pub(super) whole: bool,
    origin: Option<String>,
    key_sha256: Option<String>,
    /// Whether the key was given, rather than found beside the log.
    key_pinned: bool,
    /// The first record that is kept.
    first: u64,
    /// How many there are, with those before the first.
    records: u64,
    /// How many of them a signed head covers.
    signed: u64,
    newest_head: Option<Head>,
    removed: Option<Removed>,
    unfinished: Option<Unfinished>,
    findings: Vec<Found>,
    more_findings: u64,
}

#[derive(Debug, Serialize)]
struct Head {
    size: u64,
    root_sha256: String,
    at: String,
}

#[derive(Debug, Serialize)]
struct Removed {
    before: u64,
    at: String,
}

#[derive(Debug, Serialize)]
struct Unfinished {
    segment: String,
    from_byte: u64,
}

#[derive(Debug, Serialize)]
struct Found {
    code: &'static str,
    record: Option<u64>,
    text: String,
}

/// Milliseconds as people read them.
pub(super) fn time(unix_ms: u64) -> String {
    UnixSeconds::new(unix_ms / 1000).to_string()
}

impl Found {
    fn of(finding: &Finding) -> Self {
        Self {
            code: finding.code(),
            record: finding.record(),
            text: finding.to_string(),
        }
    }
}

impl Verdict {
    pub(super) fn of(folder: &LogFolder, examined: &Examined) -> Self {
        let report: &Report = &examined.report;
        Self {
            path: folder.path().display().to_string(),
            whole: report.is_sound(),
            origin: report.origin.clone(),
            key_sha256: examined.key.map(|key| key.to_string()),
            key_pinned: examined.pinned,
            first: report.first,
            records: report.records,
            signed: report.signed,
            newest_head: report.newest.as_ref().map(|head| Head {
                size: head.size,
                root_sha256: head.root.to_string(),
                at: time(head.at_unix_ms),
            }),
            removed: report.removal.as_ref().map(|removal| Removed {
                before: removal.first,
                at: time(removal.at_unix_ms),
            }),
            unfinished: report.torn.map(|torn| Unfinished {
                segment: segment_name(torn.segment),
                from_byte: torn.offset,
            }),
            findings: report.findings.iter().map(Found::of).collect(),
            more_findings: report.more_findings,
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let verdict = if self.whole { "whole" } else { "NOT whole" };
        let mut lines = vec![format!("{}: {verdict}", self.path)];
        lines.extend(self.origin.as_ref().map(|origin| format!("  log       {origin}")));
        if self.records > self.first {
            let (first, last) = (self.first, self.records - 1);
            lines.push(format!(
                "  records   {first} to {last}, signed up to {}",
                self.signed_up_to()
            ));
        } else {
            lines.push("  records   none".to_owned());
        }
        if let Some(Head { size, root_sha256, at }) = &self.newest_head {
            lines.push(format!("  head      of {size} records, {at}, root {root_sha256}"));
        }
        if let Some(key) = &self.key_sha256 {
            let pinned = match self.key_pinned {
                true => "the one given with --key",
                false => "found beside the log and NOT pinned: whose log it is, is not shown (--key)",
            };
            lines.push(format!("  key       sha256 {key}\n            {pinned}"));
        }
        lines.extend(self.remarks());
        let findings = self.findings.iter().map(|found| format!("  found     {}", found.text));
        lines.extend(findings);
        if self.more_findings > 0 {
            lines.push(format!("  found     and {} more", self.more_findings));
        }
        lines.join("\n")
    }

    fn signed_up_to(&self) -> String {
        match self.signed.checked_sub(1) {
            Some(last) if self.signed > self.first => last.to_string(),
            _ => "none of them".to_owned(),
        }
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(Removed { before, at }) = &self.removed {
            let text = format!("the log removed the records before {before} by itself, as it signed on {at}");
            remarks.push(text);
        }
        if self.whole && self.records > self.signed {
            let unsigned = self.records - self.signed;
            remarks.push(format!(
                "{unsigned} records behind the last head are not protected by a signature yet"
            ));
        }
        if let Some(Unfinished { segment, from_byte }) = &self.unfinished {
            let text =
                format!("{segment} ends in an unfinished write, from byte {from_byte} on; nothing signed is lost");
            remarks.push(text);
        }
        remarks.into_iter().map(|text| format!("  note      {text}")).collect()
    }

    /// Why the command fails, where it does.
    pub(super) fn refusal(&self) -> Option<anyhow::Error> {
        let first = self.findings.first()?;
        let more = self.findings.len() as u64 - 1 + self.more_findings;
        let more = if more > 0 {
            format!(" (and {more} more)")
        } else {
            String::new()
        };
        Some(refused(format!(
            "the audit log in {} is not whole: {}{more}",
            self.path, first.text
        )))
    }
}

pub(super) fn run(format: Format, judged: &Judged) -> Result<()> {
    let (trust, logs) = (judged.trust()?, judged.logs()?);
    let mut verdicts = Vec::new();
    for folder in logs {
        let examined = examine(&folder, &trust, &mut |_, _| {})?;
        verdicts.push(Verdict::of(&folder, &examined));
    }
    output::show(format, &verdicts, |verdicts| {
        let texts: Vec<String> = verdicts.iter().map(Verdict::text).collect();
        texts.join("\n\n")
    })?;
    verdicts.iter().find_map(Verdict::refusal).map_or(Ok(()), Err)
}
