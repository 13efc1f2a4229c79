//! Each parser of foreign bytes, under attack for some seconds. `FIELDFARE_FUZZ_ITERATIONS` and `FIELDFARE_FUZZ_SECONDS` say how
//! many inputs and for how long at most, for each parser; `FIELDFARE_SEED` which.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests are configured by the environment, and say what they tried"
)]

use std::time::Duration;

use fieldfare_fuzz::memory::Counting;
use fieldfare_fuzz::run::{Effort, run};
use fieldfare_fuzz::targets::target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text:?}, expected a number")),
    )
}

fn attack(name: &str) {
    let effort = Effort {
        seed: number("FIELDFARE_SEED").unwrap_or(1),
        inputs: number("FIELDFARE_FUZZ_ITERATIONS"),
        within: number("FIELDFARE_FUZZ_SECONDS").map(Duration::from_secs),
    };
    println!("FIELDFARE_SEED={}", effort.seed);
    let begun = std::time::Instant::now();
    let tried = run(target(name), effort);
    println!(
        "{name}: {} inputs, {} outcomes, at most {} bytes, {:?}",
        tried.inputs,
        tried.outcomes,
        tried.memory,
        begun.elapsed()
    );
    assert!(tried.outcomes > 5 && tried.memory > 0, "{name}: {tried:?}");
}

macro_rules! attacks {
    ($($function:ident: $name:literal),* $(,)?) => {
        $(
            #[test]
            fn $function() {
                attack($name);
            }
        )*

        #[test]
        fn every_target_is_attacked() {
            let attacked = [$($name),*];
            let all: Vec<&str> = fieldfare_fuzz::targets::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(attacked.as_slice(), all);
        }
    };
}

attacks! {
    a_gguf_header_is_read_or_refused: "gguf",
    a_vocabulary_and_a_template_are_used_or_refused: "tokenizer",
    an_adapter_is_read_or_refused: "adapter",
    release_metadata_are_read_or_refused: "metadata",
    signed_metadata_are_believed_or_refused: "metadata-signed",
    a_manifest_is_read_or_refused: "manifest",
    messages_are_converted_or_refused: "messages",
    a_contribution_is_decoded_or_refused: "contribution",
    examples_are_read_or_refused: "examples",
    an_audit_log_is_judged: "audit",
}
