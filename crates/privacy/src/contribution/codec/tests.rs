use proptest::prelude::*;

use super::*;

fn parameters(length: usize, ring_bits: u32, cohort_limit: u32) -> RingParameters {
    RingParameters {
        length,
        range: 0.5,
        ring_bits,
        cohort_limit,
    }
}

fn codec(length: usize, ring_bits: u32, cohort_limit: u32) -> RingCodec {
    RingCodec::new(parameters(length, ring_bits, cohort_limit)).expect("valid")
}

proptest! {
    #[test]
    fn decoding_an_encoded_update_is_within_the_resolution(
        update in prop::collection::vec(-0.75f32..0.75, 1..50),
        ring_bits in 24u32..=MAX_RING_BITS,
        cohort in 1u32..4096,
    ) {
        let codec = codec(update.len(), ring_bits, cohort);
        let encoded = codec.encode(&update).expect("finite");
        prop_assert_eq!(encoded.bytes.len(), codec.byte_length());
        prop_assert_eq!(encoded.clamped, update.iter().filter(|value| value.abs() > 0.5).count());
        for (decoded, value) in codec.decode(&encoded.bytes).expect("honest").iter().zip(&update) {
            let clamped = f64::from(value.clamp(-0.5, 0.5));
            // The decoded value is rounded once more, to f32.
            let bound = codec.resolution() + f64::from(f32::EPSILON);
            prop_assert!((f64::from(*decoded) - clamped).abs() <= bound);
        }
    }

    #[test]
    fn arbitrary_bytes_decode_within_the_range_or_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        ring_bits in 24u32..=MAX_RING_BITS,
    ) {
        let codec = codec(5, ring_bits, 100);
        match codec.decode(&bytes) {
            Ok(update) => prop_assert!(update.iter().all(|value| value.abs() <= 0.5)),
            Err(ContributionError::ByteLength { given, .. }) => prop_assert_eq!(given, bytes.len()),
            Err(error) => {
                let out_of_range = matches!(error, ContributionError::OutOfRange { .. });
                prop_assert!(out_of_range, "{}", error);
            }
        }
    }
}

#[test]
fn a_full_cohort_of_extreme_entries_stays_inside_the_ring() {
    for (ring_bits, cohort) in [
        (32, 1),
        (32, 5),
        (32, 1024),
        (32, 1 << 24),
        (24, 3),
        (56, 1 << 24),
        (8, 1),
    ] {
        let codec = codec(1, ring_bits, cohort);
        let extreme = i128::from(codec.levels()) * i128::from(cohort);
        assert!(extreme < 1i128 << (ring_bits - 1), "{ring_bits} bits, cohort {cohort}");
    }
}

#[test]
fn entries_take_the_fewest_bytes_for_their_range() {
    for (ring_bits, cohort, entry_bytes) in [
        (32, 1, 4),
        (32, 2, 4),
        (32, 256, 3),
        (32, 1 << 16, 2),
        (8, 1, 1),
        (56, 1, 7),
    ] {
        assert_eq!(
            codec(10, ring_bits, cohort).byte_length(),
            10 * entry_bytes,
            "{ring_bits}, {cohort}"
        );
    }
}

#[test]
fn the_wire_bytes_are_little_endian_twos_complement() {
    // Levels are (2^31 - 1) / 1024 = 2097151, three bytes.
    let encoded = codec(4, 32, 1024).encode(&[0.5, -0.5, 0.0, 9.0]).expect("finite");
    assert_eq!(
        encoded.bytes,
        [0xff, 0xff, 0x1f, 0x01, 0x00, 0xe0, 0, 0, 0, 0xff, 0xff, 0x1f]
    );
    assert_eq!(encoded.clamped, 1);
}

#[test]
fn hostile_contributions_are_refused_by_name() {
    let codec = codec(2, 32, 1024);
    assert_eq!(
        codec.decode(&[0; 5]),
        Err(ContributionError::ByteLength { given: 5, expected: 6 })
    );
    assert_eq!(
        codec.decode(&[0; 7]),
        Err(ContributionError::ByteLength { given: 7, expected: 6 })
    );
    let levels = codec.levels();
    assert_eq!(
        codec.decode(&[0, 0, 0, 0x00, 0x00, 0x20]),
        Err(ContributionError::OutOfRange {
            index: 1,
            value: levels + 1,
            levels
        })
    );
    assert_eq!(
        codec.decode(&[0x00, 0x00, 0x80, 0, 0, 0]),
        Err(ContributionError::OutOfRange {
            index: 0,
            value: -(1 << 23),
            levels
        })
    );
}

#[test]
fn an_update_that_is_not_finite_or_has_another_length_is_refused() {
    let codec = codec(2, 32, 1024);
    assert!(matches!(
        codec.encode(&[0.0, f32::NAN]),
        Err(ContributionError::NotFinite { index: 1, .. })
    ));
    assert!(matches!(
        codec.encode(&[f32::INFINITY, 0.0]),
        Err(ContributionError::NotFinite { index: 0, .. })
    ));
    assert_eq!(
        codec.encode(&[0.0; 3]),
        Err(ContributionError::UpdateLength { given: 3, expected: 2 })
    );
}

#[test]
fn impossible_rings_are_refused_by_name() {
    let valid = parameters(10, 32, 100);
    let refused = |parameters| RingCodec::new(parameters).expect_err("impossible");
    assert_eq!(
        refused(RingParameters { length: 0, ..valid }),
        RingError::Length { given: 0 }
    );
    assert_eq!(
        refused(RingParameters { range: 0.0, ..valid }),
        RingError::Range { given: 0.0 }
    );
    assert!(matches!(
        refused(RingParameters {
            range: f32::NAN,
            ..valid
        }),
        RingError::Range { .. }
    ));
    assert!(matches!(
        refused(RingParameters {
            range: f32::INFINITY,
            ..valid
        }),
        RingError::Range { .. }
    ));
    assert!(matches!(
        refused(RingParameters { range: -1.0, ..valid }),
        RingError::Range { .. }
    ));
    assert_eq!(
        refused(RingParameters { ring_bits: 64, ..valid }),
        RingError::RingBits { given: 64 }
    );
    assert_eq!(
        refused(RingParameters { ring_bits: 0, ..valid }),
        RingError::RingBits { given: 0 }
    );
    assert_eq!(
        refused(RingParameters {
            cohort_limit: 0,
            ..valid
        }),
        RingError::Cohort { given: 0 }
    );
    assert_eq!(
        refused(RingParameters {
            ring_bits: 16,
            cohort_limit: 1000,
            ..valid
        }),
        RingError::TooCoarse {
            ring_bits: 16,
            cohort: 1000,
            levels: 32
        }
    );
}
