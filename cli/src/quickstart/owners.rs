//! What the owners of the devices let models use. A run sets it, so that unlike devices run unlike variants, and says so.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use fieldfare_lm::adapter::Projection;
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::gguf::Gguf;
use fieldfare_release::ReleaseManifest;
use fieldfare_release::manifest::Variant;

/// Placement sees memory rounded down to this many significant digits, so a grant has no more.
const DIGITS: u32 = 3;

/// Bytes of one factor's entry in a safetensors header: its name, type, shape and place.
const ADAPTER_ENTRY_BYTES: u64 = 192;

/// Which of the sizes of a release the owner of each reference device has room for, in the order of the reference profiles: 0 is
/// the largest. Two take anything, two are short of memory, one is very short.
const TIERS: [usize; 5] = [1, 0, 0, 1, 2];

/// Bytes that an adapter of this rank will add to every variant of the model in a GGUF file.
///
/// # Errors
/// The file is no model.
pub fn adapter_bytes(model: &Path, rank: u32) -> Result<u64> {
    let name = || format!("reading {}", model.display());
    let mut file = File::open(model).with_context(name)?;
    let length = file.metadata().with_context(name)?.len();
    let gguf = Gguf::read_header(&mut file, length).with_context(name)?;
    let config = DecoderConfig::from_gguf(&gguf).with_context(name)?;
    let widths: usize = Projection::ALL
        .iter()
        .map(|projection| projection.shape(&config))
        .map(|(input, output)| input + output)
        .sum();
    let factors = 2 * Projection::ALL.len() as u64;
    Ok(config.layers as u64 * (widths as u64 * u64::from(rank) * 4 + factors * ADAPTER_ENTRY_BYTES))
}

/// Memory that serving a variant with this context takes, as placement predicts it.
fn need(variant: &Variant, context: u32) -> u64 {
    let unused = variant.figures.context_tokens.saturating_sub(context);
    variant
        .requirements
        .memory_bytes
        .saturating_sub(variant.figures.kv_bytes_per_token * u64::from(unused))
}

fn round_down(value: u64) -> u64 {
    let length = value.checked_ilog10().map_or(1, |log| log + 1);
    let unit = 10u64.pow(length.saturating_sub(DIGITS));
    value / unit * unit
}

/// What the owner of each reference device grants, in bytes, in the order of the reference profiles; `None` is all that the
/// profile says. A grant below a variant's need leaves room for the next smaller one with the adapter that it will get; where
/// there is no such room, nothing is held back.
pub fn grants(manifest: &ReleaseManifest, context: u32, adapter: u64) -> [Option<u64>; 5] {
    let needs: Vec<u64> = manifest.variants.iter().map(|variant| need(variant, context)).collect();
    let grants = tiers(needs, adapter);
    TIERS.map(|tier| grants[tier.min(grants.len() - 1)])
}

/// A grant for each size, the largest first.
fn tiers(mut needs: Vec<u64>, adapter: u64) -> Vec<Option<u64>> {
    needs.sort_unstable_by(|a, b| b.cmp(a));
    needs.dedup();
    let pairs = needs.windows(2).map(|pair| (pair[0], pair[1]));
    let below = pairs.map(|(larger, smaller)| {
        let least = smaller.saturating_add(adapter);
        // In the middle of what would do, where rounding lets it; else just below the larger one.
        let choices = [least.midpoint(larger), larger.saturating_sub(1)].map(round_down);
        choices.into_iter().find(|grant| *grant >= least && *grant < larger)
    });
    let mut grants = vec![None];
    for grant in below {
        let before = grants.last().copied().flatten();
        grants.push(grant.or(before));
    }
    grants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_gets_a_grant_that_the_larger_one_does_not_fit() {
        let grants = tiers(vec![17_200_000, 18_000_000, 16_800_000], 200_000);
        assert_eq!(grants, [None, Some(17_700_000), Some(17_100_000)]);
    }

    #[test]
    fn sizes_too_close_for_the_adapter_are_not_told_apart() {
        assert_eq!(tiers(vec![17_100_000, 17_000_000], 200_000), [None, None]);
        assert_eq!(
            tiers(vec![19_000_000, 17_100_000, 17_000_000], 200_000),
            [None, Some(18_100_000), Some(18_100_000)]
        );
        assert_eq!(tiers(Vec::new(), 1), [None]);
    }

    #[test]
    fn grants_have_no_more_digits_than_placement_sees() {
        for (value, rounded) in [(0, 0), (999, 999), (1234, 1230), (17_256_999, 17_200_000)] {
            assert_eq!(round_down(value), rounded);
        }
    }
}
