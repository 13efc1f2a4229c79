//! Which variants are built from a source.

use fieldfare_lm::gguf::Gguf;
use fieldfare_lm::quantize::Precision;
use fieldfare_release::VariantName;

/// One variant to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VariantPlan {
    pub(super) name: VariantName,
    pub(super) precision: Precision,
}

/// What is built where nothing is asked for, the most precise first.
const STANDARD: [Precision; 3] = [Precision::F16, Precision::Q8_0, Precision::Q4_0];

/// The name of a variant: GGUF's name of its format, without the `_` that names of variants do not have.
fn name(precision: Precision) -> String {
    precision.name().to_lowercase().replace('_', "-")
}

/// Bits that a weight takes in a precision; blocks of 32 weights share one scale of 16 bits.
fn bits(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 32.0,
        Precision::F16 => 16.0,
        Precision::Q8_0 => 8.5,
        Precision::Q4_0 => 4.5,
    }
}

/// Bits that a weight of the source takes, over all its matrices.
fn source_bits(gguf: &Gguf) -> f64 {
    let matrices = gguf.tensors.iter().filter(|tensor| tensor.dimensions.len() >= 2);
    let (bytes, elements) = matrices.fold((0, 0), |(b, e), tensor| (b + tensor.bytes, e + tensor.elements()));
    8.0 * bytes as f64 / elements.max(1) as f64
}

/// The variants to build, the most precise first. A variant that would need more bits than its source has is left out: it
/// would be larger and no better.
pub(super) fn variants(asked: &[String], gguf: &Gguf) -> Result<Vec<VariantPlan>, String> {
    let mut wanted = if asked.is_empty() {
        STANDARD.to_vec()
    } else {
        Vec::with_capacity(asked.len())
    };
    for name in asked {
        let known = Precision::from_name(&name.replace('-', "_")).filter(|precision| STANDARD.contains(precision));
        wanted.push(known.ok_or_else(|| format!("variant {name:?} is none of f16, q8-0 and q4-0"))?);
    }
    wanted.sort_unstable();
    wanted.dedup();
    let available = source_bits(gguf);
    let (fitting, larger): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|precision| bits(*precision) <= available);
    for precision in &larger {
        tracing::info!(
            variant = name(*precision),
            source_bits = available,
            "left out: the source has fewer bits per weight, so the variant would be larger and no better"
        );
    }
    if fitting.is_empty() {
        return Err(format!(
            "its weights have {available:.1} bits each, fewer than any variant that was asked for"
        ));
    }
    let plan = |precision: Precision| {
        let name = name(precision)
            .parse::<VariantName>()
            .map_err(|error| error.to_string())?;
        Ok(VariantPlan { name, precision })
    };
    fitting.into_iter().map(plan).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use fieldfare_lm::gguf::{Metadata, TensorInfo, TensorType};

    fn source(tensor_type: TensorType) -> Gguf {
        let rows = 64;
        let elements = 256 * rows;
        let bytes = elements / tensor_type.block_elements() * tensor_type.block_bytes();
        let matrix = TensorInfo {
            name: "blk.0.attn_q.weight".to_owned(),
            dimensions: vec![256, rows],
            tensor_type,
            offset: 0,
            bytes,
        };
        Gguf {
            version: 3,
            alignment: 32,
            metadata: Metadata::new(),
            tensors: vec![matrix],
            data_offset: 0,
        }
    }

    #[test]
    fn variants_larger_than_their_source_are_left_out() {
        for (source_type, asked, expected) in [
            (TensorType::F32, &[][..], &["f16", "q8-0", "q4-0"][..]),
            (TensorType::F16, &[], &["f16", "q8-0", "q4-0"]),
            (TensorType::Q8_0, &[], &["q8-0", "q4-0"]),
            (TensorType::Q4_0, &[], &["q4-0"]),
            (TensorType::F32, &["Q4_0", "f16", "q4-0"], &["f16", "q4-0"]),
        ] {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            let plans = variants(&asked, &source(source_type)).unwrap();
            let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
            assert_eq!(names, expected, "{source_type}");
        }
    }

    #[test]
    fn a_variant_that_cannot_be_built_is_refused_by_name() {
        let refused = |asked: &str, of| variants(&[asked.to_owned()], &source(of)).unwrap_err();
        assert!(refused("q3_k_m", TensorType::F32).contains("q3_k_m"));
        assert!(refused("f16", TensorType::Q4_0).contains("4.5 bits"));
    }
}
