//! `fieldfare audit show`: the records of a log.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use fieldfare_audit::folder::LogFolder;
use fieldfare_audit::read::{Trust, examine};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::Judged;
use super::decode::Decoder;
use super::verify::{Verdict, time};
use crate::args::Format;
use crate::limits::MAX_OPEN_CALLS;
use crate::output::{line, note};

/// Which records.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    judged: Judged,
    /// Records from this time on: a date (UTC), or a time such as 2026-05-01T12:00:00Z.
    #[arg(long, value_parser = moment)]
    since: Option<u64>,
    /// Records before this time.
    #[arg(long, value_parser = moment)]
    until: Option<u64>,
    /// Records of this kind alone; may be given several times.
    #[arg(long, value_enum)]
    kind: Vec<Kind>,
}

/// A kind of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A process began to write.
    Opened,
    /// Records for which there was no room.
    Gap,
    /// Somebody asked the controller for a change.
    Call,
    /// What became of a call or a decision.
    Outcome,
    /// A certificate was issued.
    Certificate,
    /// A decision about a rollout.
    Rollout,
    /// Which variant of a release devices run.
    Placement,
    /// Another model serves on a device.
    Model,
    /// An answer of a model, without its content.
    Inference,
    /// Of a later version of this program.
    Unknown,
}

/// Each kind with the field of the record that holds it.
const FIELDS: [(Kind, &str); 9] = [
    (Kind::Opened, "opened"),
    (Kind::Gap, "gap"),
    (Kind::Call, "call"),
    (Kind::Outcome, "outcome"),
    (Kind::Certificate, "certificate"),
    (Kind::Rollout, "rollout_decision"),
    (Kind::Placement, "placement"),
    (Kind::Model, "model_change"),
    (Kind::Inference, "inference"),
];

/// Milliseconds since 1970, from a date or a time.
fn moment(text: &str) -> Result<u64, String> {
    let at: Option<Timestamp> = text.parse().ok();
    let date = || {
        text.parse::<Date>()
            .ok()?
            .to_zoned(TimeZone::UTC)
            .ok()
            .map(|at| at.timestamp())
    };
    let at = at.or_else(date).and_then(|at| u64::try_from(at.as_millisecond()).ok());
    at.ok_or_else(|| "expected a date such as 2026-05-01, or a time such as 2026-05-01T12:00:00Z".to_owned())
}

/// What is written on a record of a call, until its outcome is known.
type Methods = BTreeMap<u64, String>;

struct Printer<'a> {
    arguments: &'a Arguments,
    format: Format,
    decoder: Decoder,
    open: Methods,
    printed: u64,
    failed: Option<anyhow::Error>,
}

pub(super) fn run(format: Format, arguments: &Arguments) -> Result<()> {
    let (trust, logs) = (arguments.judged.trust()?, arguments.judged.logs()?);
    let [folder] = &logs[..] else {
        let names: Vec<String> = logs.iter().map(|log| log.path().display().to_string()).collect();
        bail!("there are several audit logs: name one of {}", names.join(", "));
    };
    let verdict = print(format, arguments, folder, &trust)?;
    if !verdict.whole {
        note(verdict.text());
    }
    verdict.refusal().map_or(Ok(()), Err)
}

fn print(format: Format, arguments: &Arguments, folder: &LogFolder, trust: &Trust) -> Result<Verdict> {
    let mut printer = Printer {
        arguments,
        format,
        decoder: Decoder::new()?,
        open: Methods::new(),
        printed: 0,
        failed: None,
    };
    let examined = examine(folder, trust, &mut |index, bytes| {
        if printer.failed.is_none() {
            printer.failed = printer.take(index, bytes).err();
        }
    })?;
    if let Some(error) = printer.failed {
        return Err(error);
    }
    match format {
        Format::Json if printer.printed == 0 => line("[]")?,
        Format::Json => line("]")?,
        Format::Table if printer.printed == 0 => line("none")?,
        Format::Table => {}
    }
    Ok(Verdict::of(folder, &examined))
}

impl Printer<'_> {
    fn take(&mut self, index: u64, bytes: &[u8]) -> Result<()> {
        let decoded = self.decoder.record(bytes);
        let at = decoded
            .as_ref()
            .and_then(|record| record.get("at_unix_ms"))
            .and_then(Value::as_u64)
            .unwrap_or(0);
        let known = decoded.and_then(|mut record| {
            let (kind, field) = FIELDS.into_iter().find(|(_, field)| record.contains_key(*field))?;
            let Some(Value::Object(event)) = record.remove(field) else {
                return None;
            };
            Some((kind, event))
        });
        let (kind, mut event) = known.unwrap_or((
            Kind::Unknown,
            Map::from_iter([("bytes".to_owned(), json!(bytes.len()))]),
        ));
        self.follow(index, kind, &mut event);
        let Arguments {
            since,
            until,
            kind: kinds,
            ..
        } = self.arguments;
        let wanted = (kinds.is_empty() || kinds.contains(&kind))
            && since.is_none_or(|since| at >= since)
            && until.is_none_or(|until| at < until);
        if !wanted {
            return Ok(());
        }
        let name = kind
            .to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default();
        let first = self.printed == 0;
        self.printed += 1;
        match self.format {
            Format::Table if first => {
                line(&format!("{:>8}  {:<20}  {:<11}  {}", "RECORD", "TIME", "KIND", "WHAT"))?;
                line(&format!("{index:>8}  {:<20}  {name:<11}  {}", time(at), brief(&event)))
            }
            Format::Table => line(&format!("{index:>8}  {:<20}  {name:<11}  {}", time(at), brief(&event))),
            Format::Json => {
                let record = json!({ "record": index, "at": time(at), "at_unix_ms": at, "kind": name, "event": event });
                line(&format!("{}{record}", if first { "[" } else { "," }))
            }
        }
    }

    /// Reads the answer in an outcome as that of the call before.
    fn follow(&mut self, index: u64, kind: Kind, event: &mut Map<String, Value>) {
        match kind {
            Kind::Call => {
                if self.open.len() >= MAX_OPEN_CALLS {
                    self.open.pop_first();
                }
                let method = event.get("method").and_then(Value::as_str).unwrap_or_default();
                self.open.insert(index, method.to_owned());
            }
            Kind::Outcome => {
                let of = event.get("of_record").and_then(Value::as_u64).unwrap_or(0);
                if let Some(method) = self.open.remove(&of) {
                    self.decoder.answer(event, &method);
                }
            }
            _ => {}
        }
    }
}

/// Most characters of one field in a table.
const BRIEF_CHARS: usize = 60;

/// An event in one line: its fields by their names, those of messages in it behind a dot.
fn brief(event: &Map<String, Value>) -> String {
    let mut parts = Vec::new();
    flatten("", &Value::Object(event.clone()), &mut parts);
    parts.join(" ")
}

fn flatten(name: &str, value: &Value, parts: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() {
                    field.clone()
                } else {
                    format!("{name}.{field}")
                };
                flatten(&name, value, parts);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{name}[{at}]"), item, parts);
            }
        }
        Value::String(text) => {
            let mut shown: String = text.chars().filter(|c| !c.is_control()).take(BRIEF_CHARS).collect();
            if shown.len() < text.len() {
                shown.push('…');
            }
            let quoted = shown.is_empty() || shown.contains(char::is_whitespace);
            parts.push(if quoted {
                format!("{name}={shown:?}")
            } else {
                format!("{name}={shown}")
            });
        }
        other => parts.push(format!("{name}={other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_or_times() {
        assert_eq!(moment("1970-01-02"), Ok(86_400_000));
        assert_eq!(moment("1970-01-01T00:00:01.5Z"), Ok(1500));
        for text in ["", "yesterday", "1969-12-31", "12:00"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_line_shows_every_field_and_nothing_that_moves_the_cursor() {
        let event =
            json!({ "a": { "b": "two words", "c": [1, { "d": true }] }, "e": "x\u{1b}[2Jy", "f": "z".repeat(80) });
        let line = brief(event.as_object().unwrap());
        assert_eq!(
            line,
            format!(
                "a.b=\"two words\" a.c[0]=1 a.c[1].d=true e=x[2Jy… f={}…",
                "z".repeat(60)
            )
        );
    }
}
