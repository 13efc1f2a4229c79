//! The named limits of the parsers: what is at one is taken, what is one beyond is refused.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

mod models;
mod releases;

use fieldfare_audit::limits::MAX_NOTE_BYTES;
use fieldfare_audit::note;
use fieldfare_fuzz::memory::Counting;
use fieldfare_privacy::limits::{MAX_COHORT, MAX_LENGTH, MAX_LEVELS, MAX_RING_BITS, MIN_LEVELS};
use fieldfare_privacy::{RingCodec, RingError, RingParameters};
use ring::rand::SystemRandom;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_ring() {
    let of = |length, ring_bits, cohort_limit| {
        RingCodec::new(RingParameters {
            length,
            range: 1.0,
            ring_bits,
            cohort_limit,
        })
    };
    assert!(of(MAX_LENGTH, 32, 1).is_ok());
    assert!(matches!(of(MAX_LENGTH + 1, 32, 1), Err(RingError::Length { .. })));
    assert_eq!(of(1, MAX_RING_BITS, 1).unwrap().levels(), MAX_LEVELS);
    assert!(matches!(of(1, MAX_RING_BITS + 1, 1), Err(RingError::RingBits { .. })));
    assert!(of(1, MAX_RING_BITS, MAX_COHORT).is_ok());
    assert!(matches!(
        of(1, MAX_RING_BITS, MAX_COHORT + 1),
        Err(RingError::Cohort { .. })
    ));
    assert_eq!(of(1, 8, 1).unwrap().levels(), MIN_LEVELS);
    assert!(matches!(of(1, 8, 2), Err(RingError::TooCoarse { .. })));
    assert!(matches!(of(1, 7, 1), Err(RingError::RingBits { .. })));
}

#[test]
fn a_signed_note() {
    let key = fieldfare_fuzz::sample::key();
    let open = |length: usize| {
        let text = format!("fleet.example/log\n{}\n", "x".repeat(length));
        let note = note::sign(&text, "fleet.example/log", &key, &SystemRandom::new()).unwrap();
        (note.len(), note::open(note.as_bytes(), key.public()).map(str::len))
    };
    // A signature in DER is a byte longer or shorter, as chance has it.
    let spare = MAX_NOTE_BYTES - open(1).0 - 8;
    assert!(open(spare).1.is_ok());
    let (length, opened) = open(spare + 32);
    assert!(length > MAX_NOTE_BYTES);
    assert_eq!(opened, Err(note::NoteError::TooLong));
}
