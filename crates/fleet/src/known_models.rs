//! Models whose variants can be planned from their published sizes alone.
//!
//! The figures are those of each model's `config.json` on Hugging Face. Losses of their variants have not been measured
//! by us: the variants are ordered by precision, and say so.

use crate::architecture::{Architecture, FeedForward};

/// A model with its published size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// Name for the command line.
    pub name: &'static str,
    /// Repository on Hugging Face whose `config.json` the figures are from.
    pub source: &'static str,
    /// Its architecture, as GGUF metadata name it.
    pub family: &'static str,
    /// Its size.
    pub architecture: Architecture,
}

/// The models that can be planned by name.
pub fn known_models() -> Vec<KnownModel> {
    let llama = |layers: u32, hidden: u32, feed_forward, kv_heads, context| Architecture {
        layers,
        hidden,
        feed_forward,
        feed_forward_kind: FeedForward::Gated,
        heads: 32,
        kv_heads,
        vocabulary: 32_000,
        context,
        // Two norms in each block and one after the last.
        vector_params: u64::from(hidden) * (2 * u64::from(layers) + 1),
    };
    let phi = Architecture {
        layers: 32,
        hidden: 2560,
        feed_forward: 10_240,
        feed_forward_kind: FeedForward::Plain,
        heads: 32,
        kv_heads: 32,
        vocabulary: 51_200,
        context: 2048,
        // In each block: biases of q, k, v, o (4 * 2560), up (10240) and down (2560), a layer norm (2 * 2560); one layer
        // norm after the last, and the bias of the head.
        vector_params: 32 * (4 * 2560 + 10_240 + 2560 + 2 * 2560) + 2 * 2560 + 51_200,
    };
    let model = |name, source, architecture: Architecture| KnownModel {
        name,
        source,
        family: match architecture.feed_forward_kind {
            FeedForward::Gated => "llama",
            FeedForward::Plain => "phi2",
        },
        architecture,
    };
    vec![
        model(
            "tinyllama-1.1b",
            "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
            llama(22, 2048, 5632, 4, 2048),
        ),
        model("phi-2", "microsoft/phi-2", phi),
        model(
            "mistral-7b-instruct",
            "mistralai/Mistral-7B-Instruct-v0.2",
            llama(32, 4096, 14_336, 8, 32_768),
        ),
        model(
            "llama-2-7b",
            "meta-llama/Llama-2-7b-hf",
            llama(32, 4096, 11_008, 32, 4096),
        ),
    ]
}

/// A model by its name, for example `llama-2-7b`.
pub fn known_model(name: &str) -> Option<KnownModel> {
    known_models().into_iter().find(|model| model.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Quantisation;

    #[test]
    fn parameters_are_exactly_those_of_the_published_checkpoints() {
        // Number of elements in the checkpoints' safetensors, as Hugging Face shows it for the repositories above.
        let published = [
            ("tinyllama-1.1b", 1_100_048_384),
            ("phi-2", 2_779_683_840),
            ("mistral-7b-instruct", 7_241_732_096),
            ("llama-2-7b", 6_738_415_616),
        ];
        for (name, params) in published {
            assert_eq!(known_model(name).unwrap().architecture.params(), params, "{name}");
        }
        assert_eq!(known_model("gpt-5"), None);
    }

    #[test]
    fn variants_have_the_size_of_the_published_files() {
        // Sizes in GB (1e9 bytes) from the model cards of TheBloke's GGUF repositories, made with llama.cpp in 2023.
        // They hold the vocabulary too; hence 1.5 percent, or the last digit of the card.
        let published = [
            ("llama-2-7b", Quantisation::Q4_0, 3.83),
            ("llama-2-7b", Quantisation::Q4KM, 4.08),
            ("llama-2-7b", Quantisation::Q6K, 5.53),
            ("llama-2-7b", Quantisation::Q8_0, 7.16),
            ("mistral-7b-instruct", Quantisation::Q4_0, 4.11),
            ("mistral-7b-instruct", Quantisation::Q4KM, 4.37),
            ("mistral-7b-instruct", Quantisation::Q8_0, 7.70),
            ("phi-2", Quantisation::Q4_0, 1.60),
            ("phi-2", Quantisation::Q8_0, 2.96),
            ("tinyllama-1.1b", Quantisation::Q4_0, 0.64),
            ("tinyllama-1.1b", Quantisation::Q4KM, 0.67),
            ("tinyllama-1.1b", Quantisation::Q8_0, 1.17),
        ];
        for (name, quantisation, gigabytes) in published {
            let variant = known_model(name).unwrap().architecture.variant(quantisation).unwrap();
            let ours = variant.weight_bytes.get() as f64 / 1e9;
            assert!(
                (ours - gigabytes).abs() < 0.006 + 0.015 * gigabytes,
                "{name} {quantisation:?}: {ours} {gigabytes}"
            );
        }
    }

    #[test]
    fn every_variant_is_possible_and_more_precise_ones_are_larger() {
        for model in known_models() {
            let variants = model.architecture.variants();
            assert_eq!(variants.len(), Quantisation::ALL.len());
            assert!(
                variants.iter().all(|variant| variant.validate().is_ok()),
                "{}",
                model.name
            );
            assert!(
                variants.is_sorted_by(|a, b| a.weight_bytes > b.weight_bytes),
                "{}",
                model.name
            );
        }
    }
}
