//! Segments of the audit log, judged with a checkpoint; and signed notes.

use std::sync::OnceLock;

use fieldfare_audit::frame::{self, Kind, MAGIC, Next};
use fieldfare_audit::head::{Removal, TreeHead};
use fieldfare_audit::note;
use fieldfare_audit::tree::Tree;
use fieldfare_audit::verify::{Anchor, Verifier};
use fieldfare_release::tuf::PublicKey;
use ring::rand::SystemRandom;

use crate::dice::Dice;
use crate::{Bound, Target, keys};

pub(super) const TARGET: Target = Target {
    name: "audit",
    seeds: || {
        vec![
            log().segment.clone(),
            log().note.clone().into_bytes(),
            b"FFAUDIT1".to_vec(),
        ]
    },
    invent: Some(rehashed),
    take,
    // One payload at its longest, whatever length a frame claims, and a report of a hundred findings.
    bound: Bound {
        base: 512 << 10,
        per_byte: 8,
    },
    words: &[
        b"FFAUDIT1",
        "\n\u{2014} fleet.example/log ".as_bytes(),
        b"\n\n",
        b"time 1",
    ],
    inputs: 8_000,
};

const ORIGIN: &str = "fleet.example/log";

struct Log {
    key: PublicKey,
    segment: Vec<u8>,
    note: String,
    /// Frames of the segment after its first.
    frames: Vec<(Kind, u64, Vec<u8>)>,
}

/// A log of eight records with a head after every third, and its checkpoint.
fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let rng = SystemRandom::new();
        let key = keys::first();
        let head = |tree: &Tree| {
            let head = TreeHead {
                origin: ORIGIN.to_owned(),
                size: tree.size(),
                root: tree.root(),
                at_unix_ms: 1_795_366_724_000,
            };
            head.sign(&key, &rng).unwrap()
        };
        let mut tree = Tree::new();
        let mut segment = frame::encode_start(&tree, &head(&tree));
        let mut frames = Vec::new();
        for index in 0..9 {
            let record = format!("record {index}").into_bytes();
            tree.append(frame::encode(Kind::Record, index, &record, &mut segment));
            frames.push((Kind::Record, index, record));
            if index % 3 == 2 {
                let note = head(&tree).into_bytes();
                frame::encode(Kind::Head, index + 1, &note, &mut segment);
                frames.push((Kind::Head, index + 1, note));
            }
        }
        Log {
            key: key.public().clone(),
            segment,
            note: head(&tree),
            frames,
        }
    })
}

/// A segment changed by somebody who knows its form: every frame has its own right hash.
fn rehashed(dice: &mut Dice) -> Vec<u8> {
    let log = log();
    let mut frames = log.frames.clone();
    for _ in 0..=dice.below(3) {
        let at = dice.below(frames.len());
        match dice.below(5) {
            0 => drop(frames.remove(at)),
            1 => frames.insert(dice.below(frames.len()), log.frames[at % log.frames.len()].clone()),
            2 => frames[at].1 = dice.edge(),
            3 => frames[at].2.truncate(dice.below(9)),
            _ => frames[at].2.push(dice.draw() as u8),
        }
    }
    let first = match frame::read(&mut &log.segment[MAGIC.len()..]).unwrap() {
        Next::Frame(frame) => frame,
        other => panic!("{other:?}"),
    };
    let mut bytes = MAGIC.to_vec();
    frame::encode(Kind::Start, 0, &first.payload, &mut bytes);
    for (kind, index, payload) in &frames {
        frame::encode(*kind, *index, payload, &mut bytes);
    }
    bytes
}

fn take(bytes: &[u8]) -> String {
    let log = log();
    let opened = note::open(bytes, &log.key).is_ok();
    if opened {
        assert!(log.note.as_bytes().starts_with(&bytes[..bytes.len().min(20)]));
    }
    let _ = (TreeHead::open(bytes, &log.key), Removal::open(bytes, &log.key));
    let anchor = Anchor {
        name: "the checkpoint".to_owned(),
        head: TreeHead::open(log.note.as_bytes(), &log.key).unwrap(),
    };
    let mut verifier = Verifier::new(log.key.clone(), None, vec![anchor]);
    verifier.begin_segment(0, true);
    let mut reader = bytes;
    let mut seen = Vec::new();
    if frame::read_magic(&mut reader).unwrap() {
        let mut offset = MAGIC.len() as u64;
        loop {
            match frame::read(&mut reader).unwrap() {
                Next::Frame(frame) => {
                    if frame.intact {
                        let mut again = Vec::new();
                        assert_eq!(
                            frame::encode(frame.kind, frame.index, &frame.payload, &mut again),
                            frame.hash
                        );
                        assert_eq!(again, bytes[offset as usize..offset as usize + again.len()]);
                    }
                    if frame.kind == Kind::Start {
                        let _ = frame::decode_start(frame.index, &frame.payload);
                    }
                    if verifier.frame(offset, &frame) {
                        seen.push(frame.payload.clone());
                    }
                    offset += (frame::HEADER_BYTES + frame.payload.len()) as u64;
                }
                Next::End => {
                    verifier.end_segment(offset);
                    break;
                }
                Next::Unreadable => {
                    verifier.unreadable_from(offset);
                    break;
                }
            }
        }
    } else {
        verifier.unreadable_from(0);
    }
    let report = verifier.finish();
    if report.is_sound() {
        // The checkpoint covers nine records: those, and no others, may be shown as sound.
        assert_eq!((report.records >= 9, report.signed), (true, 9), "{report:?}");
        for (index, record) in seen.iter().take(9).enumerate() {
            assert_eq!(*record, format!("record {index}").into_bytes());
        }
    }
    let findings: Vec<String> = report.findings.iter().take(2).map(ToString::to_string).collect();
    format!("{opened} {:?} {}", report.torn.is_some(), findings.join("; "))
}
