//! How long sequences may be in the memory that the owner grants.

use fieldfare_fleet::ByteSize;
use fieldfare_release::manifest::Variant;

use crate::limits::MIN_CONTEXT;

/// The longest context, in tokens, with which a variant takes no more than `granted` bytes: at most the one that its figures
/// assume. The controller places variants by the same figures, for the context that the deployment asks for.
///
/// # Errors
/// In words: not even [`MIN_CONTEXT`] tokens fit.
pub(super) fn context_within(variant: &Variant, granted: u64) -> Result<u32, String> {
    let figures = &variant.figures;
    let longest = figures.context_tokens;
    let shortfall = variant.requirements.memory_bytes.saturating_sub(granted);
    let given_up = match figures.kv_bytes_per_token {
        0 if shortfall > 0 => u64::from(longest),
        0 => 0,
        per_token => shortfall.div_ceil(per_token),
    };
    let context = u64::from(longest).saturating_sub(given_up);
    let least = longest.min(MIN_CONTEXT);
    match u32::try_from(context) {
        Ok(context) if context >= least && context > 0 => Ok(context),
        _ => {
            let spared = figures.kv_bytes_per_token.saturating_mul(u64::from(longest - least));
            let needed = ByteSize::new(variant.requirements.memory_bytes.saturating_sub(spared));
            let granted = ByteSize::new(granted);
            Err(format!(
                "variant {} needs {needed} of memory for a context of {least} tokens, and the owner grants {granted}",
                variant.name
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use fieldfare_release::manifest::{Figures, Requirements, Runtime};

    use super::*;

    fn variant(memory_bytes: u64, kv_bytes_per_token: u64, context_tokens: u32) -> Variant {
        Variant {
            name: "q4-0".parse().unwrap(),
            runtime: Runtime::CandleGguf,
            artifacts: Default::default(),
            figures: Figures {
                weight_bytes: 1,
                parameters: 1,
                flops_per_token: 1,
                kv_bytes_per_token,
                context_tokens,
                held_out_loss: 1.0,
            },
            requirements: Requirements { memory_bytes },
        }
    }

    #[test]
    fn less_memory_makes_shorter_sequences_down_to_a_least() {
        let cases = [
            (1_000_000, Ok(512)),
            (999_999, Ok(511)),
            (999_000, Ok(511)),
            (998_999, Ok(510)),
            (552_000, Ok(64)),
            (551_999, Err(())),
            (0, Err(())),
        ];
        for (granted, expected) in cases {
            let found = context_within(&variant(1_000_000, 1000, 512), granted);
            assert_eq!(found.map_err(|_| ()), expected, "{granted}");
        }
        let refused = context_within(&variant(1 << 30, 1 << 20, 512), 1 << 20).unwrap_err();
        assert!(
            refused.contains("576 MiB") && refused.contains("64 tokens") && refused.contains("1.00 MiB"),
            "{refused}"
        );
    }

    #[test]
    fn a_model_of_short_sequences_keeps_them_whole() {
        assert_eq!(context_within(&variant(100, 1, 32), 100), Ok(32));
        assert!(context_within(&variant(100, 1, 32), 99).is_err());
        assert_eq!(context_within(&variant(100, 0, 32), 100), Ok(32));
        assert!(context_within(&variant(100, 0, 32), 99).is_err());
    }
}
