//! What is found, and how it is told.

use std::fmt::Write as _;

use serde::Serialize;

use crate::exit::Advice;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Work goes on; somebody should look at this.
    Warning,
    /// Something does not work, or will not for long.
    Problem,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// What.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) level: Level,
    /// What was found.
    pub(super) found: String,
    /// What to do about it; nothing where all is well.
    pub(super) advice: Option<String>,
}

pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Check {
    Check {
        check,
        level: Level::Ok,
        found: found.into(),
        advice: None,
    }
}

pub(super) fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        level: Level::Warning,
        advice: Some(advice.into()),
        ..ok(check, found)
    }
}

pub(super) fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        level: Level::Problem,
        ..warning(check, found, advice)
    }
}

/// A problem that an error tells, with its own advice where it has some.
pub(super) fn of_error(check: &'static str, error: &anyhow::Error, otherwise: &str) -> Check {
    let advice = error.downcast_ref::<Advice>().map_or(otherwise, |advice| &advice.next);
    problem(check, format!("{error:#}"), advice)
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Diagnosis {
    /// The worst of it.
    level: Level,
    /// Everything that was looked at.
    checks: Vec<Check>,
}

impl Diagnosis {
    pub(super) fn of(checks: Vec<Check>) -> Self {
        let level = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
        Self { level, checks }
    }

    /// How many problems there are.
    pub(super) fn problems(&self) -> usize {
        self.checks.iter().filter(|check| check.level == Level::Problem).count()
    }

    /// For people: a line for each check, and below it what to do.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for Check {
            check,
            level,
            found,
            advice,
        } in &self.checks
        {
            let _ = writeln!(text, "{:<9}{check:<14}{found}", level.word());
            if let Some(advice) = advice {
                let _ = writeln!(text, "{:23}-> {advice}", "");
            }
        }
        text
    }
}
