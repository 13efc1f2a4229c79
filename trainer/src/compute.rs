//! Long computations: one at a time, on a thread of their own, and over soon after nobody waits for them any more.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// Says that a computation should end because nobody waits for its result.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// The computation was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the computation was stopped")]
pub struct Stopped;

impl Stop {
    /// A flag that nobody has set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error once the end was asked for.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn check(&self) -> Result<(), Stopped> {
        if self.0.load(Ordering::Relaxed) {
            Err(Stopped)
        } else {
            Ok(())
        }
    }

    /// The same writer, which fails once the end was asked for.
    pub(crate) fn guard<W: Write>(&self, out: W) -> StoppableWriter<W> {
        StoppableWriter {
            stop: self.clone(),
            out,
        }
    }
}

/// A writer that fails once its computation should end.
#[derive(Debug)]
pub(crate) struct StoppableWriter<W> {
    stop: Stop,
    out: W,
}

impl<W: Write> Write for StoppableWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stop.check().map_err(io::Error::other)?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Sets the flag when the future that waits is dropped.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// A computation that ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// It panicked, with this message. It would again: what it computes from decides.
    #[error("the computation panicked: {0}")]
    Panicked(String),
    /// The process ends.
    #[error("the process ends")]
    Ended,
}

impl From<JoinError> for ComputeError {
    fn from(error: JoinError) -> Self {
        let Ok(payload) = error.try_into_panic() else {
            return Self::Ended;
        };
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Self::Panicked(text.unwrap_or_else(|| "without a message".to_owned()))
    }
}

/// The process's compute thread.
#[derive(Clone, Debug)]
pub struct Compute {
    slot: Arc<Semaphore>,
}

impl Default for Compute {
    fn default() -> Self {
        Self::new()
    }
}

impl Compute {
    /// One thread.
    pub fn new() -> Self {
        Self {
            slot: Arc::new(Semaphore::new(1)),
        }
    }

    /// Computes; dropping the future sets the computation's [`Stop`]. The next one begins when this one has really ended.
    ///
    /// # Errors
    /// The computation panicked, or the process ends.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Stop) -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let turn = Arc::clone(&self.slot)
            .acquire_owned()
            .await
            .map_err(|_| ComputeError::Ended)?;
        let stop = Stop::new();
        let _guard = StopOnDrop(stop.clone());
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&stop);
            drop(turn);
            result
        });
        Ok(task.await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_computation_that_nobody_waits_for_is_told_and_holds_the_next_one_up_until_it_has_ended() {
        let compute = Compute::new();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (ended, has_ended) = mpsc::sync_channel(1);
        let first = compute.run(move |stop| {
            begun.send(()).unwrap();
            while stop.check().is_ok() {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
        });
        tokio::select! {
            _ = first => panic!("it runs until it is stopped"),
            _ = has_begun => {}
        }
        let first_had_ended = compute.run(move |_| has_ended.try_recv().is_ok()).await.unwrap();
        assert!(first_had_ended);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_thread_is_free_again() {
        let compute = Compute::new();
        for said in [
            compute.run(|_| panic!("on purpose")).await,
            compute.run(|_| panic!("on {}", "purpose")).await,
        ] {
            assert_eq!(said, Err::<(), _>(ComputeError::Panicked("on purpose".to_owned())));
        }
        assert_eq!(compute.run(|_| 1).await, Ok(1));
    }

    #[test]
    fn a_guarded_writer_fails_once_stopped() {
        let stop = Stop::new();
        let mut out = stop.guard(Vec::new());
        out.write_all(b"a").unwrap();
        stop.set();
        assert!(out.write_all(b"b").is_err());
    }
}
