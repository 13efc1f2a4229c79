//! Contributions: ring integers of a public length. The first three bytes choose the ring.

use fieldfare_privacy::{ExactSum, RingCodec, RingParameters};

use super::failed;
use crate::dice::Dice;
use crate::{Bound, Target};

pub(super) const TARGET: Target = Target {
    name: "contribution",
    seeds: || {
        let rings = [[4, 32, 8], [1, 56, 0], [9, 24, 3]];
        rings
            .iter()
            .map(|ring| {
                let codec = ring_of(ring).unwrap();
                let update: Vec<f32> = (0..codec.parameters().length)
                    .map(|index| index as f32 * 0.1 - 0.3)
                    .collect();
                [ring.to_vec(), codec.encode(&update).unwrap().bytes].concat()
            })
            .collect()
    },
    invent: Some(honest),
    take,
    bound: Bound {
        base: 16 << 10,
        per_byte: 32,
    },
    words: &[b"\xff\xff\xff\x7f", b"\0\0\0\x80"],
    inputs: 60_000,
};

fn parameters(ring: &[u8; 3]) -> RingParameters {
    RingParameters {
        length: ring[0].into(),
        range: 0.5,
        ring_bits: ring[1].into(),
        cohort_limit: 1_u32.checked_shl(ring[2].into()).unwrap_or(0),
    }
}

fn ring_of(ring: &[u8; 3]) -> Result<RingCodec, String> {
    RingCodec::new(parameters(ring)).map_err(|error| failed(&error))
}

/// What an honest device might send, with values at the ends of the range.
fn honest(dice: &mut Dice) -> Vec<u8> {
    let ring = [
        1 + dice.below(32) as u8,
        24 + dice.below(33) as u8,
        dice.below(12) as u8,
    ];
    let Ok(codec) = ring_of(&ring) else {
        return ring.to_vec();
    };
    let mut value = || match dice.below(4) {
        0 => 0.5,
        1 => f32::MIN,
        2 => f32::MIN_POSITIVE,
        _ => (dice.draw() % 1001) as f32 / 1000.0 - 0.5,
    };
    let update: Vec<f32> = (0..codec.parameters().length).map(|_| value()).collect();
    [ring.to_vec(), codec.encode(&update).unwrap().bytes].concat()
}

fn take(bytes: &[u8]) -> String {
    let Some((ring, bytes)) = bytes.split_first_chunk::<3>() else {
        return "no ring".to_owned();
    };
    let codec = match ring_of(ring) {
        Ok(codec) => codec,
        Err(error) => return error,
    };
    let update = match codec.decode(bytes) {
        Ok(update) => update,
        Err(error) => return failed(&error),
    };
    assert!(update.iter().all(|value| value.abs() <= codec.parameters().range));
    // Up to 2^23 levels an f32 holds each of them, and encoding gives back the bytes.
    if codec.levels() <= 1 << 23 {
        assert_eq!(codec.encode(&update).unwrap().bytes, bytes);
    }
    // A full cohort of it stays inside the ring and is exact.
    let mut sum = ExactSum::new(codec);
    let many = codec.parameters().cohort_limit.min(3);
    for _ in 0..many {
        sum.add(bytes).unwrap();
    }
    assert_eq!(sum.count(), many);
    let mut twice = ExactSum::new(codec);
    twice.add(bytes).unwrap();
    for (all, once) in sum.levels().iter().zip(twice.levels()) {
        assert_eq!(*all, once * i64::from(many));
        assert!(all.abs() <= codec.levels() * i64::from(many));
    }
    "a contribution".to_owned()
}
