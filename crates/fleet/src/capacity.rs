//! The part of a profile that placement looks at, and the class of devices that share it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::profile::{CapabilityProfile, ComputeRates};
use crate::{ByteSize, BytesPerSecond, OpsPerSecond, Runtime, TrustTier};

/// The part of a profile that placement looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Capacity {
    /// Runtimes that the device can start.
    pub runtimes: BTreeSet<Runtime>,
    /// How far the device is trusted.
    pub trust: TrustTier,
    /// Memory that the model may use.
    pub model_memory: ByteSize,
    /// Free disk for releases.
    pub disk_free: ByteSize,
    /// Memory bandwidth.
    pub memory_bandwidth: BytesPerSecond,
    /// Compute.
    pub compute: ComputeRates,
}

/// Devices that placement cannot tell apart: the canonical text of their rounded capacity, for example
/// `candle-gguf.unattested.m4290000000.d34359738368.b17000000000.f76000000000.i150000000000`.
///
/// Figures are rounded down (memory to three significant digits, bandwidth and compute to two, disk to a power of two),
/// so that a class promises no more than each of its members has, and a million devices are a few hundred classes. The
/// text is the whole of what placement is told, so unlike a short hash it cannot collide. Of it and
/// of a TUF target or store key it may be a part: it has only `a-z`, `0-9`, `-`, `+` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProfileClass(String);

/// A text is no profile class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no profile class: expected RUNTIMES.TRUST.mN.dN.bN.fN.iN with rounded figures")]
pub struct ProfileClassError {
    /// The refused text.
    pub text: String,
}

/// Keeps the leading decimal digits of a number and puts zeros for the rest.
fn round_down(value: u64, digits: u32) -> u64 {
    let length = value.checked_ilog10().map_or(1, |log| log + 1);
    let unit = 10u64.pow(length.saturating_sub(digits));
    value / unit * unit
}

/// The greatest power of two that is not greater.
fn power_of_two_below(value: u64) -> u64 {
    value.checked_ilog2().map_or(0, |log| 1 << log)
}

impl Capacity {
    /// The capacity of a device with this profile and trust tier.
    pub fn of(profile: &CapabilityProfile, trust: TrustTier) -> Self {
        Self {
            runtimes: profile.runtimes.clone(),
            trust,
            model_memory: profile.model_memory,
            disk_free: profile.disk_free,
            memory_bandwidth: profile.memory_bandwidth,
            compute: profile.compute,
        }
    }

    /// The capacity that its class promises: never more than this one.
    #[must_use]
    pub fn rounded(&self) -> Self {
        Self {
            runtimes: self.runtimes.clone(),
            trust: self.trust,
            model_memory: ByteSize::new(round_down(self.model_memory.get(), 3)),
            disk_free: ByteSize::new(power_of_two_below(self.disk_free.get())),
            memory_bandwidth: BytesPerSecond::new(round_down(self.memory_bandwidth.get(), 2)),
            compute: ComputeRates {
                f32: OpsPerSecond::new(round_down(self.compute.f32.get(), 2)),
                int8: OpsPerSecond::new(round_down(self.compute.int8.get(), 2)),
            },
        }
    }

    /// The class of devices with this capacity.
    pub fn class(&self) -> ProfileClass {
        let c = self.rounded();
        let runtimes: Vec<String> = c.runtimes.iter().map(ToString::to_string).collect();
        ProfileClass(format!(
            "{}.{}.m{}.d{}.b{}.f{}.i{}",
            runtimes.join("+"),
            c.trust,
            c.model_memory.get(),
            c.disk_free.get(),
            c.memory_bandwidth.get(),
            c.compute.f32.get(),
            c.compute.int8.get()
        ))
    }
}

impl ProfileClass {
    /// The class of a device with this profile and trust tier.
    pub fn of(profile: &CapabilityProfile, trust: TrustTier) -> Self {
        Capacity::of(profile, trust).class()
    }

    /// The text of the class.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every member of the class has at least: the argument of placement for the class.
    pub fn capacity(&self) -> Capacity {
        // Every constructor went through `parse`, so that the fallback is never taken.
        parse(&self.0).unwrap_or_else(|| Capacity {
            runtimes: BTreeSet::new(),
            trust: TrustTier::Unattested,
            model_memory: ByteSize::ZERO,
            disk_free: ByteSize::ZERO,
            memory_bandwidth: BytesPerSecond::ZERO,
            compute: ComputeRates {
                f32: OpsPerSecond::ZERO,
                int8: OpsPerSecond::ZERO,
            },
        })
    }
}

fn parse(text: &str) -> Option<Capacity> {
    let mut fields = text.split('.');
    let runtimes = match fields.next()? {
        "" => BTreeSet::new(),
        list => list.split('+').map(|name| name.parse().ok()).collect::<Option<_>>()?,
    };
    let trust = match fields.next()? {
        "unattested" => TrustTier::Unattested,
        "attested" => TrustTier::Attested,
        _ => return None,
    };
    let mut number = |tag: &str| fields.next()?.strip_prefix(tag)?.parse::<u64>().ok();
    let capacity = Capacity {
        runtimes,
        trust,
        model_memory: ByteSize::new(number("m")?),
        disk_free: ByteSize::new(number("d")?),
        memory_bandwidth: BytesPerSecond::new(number("b")?),
        compute: ComputeRates {
            f32: OpsPerSecond::new(number("f")?),
            int8: OpsPerSecond::new(number("i")?),
        },
    };
    fields.next().is_none().then_some(capacity)
}

impl FromStr for ProfileClass {
    type Err = ProfileClassError;
    fn from_str(text: &str) -> Result<Self, ProfileClassError> {
        let class = parse(text)
            .map(|capacity| capacity.class())
            .filter(|class| class.0 == text);
        class.ok_or_else(|| ProfileClassError {
            text: text.chars().take(200).collect(),
        })
    }
}

impl TryFrom<String> for ProfileClass {
    type Error = ProfileClassError;
    fn try_from(text: String) -> Result<Self, ProfileClassError> {
        text.parse()
    }
}

impl From<ProfileClass> for String {
    fn from(class: ProfileClass) -> Self {
        class.0
    }
}

impl fmt::Display for ProfileClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
