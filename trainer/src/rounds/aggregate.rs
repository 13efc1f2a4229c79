//! The sum over the accepted set: one contribution in memory at a time, each counted once.

use std::collections::BTreeMap;

use fieldfare_fleet::{DeviceId, Digest};
use fieldfare_privacy::{ExactSum, RingCodec, SumError};

use super::{ContributionStore, StoreError};
use crate::compute::{Stop, Stopped};

/// Why there is no sum.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// Nobody waits for it.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// A contribution cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A contribution cannot be added.
    #[error("the contribution of {device}")]
    Sum {
        /// Whose.
        device: DeviceId,
        /// Why.
        #[source]
        source: SumError,
    },
}

/// Sums exactly the accepted contributions. Memory does not grow with their number.
///
/// # Errors
/// [`AggregateError`] names the device.
pub fn sum(
    store: &ContributionStore,
    codec: RingCodec,
    accepted: &BTreeMap<DeviceId, Digest>,
    stop: &Stop,
) -> Result<ExactSum, AggregateError> {
    let mut sum = ExactSum::new(codec);
    for (device, digest) in accepted {
        stop.check()?;
        let bytes = store.read(device, *digest)?;
        sum.add(&bytes).map_err(|source| AggregateError::Sum {
            device: *device,
            source,
        })?;
    }
    Ok(sum)
}
