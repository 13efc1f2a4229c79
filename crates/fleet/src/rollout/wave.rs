//! In which order devices get a release.

use serde::{Deserialize, Serialize};

use crate::{DeviceId, Timestamp};

/// Place of a device in the order of one rollout: a hash of the device id and the rollout's seed, so that every
/// rollout has other canaries, and anybody can compute the place of a device without a record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(u64);

impl Rank {
    /// The rank of a device in the rollout with this seed: FNV-1a (64 bits) over the seed and the id, followed by the
    /// finaliser of SplitMix64, because FNV alone leaves similar ids with similar high bits.
    pub fn of(device: DeviceId, seed: u64) -> Self {
        let bytes = seed.to_be_bytes().into_iter().chain(*device.as_bytes());
        let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| {
            (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let mut z = fnv.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(z ^ (z >> 31))
    }

    /// The rank with this number.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Where a device stands in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The device was there when the rollout began.
    Ranked(Rank),
    /// The device came afterwards: it gets the release when the rollout is complete, so that newcomers never swell a
    /// wave that is being watched.
    Late,
}

impl Slot {
    /// The slot of a device that belongs to the deployment since `joined_at`, in a rollout that began at `started_at`.
    pub fn of(device: DeviceId, seed: u64, joined_at: Timestamp, started_at: Timestamp) -> Self {
        if joined_at > started_at {
            Self::Late
        } else {
            Self::Ranked(Rank::of(device, seed))
        }
    }
}
