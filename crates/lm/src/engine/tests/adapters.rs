//! Adapters beside the weights.

use super::*;

/// An adapter with all factors filled from a seed.
fn adapter(config: &DecoderConfig, seed: u32) -> LoraAdapter {
    let rank = 4;
    let mut state = seed;
    let mut fill = |count: usize| -> Vec<f32> {
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 * 0.1 - 0.05
            })
            .collect()
    };
    let mut factors = BTreeMap::new();
    for layer in 0..config.layers {
        for projection in Projection::ALL {
            let (d_in, d_out) = projection.shape(config);
            factors.insert(
                (layer, projection),
                LoraFactors {
                    d_in,
                    d_out,
                    a: fill(rank * d_in),
                    b: fill(d_out * rank),
                },
            );
        }
    }
    LoraAdapter {
        rank,
        alpha: 16.0,
        factors,
    }
}

/// stories260K with an adapter added into its weights.
fn merged(adapter: &LoraAdapter) -> Vec<u8> {
    let file = std::fs::read(test_data::find(test_data::STORIES).unwrap()).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    let spec = |tensor: &crate::gguf::TensorInfo| TensorSpec {
        name: tensor.name.clone(),
        dimensions: tensor.dimensions.clone(),
        tensor_type: tensor.tensor_type,
    };
    let specs: Vec<TensorSpec> = gguf.tensors.iter().map(spec).collect();
    let mut writer = GgufWriter::new(Vec::new(), &gguf.metadata, &specs).unwrap();
    for tensor in &gguf.tensors {
        let bytes = gguf.tensor_bytes(&file, tensor).unwrap();
        let site = adapter
            .factors
            .iter()
            .find(|((layer, projection), _)| tensor.name == format!("blk.{layer}.{}.weight", projection.gguf_name()));
        let Some((_, factors)) = site else {
            writer.tensor(bytes).unwrap();
            continue;
        };
        let mut weights: Vec<f32> = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|element| f32::from_le_bytes(*element))
            .collect();
        for (out, row) in weights.chunks_exact_mut(factors.d_in).enumerate() {
            for (column, element) in row.iter_mut().enumerate() {
                let product: f32 = (0..adapter.rank)
                    .map(|r| factors.b[out * adapter.rank + r] * factors.a[r * factors.d_in + column])
                    .sum();
                *element += adapter.scale() * product;
            }
        }
        writer
            .tensor(
                &weights
                    .iter()
                    .flat_map(|element| element.to_le_bytes())
                    .collect::<Vec<u8>>(),
            )
            .unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn an_adapter_beside_the_weights_equals_one_merged_into_them() {
    let Some(mut engine) = stories() else { return };
    let tokens = prompt(&engine, STORY);
    let base = engine.logits(&tokens).unwrap();
    let adapter = adapter(engine.config(), 1);
    engine.set_adapter(Some(&adapter)).unwrap();
    let beside = engine.logits(&tokens).unwrap();
    let within = Engine::from_bytes(&merged(&adapter)).unwrap().logits(&tokens).unwrap();
    let largest = |left: &[Vec<f32>], right: &[Vec<f32>]| {
        let pairs = left.iter().flatten().zip(right.iter().flatten());
        pairs.map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
    };
    assert!(largest(&beside, &within) < 1e-3, "{}", largest(&beside, &within));
    assert!(largest(&beside, &base) > 0.1, "the adapter does something");
    engine.set_adapter(None).unwrap();
    assert_eq!(
        engine.logits(&tokens).unwrap(),
        base,
        "taking it away restores the base bit for bit"
    );
}

#[test]
fn a_running_session_keeps_its_adapter_when_it_is_swapped() {
    let Some(mut engine) = stories() else { return };
    let prompt = prompt(&engine, "Once upon a time");
    let undisturbed = engine.generate(&prompt, &options(12)).unwrap().tokens;
    let mut session = engine.session(&prompt, &options(12)).unwrap();
    while session.tokens().len() < 3 {
        session.step().unwrap();
    }
    let strong = LoraAdapter {
        alpha: 256.0,
        ..adapter(engine.config(), 2)
    };
    engine.set_adapter(Some(&strong)).unwrap();
    while !matches!(session.step().unwrap(), Step::Finished { .. }) {}
    assert_eq!(session.tokens(), undisturbed);
    assert_ne!(engine.generate(&prompt, &options(12)).unwrap().tokens, undisturbed);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_and_changes_nothing() {
    let Some(mut engine) = stories() else { return };
    let good = adapter(engine.config(), 3);
    type Damage = fn(&mut LoraAdapter);
    let cases: [(Damage, &str); 6] = [
        (|adapter| adapter.rank = 0, "the rank is 0"),
        (
            |adapter| adapter.rank = 5,
            "layer 0 q_proj: A has 256 elements, expected 320",
        ),
        (|adapter| adapter.alpha = f32::NAN, "alpha is NaN"),
        (
            |adapter| adapter.factors.get_mut(&(1, Projection::Up)).unwrap().b[3] = f32::INFINITY,
            "layer 1 up_proj: B has",
        ),
        (
            |adapter| adapter.factors.get_mut(&(0, Projection::Key)).unwrap().d_out = 64,
            "layer 0 k_proj: B",
        ),
        (
            |adapter| {
                let factors = adapter.factors[&(0, Projection::Key)].clone();
                adapter.factors.insert((5, Projection::Key), factors);
            },
            "layer 5, and the decoder has 5",
        ),
    ];
    for (damage, expected) in cases {
        let mut bad = good.clone();
        damage(&mut bad);
        let error = engine.set_adapter(Some(&bad)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(engine.adapter.is_none());
    }
}
