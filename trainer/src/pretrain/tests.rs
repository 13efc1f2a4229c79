use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::gguf::Gguf;
use fieldfare_lm::tokenizer::Tokenizer;

use super::*;
use crate::farm::datasets::{DatasetSizes, FarmDatasets};

fn short_recipe() -> Recipe {
    Recipe {
        steps: 6,
        batch: 4,
        vocabulary_examples: 300,
        held_out_examples: 5,
        ..Recipe::default()
    }
}

#[test]
fn a_pretrained_model_comes_back_from_its_file() {
    let recipe = short_recipe();
    let mut losses = Vec::new();
    let model = pretrain(&recipe, |progress| losses.push(progress.loss)).unwrap();
    assert_eq!(losses.len(), recipe.steps);
    assert!(losses[0] > 5.0 && losses[5] < losses[0], "{losses:?}");
    let mut file = Vec::new();
    model.write_gguf(&mut file, Storage::F32).unwrap();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(&DecoderConfig::from_gguf(&gguf).unwrap(), model.weights().config());
    for place in model.weights().places() {
        let bytes = gguf.tensor_bytes(&file, gguf.tensor(&place.name).unwrap()).unwrap();
        let expected: Vec<u8> = model
            .weights()
            .tensor(place)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert!(bytes == expected, "{}", place.name);
    }
    let mut halved = Vec::new();
    model.write_gguf(&mut halved, Storage::F16).unwrap();
    assert!(
        halved.len() < file.len() * 6 / 10,
        "{} and {} bytes",
        halved.len(),
        file.len()
    );
    let evaluation = model.evaluate(&recipe).unwrap();
    assert_eq!((evaluation.held_out.examples, evaluation.novelty.examples), (5, 250));
}

#[test]
fn any_text_becomes_tokens_and_comes_back() {
    let pieces = learn_vocabulary(&short_recipe());
    let metadata = export::metadata(&Recipe::default().config(pieces.as_slice().len()), &pieces);
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    let devices = FarmDatasets::generate(
        1,
        DatasetSizes {
            training: 3,
            held_out: 1,
            evaluation: 1,
        },
    )
    .devices;
    let farm = devices.iter().map(|device| device.training[0].prompt.clone());
    for text in farm.chain([
        "Grüße, 農場! \u{1F33E}".to_owned(),
        "a\tb\r\nc".to_owned(),
        String::new(),
    ]) {
        let tokens = tokenizer
            .encode_prompt(&text, fieldfare_lm::tokenizer::ControlTokens::AsText)
            .unwrap();
        assert_eq!(tokenizer.decode(&tokens), text);
    }
}

#[test]
fn every_word_of_the_farm_is_a_handful_of_tokens() {
    let recipe = Recipe::default();
    let pieces = learn_vocabulary(&Recipe {
        vocabulary_examples: 5_000,
        ..recipe.clone()
    });
    let metadata = export::metadata(&recipe.config(pieces.as_slice().len()), &pieces);
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    let data = FarmDatasets::generate(
        2,
        DatasetSizes {
            training: 40,
            held_out: 1,
            evaluation: 1,
        },
    );
    for device in data.devices {
        for example in tokenise(&tokenizer, &device.training).unwrap() {
            assert!(example.tokens().len() < 80, "{} tokens", example.tokens().len());
        }
    }
}
