//! What a doctor finds, of a device or of an operator's work, and how it is told.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
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
pub struct Check {
    /// What: a name of at most 13 characters.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it; nothing where all is well.
    pub advice: Option<String>,
}

/// It is as it should be.
pub fn ok(check: &'static str, found: impl Into<String>) -> Check {
    Check {
        check,
        level: Level::Ok,
        found: found.into(),
        advice: None,
    }
}

/// Work goes on; somebody should do this about it.
pub fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        level: Level::Warning,
        advice: Some(advice.into()),
        ..ok(check, found)
    }
}

/// Something does not work, or will not for long; this is what to do about it.
pub fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        level: Level::Problem,
        ..warning(check, found, advice)
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// The worst of it.
    pub level: Level,
    /// Everything that was looked at.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// What was looked at, in its order.
    pub fn of(checks: Vec<Check>) -> Self {
        let level = checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok);
        Self { level, checks }
    }

    /// How many problems there are.
    pub fn problems(&self) -> usize {
        self.checks.iter().filter(|check| check.level == Level::Problem).count()
    }

    /// For people: a line for each check, and below it what to do.
    pub fn text(&self) -> String {
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
