//! What a run says while it goes on: its stages, and lines in between.

use std::time::Instant;

use console::{Style, Term};

use super::report::StageTime;

/// The parts of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A controller and a trainer.
    Fleet,
    /// A GGUF file becomes a signed release.
    Import,
    /// The devices enrol.
    Devices,
    /// Which variant for which device.
    Placement,
    /// The release reaches the devices.
    Rollout,
    /// A question to a device.
    Question,
    /// Rounds of private training.
    Learning,
    /// The better release reaches the devices.
    Upgrade,
    /// The same question, and the devices before and after.
    Comparison,
}

impl Stage {
    const ALL: [Self; 9] = [
        Self::Fleet,
        Self::Import,
        Self::Devices,
        Self::Placement,
        Self::Rollout,
        Self::Question,
        Self::Learning,
        Self::Upgrade,
        Self::Comparison,
    ];

    /// Its name, for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Import => "import",
            Self::Devices => "devices",
            Self::Placement => "placement",
            Self::Rollout => "rollout",
            Self::Question => "question",
            Self::Learning => "learning",
            Self::Upgrade => "upgrade",
            Self::Comparison => "comparison",
        }
    }
}

/// Tells what happens: on standard error where standard output is for programs, on standard output otherwise.
#[derive(Debug)]
pub struct Narrator {
    term: Term,
    colour: bool,
    stage: Option<(Stage, Instant)>,
    times: Vec<StageTime>,
}

impl Narrator {
    /// A narrator on this terminal, pipe or file.
    pub fn new(term: Term, colour: bool) -> Self {
        Self {
            term,
            colour,
            stage: None,
            times: Vec::new(),
        }
    }

    /// Begins a stage, and ends the one before.
    pub fn begin(&mut self, stage: Stage, what: &str) {
        self.end();
        let number = Stage::ALL.iter().position(|other| *other == stage).unwrap_or_default() + 1;
        let head = format!("[{number}/{}] {}", Stage::ALL.len(), stage.name());
        let head = self.paint(Style::new().bold(), &head);
        self.say(&format!("{head}: {what}"));
        self.stage = Some((stage, Instant::now()));
    }

    /// Ends the stage under way, if there is one.
    pub fn end(&mut self) {
        let Some((stage, since)) = self.stage.take() else {
            return;
        };
        let seconds = since.elapsed().as_secs_f64();
        self.times.push(StageTime {
            name: stage.name(),
            seconds,
        });
        let line = format!("{} done in {seconds:.1} s", stage.name());
        let line = self.paint(Style::new().green(), &line);
        self.say(&line);
    }

    /// Time of every stage so far.
    pub fn times(&self) -> Vec<StageTime> {
        let now = self.stage.map(|(stage, since)| StageTime {
            name: stage.name(),
            seconds: since.elapsed().as_secs_f64(),
        });
        self.times.iter().cloned().chain(now).collect()
    }

    /// Says one line or several.
    pub fn say(&self, text: &str) {
        for line in text.lines() {
            self.write(line);
        }
    }

    /// The text in a style, where there is colour.
    pub fn paint(&self, style: Style, text: &str) -> String {
        style.force_styling(self.colour).apply_to(text).to_string()
    }

    /// Whoever read this may be gone, which is no reason to stop in the middle of a run.
    fn write(&self, line: &str) {
        let _ = self.term.write_line(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_begins_ends_the_one_before_and_both_are_timed() {
        let mut narrator = Narrator::new(Term::buffered_stderr(), false);
        narrator.begin(Stage::Fleet, "x");
        narrator.begin(Stage::Import, "y");
        assert_eq!(
            narrator.times().iter().map(|time| time.name).collect::<Vec<_>>(),
            ["fleet", "import"]
        );
        narrator.end();
        narrator.end();
        assert_eq!(narrator.times().len(), 2);
    }

    #[test]
    fn without_colour_nothing_is_painted() {
        let narrator = Narrator::new(Term::buffered_stderr(), false);
        assert_eq!(narrator.paint(Style::new().green(), "x"), "x");
    }
}
