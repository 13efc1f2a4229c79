//! Who decides what becomes of processes under test.

use std::path::PathBuf;
use std::sync::Arc;

/// What becomes of the processes.
pub trait Fates {
    /// What is loaded into every process so that it dies of what is planned; nothing where nobody is to die.
    fn shim(&self) -> Option<PathBuf> {
        None
    }

    /// What a process is to die of next, from now on.
    fn next(&self, _process: &str) -> Option<String> {
        None
    }

    /// A process has died of what was planned.
    fn died(&self, _process: &str, _of: &str) {}

    /// A life is about to begin; variables of its environment.
    fn begins(&self, _process: &str, _life: u64) -> Vec<(String, String)> {
        Vec::new()
    }

    /// A life has ended: by a signal, or by itself.
    ///
    /// # Errors
    /// What is not as it should be.
    fn ended(&self, _process: &str, _life: u64, _killed: bool) -> Result<(), String> {
        Ok(())
    }
}

/// Nobody dies.
#[derive(Clone, Copy, Debug)]
pub struct Calm;

impl Fates for Calm {}

/// The fates of a fleet.
pub type Choice = Arc<dyn Fates + Send + Sync>;
