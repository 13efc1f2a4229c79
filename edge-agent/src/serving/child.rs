//! The serving process: one engine, one compute thread, several requests in turn.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Instant;

use fieldfare_lm::adapter::peft;
use fieldfare_lm::engine::{Engine, FinishReason, GenerationOptions, RunError, Sampling, Session, Step};
use fieldfare_lm::tokenizer::ControlTokens;

use super::evaluate::EvaluationInProgress;
use super::protocol::{Answer, Blame, Command, Finish, Load, Options, PROTOCOL, Prompt, RequestId, Summary};
use crate::limits::{MAX_LINE_BYTES, MAX_SESSIONS, MAX_WAITING};
use crate::process;

/// Why the serving process ended early.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The agent cannot be heard or told anything.
    #[error("the agent's pipe")]
    Pipe(#[from] io::Error),
    /// The agent says what this version does not know.
    #[error("a command that is none")]
    Command(#[source] serde_json::Error),
    /// An answer cannot be written as JSON.
    #[error("an answer")]
    Answer(#[source] serde_json::Error),
    /// The first command was not to load a release.
    #[error("the first command was not `load`")]
    NotLoaded,
    /// The release does not load.
    #[error("the release does not load: {0}")]
    Load(String),
}

/// Serves until the agent closes its end.
///
/// # Errors
/// [`ChildError`]; the agent sees the process end.
pub fn serve(input: impl BufRead + Send + 'static, mut output: impl Write) -> Result<(), ChildError> {
    say(&mut output, &Answer::Hello { protocol: PROTOCOL })?;
    let (lines, commands) = sync_channel(MAX_SESSIONS);
    std::thread::spawn(move || process::read_lines(input, MAX_LINE_BYTES, |line| lines.send(line).is_ok()));
    let Ok(first) = commands.recv() else { return Ok(()) };
    let Command::Load(load) = parse(&first?)? else {
        return Err(ChildError::NotLoaded);
    };
    let engine = match open(&load) {
        Ok(engine) => engine,
        Err(reason) => {
            say(&mut output, &Answer::LoadFailed { reason: reason.clone() })?;
            return Err(ChildError::Load(reason));
        }
    };
    say(
        &mut output,
        &Answer::Loaded {
            context: engine.config().context,
        },
    )?;
    let mut serving = Serving {
        engine,
        active: Vec::new(),
        waiting: VecDeque::new(),
        evaluations: VecDeque::new(),
    };
    while let Some(command) = serving.next_command(&commands)? {
        if let Some(command) = command {
            serving.take(command, &mut output)?;
        }
        serving.work(&mut output)?;
    }
    Ok(())
}

fn parse(line: &str) -> Result<Command, ChildError> {
    serde_json::from_str(line).map_err(ChildError::Command)
}

fn say(output: &mut impl Write, answer: &Answer) -> Result<(), ChildError> {
    let mut line = serde_json::to_vec(answer).map_err(ChildError::Answer)?;
    line.push(b'\n');
    output.write_all(&line)?;
    Ok(output.flush()?)
}

/// Loads a release, after giving up the address space that it has no use for.
fn open(load: &Load) -> Result<Engine, String> {
    process::limit_address_space(load.address_space).map_err(|error| format!("the address space limit: {error}"))?;
    let mut engine =
        Engine::open_within(&load.weights, load.context as usize).map_err(|error| process::chain(&error))?;
    if let Some(path) = &load.adapter {
        let adapter = read_adapter(path, &engine)?;
        engine
            .set_adapter(Some(&adapter))
            .map_err(|error| process::chain(&error))?;
    }
    Ok(engine)
}

fn read_adapter(path: &Path, engine: &Engine) -> Result<fieldfare_lm::adapter::LoraAdapter, String> {
    let length = std::fs::metadata(path)
        .map_err(|error| format!("{}: {error}", path.display()))?
        .len();
    if length > fieldfare_fleet::limits::MAX_CONTRIBUTION_BYTES {
        return Err(format!("{} has {length} bytes, more than any adapter", path.display()));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    peft::read(&bytes, None, engine.config()).map_err(|error| process::chain(&error))
}

struct Active {
    id: RequestId,
    session: Session,
    first_token: Option<Instant>,
}

struct Serving {
    engine: Engine,
    active: Vec<Active>,
    waiting: VecDeque<(RequestId, Prompt, Options)>,
    evaluations: VecDeque<(RequestId, EvaluationInProgress)>,
}

impl Serving {
    fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty() && self.evaluations.is_empty()
    }

    /// The next command; nothing inside where there is none now and work to do, nothing at all where the agent is gone.
    fn next_command(&self, commands: &Receiver<io::Result<String>>) -> Result<Option<Option<Command>>, ChildError> {
        let line = if self.is_idle() {
            match commands.recv() {
                Ok(line) => line?,
                Err(_) => return Ok(None),
            }
        } else {
            match commands.try_recv() {
                Ok(line) => line?,
                Err(TryRecvError::Empty) => return Ok(Some(None)),
                Err(TryRecvError::Disconnected) => return Ok(None),
            }
        };
        parse(&line).map(|command| Some(Some(command)))
    }

    fn take(&mut self, command: Command, output: &mut impl Write) -> Result<(), ChildError> {
        match command {
            Command::Load(_) => Err(ChildError::NotLoaded),
            Command::Cancel { id } => {
                self.active.retain(|active| active.id != id);
                self.waiting.retain(|(waiting, ..)| *waiting != id);
                self.evaluations.retain(|(evaluation, _)| *evaluation != id);
                Ok(())
            }
            Command::Generate { id, .. } if self.waiting.len() >= MAX_WAITING => {
                let reason = "too many requests wait".to_owned();
                say(
                    output,
                    &Answer::Failed {
                        id,
                        blame: Blame::Model,
                        reason,
                    },
                )
            }
            Command::Generate { id, prompt, options } => {
                self.waiting.push_back((id, prompt, options));
                Ok(())
            }
            Command::Evaluate { id, examples } => {
                self.evaluations.push_back((id, EvaluationInProgress::new(examples)));
                Ok(())
            }
        }
    }

    /// One token for each request, and one example for the first evaluation.
    fn work(&mut self, output: &mut impl Write) -> Result<(), ChildError> {
        while self.active.len() < MAX_SESSIONS {
            let Some((id, prompt, options)) = self.waiting.pop_front() else {
                break;
            };
            match begin(&self.engine, &prompt, &options) {
                Ok(session) => self.active.push(Active {
                    id,
                    session,
                    first_token: None,
                }),
                Err((blame, reason)) => say(output, &Answer::Failed { id, blame, reason })?,
            }
        }
        let mut index = 0;
        while let Some(active) = self.active.get_mut(index) {
            match advance(active) {
                Some(answer) => {
                    let more = matches!(answer, Answer::Text { .. });
                    say(output, &answer)?;
                    if more {
                        index += 1
                    } else {
                        drop(self.active.remove(index))
                    }
                }
                None => index += 1,
            }
        }
        if let Some((id, evaluation)) = self.evaluations.front_mut() {
            let id = *id;
            let answer = match evaluation.advance(&self.engine) {
                Ok(false) => None,
                Ok(true) => Some(Answer::Evaluated {
                    id,
                    measured: evaluation.measured().clone(),
                }),
                Err((blame, reason)) => Some(Answer::Failed { id, blame, reason }),
            };
            if let Some(answer) = answer {
                self.evaluations.pop_front();
                say(output, &answer)?;
            }
        }
        Ok(())
    }
}

/// Whose fault an error of the engine is, and what it says.
pub(super) fn blamed(error: &RunError) -> (Blame, String) {
    let blame = match error {
        RunError::ContextExceeded { .. } => Blame::ContextLength,
        RunError::NotFinite => Blame::Model,
        _ => Blame::Request,
    };
    (blame, process::chain(error))
}

fn begin(engine: &Engine, prompt: &Prompt, options: &Options) -> Result<Session, (Blame, String)> {
    let request = |error: &dyn std::error::Error| (Blame::Request, process::chain(error));
    let tokens = match prompt {
        Prompt::Text(text) => engine
            .tokenizer()
            .encode_prompt(text, ControlTokens::AsText)
            .map_err(|e| request(&e))?,
        Prompt::Chat(messages) => {
            let text = engine.template().render(messages).map_err(|error| request(&error))?;
            engine
                .tokenizer()
                .encode_prompt(&text, ControlTokens::Parse)
                .map_err(|error| request(&error))?
        }
    };
    let options = GenerationOptions {
        sampling: Sampling::from_temperature(options.temperature, options.top_p, options.seed),
        max_tokens: options.max_tokens,
        stop: options.stop.clone(),
    };
    engine.session(&tokens, &options).map_err(|error| blamed(&error))
}

/// One step of a request; nothing while its prompt is being read.
#[allow(clippy::disallowed_methods)]
fn advance(active: &mut Active) -> Option<Answer> {
    let id = active.id;
    match active.session.step() {
        Ok(Step::Prefilled { .. }) => None,
        Ok(Step::Token(token)) => {
            active.first_token.get_or_insert_with(Instant::now);
            Some(Answer::Text { id, text: token.text })
        }
        Ok(Step::Finished { reason, text }) => Some(Answer::Finished {
            id,
            summary: summary(active, reason, text),
        }),
        Err(error) => {
            let (blame, reason) = blamed(&error);
            Some(Answer::Failed { id, blame, reason })
        }
    }
}

fn summary(active: &Active, reason: FinishReason, text: String) -> Summary {
    let session = &active.session;
    let tokens = session.tokens().len();
    // The first token came with the prompt: the time since then made the others.
    let seconds = active.first_token.map_or(0.0, |first| first.elapsed().as_secs_f64());
    let timed = tokens.saturating_sub(1);
    Summary {
        text,
        finish: match reason {
            FinishReason::EndToken | FinishReason::StopString => Finish::Stop,
            FinishReason::MaxTokens | FinishReason::ContextFull => Finish::Length,
        },
        prompt_tokens: session.prompt_tokens(),
        completion_tokens: tokens,
        tokens_per_second: if seconds > 0.0 && timed > 0 {
            timed as f64 / seconds
        } else {
            0.0
        },
        confidence: session.confidence(),
    }
}
