//! The agent's side of a training process.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::child::{Order, Said};
use crate::limits::MAX_LINE_BYTES;
use crate::process::{Binary, Task};

/// Why training gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The process does not start, or its pipes break.
    #[error("the training process")]
    Process(#[from] io::Error),
    /// The process was killed or crashed: for memory, as a rule.
    #[error("the training process ended without a contribution ({how}) after {steps} steps")]
    Died {
        /// Its exit status.
        how: String,
        /// Steps it had done.
        steps: u64,
    },
    /// The process says why it cannot be done.
    #[error("{reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// The process said what it should not.
    #[error("the training process said what is no answer: {found}")]
    Protocol {
        /// What it said.
        found: String,
    },
}

/// Has a child train. Dropping this kills the child.
///
/// # Errors
/// [`TrainingError`]; nothing was contributed, and nothing is owed.
pub async fn train(binary: &Binary, order: &Order) -> Result<Vec<u8>, TrainingError> {
    let mut child = binary.start(Task::Train)?;
    let missing = || io::Error::other("the process has no pipes");
    let (mut input, output) = (
        child.stdin.take().ok_or_else(missing)?,
        child.stdout.take().ok_or_else(missing)?,
    );
    let mut line = serde_json::to_vec(order).map_err(io::Error::other)?;
    line.push(b'\n');
    let told = input.write_all(&line).await;
    drop((input, line));
    let mut lines = FramedRead::new(output, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
    let mut steps = 0;
    while let Some(line) = lines.next().await {
        let protocol = |found: String| TrainingError::Protocol { found };
        let line = line.map_err(|error| protocol(error.to_string()))?;
        match serde_json::from_str(&line).map_err(|error| protocol(error.to_string()))? {
            Said::Step { done } => steps = done,
            Said::Contribution { bytes } => return STANDARD.decode(bytes).map_err(|error| protocol(error.to_string())),
            Said::Failed { reason } => return Err(TrainingError::Failed { reason }),
        }
    }
    let status = child.wait().await?;
    // A child that died at once may not have read its order: how it ended says more than the broken pipe.
    drop(told);
    Err(TrainingError::Died {
        how: status.to_string(),
        steps,
    })
}
