use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::config::tests::llama_2_7b;

/// Two layers of width 8 with two heads, one key-value head.
fn config() -> DecoderConfig {
    let mut config = DecoderConfig::from_gguf(&llama_2_7b()).unwrap();
    config.layers = 2;
    (config.width, config.heads, config.kv_heads, config.head_width) = (8, 2, 1, 4);
    config.feed_forward = 12;
    config
}

fn adapter() -> LoraAdapter {
    let rank = 2;
    let mut factors = BTreeMap::new();
    for (layer, projection) in [(0, Projection::Query), (0, Projection::Down), (1, Projection::Key)] {
        let (d_in, d_out) = projection.shape(&config());
        let a = (0..rank * d_in).map(|index| index as f32).collect();
        let b = (0..d_out * rank).map(|index| -(index as f32)).collect();
        factors.insert((layer, projection), LoraFactors { d_in, d_out, a, b });
    }
    LoraAdapter {
        rank,
        alpha: 4.0,
        factors,
    }
}

#[test]
fn what_is_written_is_read_back_with_or_without_the_second_file() {
    let files = write(&adapter(), &config(), "farm").unwrap();
    assert_eq!(read(&files.model, Some(&files.config), &config()).unwrap(), adapter());
    assert_eq!(read(&files.model, None, &config()).unwrap(), adapter());
    assert_eq!(
        write(&adapter(), &config(), "farm").unwrap(),
        files,
        "equal adapters have equal bytes"
    );
}

#[test]
fn names_and_rows_are_those_of_peft() {
    let files = write(&adapter(), &config(), "farm").unwrap();
    let tensors = SafeTensors::deserialize(&files.model).unwrap();
    let b = tensors
        .tensor("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight")
        .unwrap();
    assert_eq!((b.shape(), b.dtype()), ([8, 2].as_slice(), Dtype::F32));
    let first_of_each_row: Vec<f32> = b
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .step_by(2)
        .map(|element| -f32::from_le_bytes(*element) / 2.0)
        .collect();
    // Hugging Face's rows 0, 1, 2, 3 of a head of four are GGUF's rows 0, 2, 1, 3.
    assert_eq!(first_of_each_row, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    let down = tensors
        .tensor("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight")
        .unwrap();
    assert_eq!(down.shape(), [2, 12]);
    let json: Value = serde_json::from_str(&files.config).unwrap();
    assert_eq!(
        json["target_modules"],
        serde_json::json!(["down_proj", "k_proj", "q_proj"])
    );
    assert_eq!((json["r"].as_u64(), json["lora_alpha"].as_f64()), (Some(2), Some(4.0)));
}

#[test]
fn configurations_that_would_compute_something_else_are_refused() {
    let files = write(&adapter(), &config(), "farm").unwrap();
    let cases = [
        (r#""peft_type": "LORA""#, r#""peft_type": "IA3""#, "peft_type is IA3"),
        (r#""bias": "none""#, r#""bias": "all""#, "bias is all"),
        (r#""use_dora": false"#, r#""use_dora": true"#, "use_dora is true"),
        (r#""use_rslora": false"#, r#""use_rslora": true"#, "use_rslora is true"),
        (r#""r": 2"#, r#""r": 100000"#, "the rank is 100000"),
        (r#""r": 2"#, r#""r": 3"#, "expected F32, F16 or BF16 [3, 12]"),
        (r#""r": 2"#, r#""r": "two""#, "not a LoRA configuration"),
        (
            r#""r": 2"#,
            r#""r": 2, "alpha_pattern": {"q_proj": 16}"#,
            "alpha_pattern is {\"q_proj\":16}",
        ),
        (
            r#""r": 2"#,
            r#""r": 2, "layer_replication": [[0, 4], [2, 5]]"#,
            "layer_replication is",
        ),
        (r#""r": 2"#, r#""r": 2, "use_qalora": true"#, "use_qalora is true"),
        (
            r#""r": 2"#,
            r#""r": 2, "init_lora_weights": "pissa_niter_16""#,
            "init_lora_weights is \"pissa_niter_16\"",
        ),
        (
            r#""r": 2"#,
            r#""r": 2, "of_tomorrow": 1"#,
            "of_tomorrow is 1, expected nothing",
        ),
    ];
    for (from, to, expected) in cases {
        let changed = files.config.replace(from, to);
        assert_ne!(changed, files.config, "{from}");
        let error = read(&files.model, Some(&changed), &config()).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

/// The fields that PEFT 0.21.2 writes for `LoraConfig(r=2, lora_alpha=4, target_modules="all-linear")`.
#[test]
fn fields_that_change_nothing_are_passed_over() {
    let files = write(&adapter(), &config(), "farm").unwrap();
    let written = files.config.replace(
        r#""r": 2"#,
        r#""r": 2, "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
        "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
        "init_lora_weights": true, "layer_replication": null, "layers_pattern": null, "layers_to_transform": null,
        "loftq_config": {}, "lora_bias": false, "megatron_config": null, "megatron_core": "megatron.core",
        "modules_to_save": null, "peft_version": "0.21.2", "qalora_group_size": 16, "rank_pattern": {},
        "revision": null, "target_parameters": null, "trainable_token_indices": null, "use_qalora": false"#,
    );
    assert_ne!(written, files.config);
    assert_eq!(read(&files.model, Some(&written), &config()).unwrap(), adapter());
    let mut by_expression: Value = serde_json::from_str(&written).unwrap();
    by_expression["target_modules"] = Value::from("all-linear");
    let by_expression = by_expression.to_string();
    assert_eq!(read(&files.model, Some(&by_expression), &config()).unwrap(), adapter());
}

fn serialise(tensors: &[(&str, Vec<usize>, Dtype)]) -> Vec<u8> {
    let zeros = vec![0; 1 << 12];
    let views = tensors.iter().map(|(name, shape, dtype)| {
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (
            (*name).to_owned(),
            TensorView::new(*dtype, shape.clone(), &zeros[..bytes]).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn tensors_that_are_not_this_decoders_are_refused_by_name() {
    let json = write(&adapter(), &config(), "farm").unwrap().config;
    let a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let cases: [(&str, Vec<usize>, Dtype, &str); 7] = [
        (a, vec![2, 8], Dtype::F32, "layer 0 q_proj has one factor only"),
        (
            a,
            vec![8, 2],
            Dtype::F32,
            "q_proj.lora_A.weight is F32 [8, 2], expected",
        ),
        (
            a,
            vec![2, 8],
            Dtype::I32,
            "q_proj.lora_A.weight is I32 [2, 8], expected",
        ),
        (
            "base_model.model.lm_head.lora_A.weight",
            vec![1],
            Dtype::F32,
            "lm_head.lora_A.weight is not understood",
        ),
        (
            "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight",
            vec![1],
            Dtype::F32,
            "layer 9, and the decoder has 2",
        ),
        (
            "base_model.model.model.layers.0.mlp.q_proj.lora_A.weight",
            vec![1],
            Dtype::F32,
            "is not understood",
        ),
        (
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight.x",
            vec![1],
            Dtype::F32,
            "is not understood",
        ),
    ];
    for (name, shape, dtype, expected) in cases {
        let error = read(&serialise(&[(name, shape, dtype)]), Some(&json), &config())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(matches!(
        read(&serialise(&[]), None, &config()),
        Err(AdapterError::NoConfig)
    ));
}

proptest! {
    #[test]
    fn no_damaged_file_panics(at in 0_usize..4_096, flip in 1_u8..=255, cut in 0_usize..4_096) {
        let files = write(&adapter(), &config(), "farm").unwrap();
        let mut damaged = files.model.clone();
        let at = at % damaged.len();
        damaged[at] ^= flip;
        let _ = read(&damaged, None, &config());
        let _ = read(&damaged, Some(&files.config), &config());
        prop_assert!(read(&files.model[..cut % files.model.len()], Some(&files.config), &config()).is_err());
    }
}
