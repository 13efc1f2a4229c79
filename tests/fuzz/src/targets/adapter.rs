//! LoRA factors in safetensors, with their configuration inside.

use std::collections::BTreeMap;

use fieldfare_lm::adapter::{LoraAdapter, LoraFactors, Projection, peft};
use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::gguf::Gguf;

use super::failed;
use crate::{Bound, Target};

pub(super) const TARGET: Target = Target {
    name: "adapter",
    seeds: || {
        let config = config();
        let files = peft::write(&adapter(&config), &config, "farm").unwrap();
        vec![files.model]
    },
    invent: None,
    take,
    // JSON values of a few bytes take some hundred in the map of tensors.
    bound: Bound {
        base: 64 << 10,
        per_byte: 64,
    },
    words: &[
        b"\"dtype\":\"F16\"",
        b"\"dtype\":\"BF16\"",
        b"\"data_offsets\":[0,8]",
        b"\"shape\":[2,4]",
        b"\"__metadata__\":",
        b"\\\"r\\\":",
        b"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        b"18446744073709551615",
    ],
    inputs: 20_000,
};

fn config() -> DecoderConfig {
    let file = super::gguf::file(&super::gguf::decoder(), &[]);
    DecoderConfig::from_gguf(&Gguf::parse(&file).unwrap()).unwrap()
}

fn adapter(config: &DecoderConfig) -> LoraAdapter {
    let rank = 2;
    let mut factors = BTreeMap::new();
    for projection in [Projection::Query, Projection::Down] {
        let (d_in, d_out) = projection.shape(config);
        let a = (0..rank * d_in).map(|index| index as f32).collect();
        let b = (0..d_out * rank).map(|index| -(index as f32)).collect();
        factors.insert((0, projection), LoraFactors { d_in, d_out, a, b });
    }
    LoraAdapter {
        rank,
        alpha: 4.0,
        factors,
    }
}

fn take(bytes: &[u8]) -> String {
    let config = config();
    let adapter = match peft::read(bytes, None, &config) {
        Ok(adapter) => adapter,
        Err(error) => return failed(&error),
    };
    let written = peft::write(&adapter, &config, "farm").unwrap();
    let again = peft::read(&written.model, Some(&written.config), &config).unwrap();
    assert_eq!(again, adapter);
    assert_eq!(peft::write(&again, &config, "farm").unwrap(), written);
    "an adapter".to_owned()
}
