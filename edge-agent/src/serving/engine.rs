//! The agent's side of one serving process.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fieldfare_lm::example::Example;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::protocol::{Answer, Blame, Command, Evaluation, Load, Options, PROTOCOL, Prompt, RequestId, Summary};
use crate::limits::{
    EXIT_TIMEOUT, LOAD_TIMEOUT, MAX_LINE_BYTES, MAX_SESSIONS, MAX_WAITING, STOP_TIMEOUT, STREAM_QUEUE,
};
use crate::process::{Binary, Task};

type Lines = FramedRead<ChildStdout, LinesCodec>;

/// Why a release does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process does not start.
    #[error("the serving process does not start")]
    Spawn(#[source] io::Error),
    /// The process ended or said what it should not.
    #[error("the serving process said {found}, expected {expected}")]
    Protocol {
        /// What it said.
        found: String,
        /// What should come.
        expected: &'static str,
    },
    /// The process took too long.
    #[error("the serving process took longer than {LOAD_TIMEOUT:?} to load the release")]
    Slow,
    /// The release does not load.
    #[error("{reason}")]
    Load {
        /// What the process says.
        reason: String,
    },
}

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The process is gone.
    #[error("the serving process ended")]
    Gone,
    /// The process has enough to do.
    #[error("{MAX_WAITING} requests wait already")]
    Busy,
    /// The process refused or failed.
    #[error("{reason}")]
    Failed {
        /// Whose fault it is.
        blame: Blame,
        /// What the process says.
        reason: String,
    },
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// More text.
    Text(String),
    /// The end.
    Finished(Summary),
}

enum Note {
    Ask(Command, Option<(RequestId, mpsc::Sender<Answer>)>),
    Stop,
}

/// A serving process that has loaded a release. Clones speak to the same process; it is killed with the last of them.
#[derive(Clone, Debug)]
pub struct Engine {
    notes: mpsc::Sender<Note>,
    next_id: Arc<AtomicU64>,
    ended: watch::Receiver<Option<String>>,
    context: usize,
    pid: Option<u32>,
}

/// A request under way. Dropping it cancels the request.
#[derive(Debug)]
pub struct Request {
    id: RequestId,
    answers: mpsc::Receiver<Answer>,
    notes: mpsc::Sender<Note>,
    over: bool,
}

impl Engine {
    /// Starts a process and has it load a release.
    ///
    /// # Errors
    /// [`StartError`]; the process is gone then.
    pub async fn start(binary: &Binary, load: Load) -> Result<Self, StartError> {
        let mut child = binary.start(Task::Serve).map_err(StartError::Spawn)?;
        let missing = || StartError::Spawn(io::Error::other("the process has no pipes"));
        let (input, output) = (
            child.stdin.take().ok_or_else(missing)?,
            child.stdout.take().ok_or_else(missing)?,
        );
        let mut lines = FramedRead::new(output, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
        let mut input = input;
        let loaded = timeout(LOAD_TIMEOUT, handshake(&mut input, &mut lines, load)).await;
        let context = loaded.map_err(|_| StartError::Slow)??;
        let (notes, inbox) = mpsc::channel(MAX_SESSIONS + MAX_WAITING);
        let (report, ended) = watch::channel(None);
        let pid = child.id();
        let talk = Talk {
            child,
            input,
            lines,
            inbox,
            open: HashMap::new(),
        };
        tokio::spawn(async move {
            let how = talk.run().await;
            report.send_replace(Some(how));
        });
        Ok(Self {
            notes,
            next_id: Arc::new(AtomicU64::new(1)),
            ended,
            context,
            pid,
        })
    }

    /// Most tokens of a sequence.
    pub const fn context(&self) -> usize {
        self.context
    }

    /// The process's id, for tests and for people.
    pub const fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Waits until the process has ended, and says how.
    pub async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            Err(_) => "its task ended".to_owned(),
        }
    }

    /// Has the process end after the requests that are under way, or kills it when they take too long.
    pub async fn stop(&self) {
        let _ = self.notes.send(Note::Stop).await;
        let _ = timeout(STOP_TIMEOUT + EXIT_TIMEOUT, self.ended()).await;
    }

    fn ask(&self, command: impl FnOnce(RequestId) -> Command) -> Result<Request, RequestError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answers) = mpsc::channel(STREAM_QUEUE);
        let note = Note::Ask(command(id), Some((id, answer)));
        self.notes.try_send(note).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Gone,
        })?;
        Ok(Request {
            id,
            answers,
            notes: self.notes.clone(),
            over: false,
        })
    }

    /// Begins to generate text.
    ///
    /// # Errors
    /// The process is gone, or has too much to do.
    pub fn generate(&self, prompt: Prompt, options: Options) -> Result<Request, RequestError> {
        self.ask(|id| Command::Generate { id, prompt, options })
    }

    /// Measures the model on examples.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn evaluate(&self, examples: Vec<Example>) -> Result<Evaluation, RequestError> {
        let mut request = self.ask(|id| Command::Evaluate { id, examples })?;
        let answer = request.answers.recv().await;
        request.over = true;
        match answer {
            Some(Answer::Evaluated { measured, .. }) => Ok(measured),
            Some(Answer::Failed { blame, reason, .. }) => Err(RequestError::Failed { blame, reason }),
            _ => Err(RequestError::Gone),
        }
    }
}

impl Request {
    /// The next piece of the answer; nothing after the last.
    ///
    /// # Errors
    /// [`RequestError`]; there is nothing more then.
    pub async fn next(&mut self) -> Result<Option<Piece>, RequestError> {
        if self.over {
            return Ok(None);
        }
        let answer = self.answers.recv().await;
        self.over = !matches!(answer, Some(Answer::Text { .. }));
        match answer {
            Some(Answer::Text { text, .. }) => Ok(Some(Piece::Text(text))),
            Some(Answer::Finished { summary, .. }) => Ok(Some(Piece::Finished(summary))),
            Some(Answer::Failed { blame, reason, .. }) => Err(RequestError::Failed { blame, reason }),
            _ => Err(RequestError::Gone),
        }
    }

    /// The whole answer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn whole(mut self) -> Result<(String, Summary), RequestError> {
        let mut text = String::new();
        while let Some(piece) = self.next().await? {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Finished(summary) => {
                    text.push_str(&summary.text);
                    return Ok((text, summary));
                }
            }
        }
        Err(RequestError::Gone)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.over {
            // A full queue means that the process is told as soon as it sends something for this request.
            let _ = self.notes.try_send(Note::Ask(Command::Cancel { id: self.id }, None));
        }
    }
}

async fn hear(lines: &mut Lines, expected: &'static str) -> Result<Answer, StartError> {
    let protocol = |found: String| StartError::Protocol { found, expected };
    let line = lines
        .next()
        .await
        .ok_or_else(|| protocol("nothing and ended".to_owned()))?;
    let line = line.map_err(|error| protocol(error.to_string()))?;
    serde_json::from_str(&line).map_err(|error| protocol(format!("a line that is no answer ({error})")))
}

async fn handshake(input: &mut ChildStdin, lines: &mut Lines, load: Load) -> Result<usize, StartError> {
    match hear(lines, "hello").await? {
        Answer::Hello { protocol: PROTOCOL } => {}
        other => {
            return Err(StartError::Protocol {
                found: format!("{other:?}"),
                expected: "hello of version 1",
            });
        }
    }
    write(input, &Command::Load(load)).await.map_err(StartError::Spawn)?;
    match hear(lines, "loaded").await? {
        Answer::Loaded { context } => Ok(context),
        Answer::LoadFailed { reason } => Err(StartError::Load { reason }),
        other => Err(StartError::Protocol {
            found: format!("{other:?}"),
            expected: "loaded",
        }),
    }
}

async fn write(input: &mut ChildStdin, command: &Command) -> io::Result<()> {
    let mut line = serde_json::to_vec(command).map_err(io::Error::other)?;
    line.push(b'\n');
    input.write_all(&line).await
}

/// The task that owns the process.
struct Talk {
    child: Child,
    input: ChildStdin,
    lines: Lines,
    inbox: mpsc::Receiver<Note>,
    open: HashMap<RequestId, mpsc::Sender<Answer>>,
}

impl Talk {
    /// Runs until the process ends or is no longer wanted; says how it ended.
    async fn run(mut self) -> String {
        let why = loop {
            tokio::select! {
                note = self.inbox.recv() => match note {
                    Some(Note::Ask(command, answers)) => {
                        self.open.extend(answers);
                        if let Err(error) = write(&mut self.input, &command).await {
                            break format!("its input is closed: {error}");
                        }
                    }
                    Some(Note::Stop) => return self.drain().await,
                    None => break "it was no longer wanted".to_owned(),
                },
                line = self.lines.next() => match line {
                    Some(Ok(line)) => if let Err(reason) = self.forward(&line).await { break reason },
                    Some(Err(error)) => break format!("its output is unreadable: {error}"),
                    None => break "it closed its output".to_owned(),
                },
            }
        };
        let _ = self.child.start_kill();
        match self.child.wait().await {
            Ok(status) => format!("{why} ({status})"),
            Err(error) => format!("{why} ({error})"),
        }
    }

    /// Passes an answer on. A client that does not read loses its request, not the others' time.
    async fn forward(&mut self, line: &str) -> Result<(), String> {
        let answer: Answer =
            serde_json::from_str(line).map_err(|error| format!("it said what is no answer: {error}"))?;
        let (id, last) = match &answer {
            Answer::Text { id, .. } => (*id, false),
            Answer::Finished { id, .. } | Answer::Evaluated { id, .. } | Answer::Failed { id, .. } => (*id, true),
            Answer::Hello { .. } | Answer::Loaded { .. } | Answer::LoadFailed { .. } => {
                return Err("it repeated its beginning".to_owned());
            }
        };
        let Some(listener) = self.open.get(&id) else {
            return Ok(());
        };
        let lost = listener.try_send(answer).is_err();
        if last || lost {
            self.open.remove(&id);
        }
        if lost && !last {
            write(&mut self.input, &Command::Cancel { id })
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Finishes what is under way, then closes the process's input, which ends it.
    async fn drain(mut self) -> String {
        let finish = async {
            while !self.open.is_empty() {
                match self.lines.next().await {
                    Some(Ok(line)) => {
                        if self.forward(&line).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
                self.open.retain(|_, listener| !listener.is_closed());
            }
        };
        let _ = timeout(STOP_TIMEOUT, finish).await;
        drop(self.input);
        if timeout(EXIT_TIMEOUT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        "it was told to stop".to_owned()
    }
}
