//! What the agent's children are: processes of its own binary that die with it and speak in bounded lines.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fieldfare_files::{self as files, FileError, Secrecy};
pub use fieldfare_service::chain;
use rustix::process::{Resource, Rlimit, Signal};
use tokio::process::{Child, Command};

/// What a child does, as its argument says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// `serve`.
    Serve,
    /// `train`.
    Train,
}

impl Task {
    const fn argument(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Train => "train",
        }
    }

    /// How readily the kernel kills it for memory, of -1000 to 1000: training before serving, and serving before the agent.
    const fn oom_score(self) -> i32 {
        match self {
            Self::Serve => 300,
            Self::Train => 900,
        }
    }

    /// Its niceness: training never competes with serving.
    const fn niceness(self) -> i32 {
        match self {
            Self::Serve => 0,
            Self::Train => 10,
        }
    }
}

/// The agent's own binary, of which children are made.
#[derive(Clone, Debug)]
pub struct Binary(PathBuf);

impl Binary {
    /// The binary at a path.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Starts a child with pipes to its standard input and output. Its errors go where the agent's go. It is killed when the
    /// handle is dropped, and when the agent dies.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start(&self, task: Task) -> io::Result<Child> {
        Command::new(&self.0)
            .arg(task.argument())
            // One compute thread for each process: candle and burn ask rayon.
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

/// What a child does first: it dies with its parent, is killed for memory before it, and gives way to it.
///
/// # Errors
/// The system refuses to tie it to its parent; the rest is best effort, since containers may forbid it.
pub fn become_child(task: Task) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let _ = std::fs::write("/proc/self/oom_score_adj", task.oom_score().to_string());
    let _ = rustix::process::nice(task.niceness());
    Ok(())
}

/// Gives up all address space beyond a limit, for good. A tighter limit that was set from outside stays.
///
/// # Errors
/// The system refuses.
pub fn limit_address_space(bytes: u64) -> io::Result<()> {
    let given = rustix::process::getrlimit(Resource::As).maximum;
    let bytes = given.map_or(bytes, |given| given.min(bytes));
    Ok(rustix::process::setrlimit(
        Resource::As,
        Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        },
    )?)
}

/// Reads lines of at most `limit` bytes and hands them over, up to the end, an error, or `take` saying that nobody listens.
pub fn read_lines(mut input: impl BufRead, limit: usize, mut take: impl FnMut(io::Result<String>) -> bool) {
    loop {
        let mut line = String::new();
        match input.by_ref().take(limit as u64 + 1).read_line(&mut line) {
            Ok(0) => return,
            Ok(read) if read > limit => {
                let error = io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a line has more than {limit} bytes"),
                );
                take(Err(error));
                return;
            }
            Ok(_) => {
                if !take(Ok(line)) {
                    return;
                }
            }
            Err(error) => {
                take(Err(error));
                return;
            }
        }
    }
}

/// Length of a file, 0 where there is none.
pub fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Says in a file where the local API listens.
///
/// # Errors
/// The system refuses.
pub fn announce(path: &Path, api: std::net::SocketAddr) -> Result<(), FileError> {
    files::replace_json(
        path,
        &serde_json::json!({ "api": format!("http://{api}") }),
        Secrecy::Secret,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_up_to_the_limit_and_not_beyond() {
        let read = |text: &str| {
            let mut lines = Vec::new();
            read_lines(io::Cursor::new(text.to_owned()), 5, |line| {
                lines.push(line.map_err(|error| error.kind()));
                true
            });
            lines
        };
        assert_eq!(read("abc\nde\n"), [Ok("abc\n".to_owned()), Ok("de\n".to_owned())]);
        assert_eq!(
            read("abcd\nabcdef\n"),
            [Ok("abcd\n".to_owned()), Err(io::ErrorKind::InvalidData)]
        );
        assert_eq!(read(&"x".repeat(100)), [Err(io::ErrorKind::InvalidData)]);
        assert!(read("").is_empty());
    }
}
