//! Progress of long work: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A piece of long work, told on standard error.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    label: String,
    said: Mutex<String>,
}

impl Progress {
    /// Begins to tell of work.
    pub fn begin(label: impl Into<String>) -> Self {
        let label = label.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(label.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{label} ...");
        }
        Self {
            bar,
            label,
            said: Mutex::new(String::new()),
        }
    }

    /// Bytes done so far, of how many.
    pub fn bytes(&self, done: u64, total: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            if let Ok(style) = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}")
            {
                bar.set_style(style);
            }
        }
        bar.set_position(done);
    }

    /// What is being done now. Off a terminal it is a line of its own, once.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {text}", self.label)),
            None => {
                let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if *said != text {
                    eprintln!("  {text}");
                    text.clone_into(&mut said);
                }
            }
        }
    }

    /// Ends with a line that stays.
    pub fn done(self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{}: {text}", self.label);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
