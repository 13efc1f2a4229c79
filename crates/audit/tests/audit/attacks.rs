//! Those who know the form of the files, and do not have the key.

use std::fs;

use fieldfare_audit::frame::{Kind, MAGIC, Next, encode, encode_start, read};
use fieldfare_audit::head::TreeHead;
use fieldfare_audit::read::Trust;
use fieldfare_audit::tree::Tree;
use fieldfare_release::tuf::SigningKey;
use ring::rand::SystemRandom;

use super::{Files, NOW, Place, lay, record, seen};

const SEGMENT: &str = "00000000000000000000.log";

/// The frames of the first segment: kind, index and payload.
fn frames(files: &Files) -> Vec<(Kind, u64, Vec<u8>)> {
    let mut rest = &files[SEGMENT][MAGIC.len()..];
    let mut frames = Vec::new();
    while let Next::Frame(frame) = read(&mut rest).unwrap() {
        frames.push((frame.kind, frame.index, frame.payload));
    }
    frames
}

/// The log with these frames, whose hashes are made to fit.
fn with(files: &Files, frames: &[(Kind, u64, Vec<u8>)]) -> Files {
    let mut bytes = MAGIC.to_vec();
    for (kind, index, payload) in frames {
        encode(*kind, *index, payload, &mut bytes);
    }
    let mut files = files.clone();
    files.insert(SEGMENT.to_owned(), bytes);
    files
}

fn told(files: &Files) -> Vec<String> {
    seen(lay(files).path(), &Trust::default()).told()
}

fn log() -> Files {
    let place = Place::large();
    place.write(8, 2);
    place.files()
}

#[test]
fn a_record_rewritten_with_its_checksum_is_found_between_two_heads() {
    let files = log();
    let mut frames = frames(&files);
    let fifth = frames
        .iter_mut()
        .find(|frame| frame.0 == Kind::Record && frame.1 == 5)
        .unwrap();
    fifth.2 = b"nothing happened".to_vec();
    let changed = "records 4 to 5: not as signed; at least one was changed, dropped or moved";
    assert_eq!(told(&with(&files, &frames)), [changed]);
}

#[test]
fn a_record_cut_out_with_the_others_renumbered_is_found() {
    let files = log();
    let mut frames = frames(&files);
    frames.retain(|frame| frame.0 != Kind::Record || frame.1 != 5);
    for frame in frames.iter_mut().filter(|frame| frame.0 == Kind::Record && frame.1 > 5) {
        frame.1 -= 1;
    }
    assert_eq!(told(&with(&files, &frames))[0], "record 5 is missing");
    // Without the heads between, the checkpoint tells.
    frames.retain(|frame| frame.0 != Kind::Head);
    let cut = "the checkpoint covers 8 records and only 7 are here: the end was cut off, or the files were copied while they \
               were written";
    assert_eq!(told(&with(&files, &frames)), [cut]);
    frames.push((Kind::Record, 7, record(7)));
    let other = "the checkpoint is of other records than the first 8 of this log";
    assert_eq!(told(&with(&files, &frames)), [other]);
}

#[test]
fn two_records_exchanged_with_their_numbers_are_found() {
    let files = log();
    let mut frames = frames(&files);
    let at = |index: u64| {
        frames
            .iter()
            .position(|frame| frame.0 == Kind::Record && frame.1 == index)
    };
    let (first, second) = (at(2).unwrap(), at(6).unwrap());
    let payload = std::mem::take(&mut frames[first].2);
    frames[first].2 = std::mem::replace(&mut frames[second].2, payload);
    let changed = "records 2 to 3: not as signed; at least one was changed, dropped or moved";
    assert_eq!(told(&with(&files, &frames)), [changed]);
}

#[test]
fn a_record_put_in_before_a_head_is_found() {
    let files = log();
    let mut frames = frames(&files);
    let last = frames.len() - 1;
    frames.insert(last, (Kind::Record, 8, b"put in".to_vec()));
    assert_eq!(
        told(&with(&files, &frames)),
        ["record 8: written before the signed head of 8 records, which does not cover them"]
    );
}

#[test]
fn a_record_put_behind_the_last_head_is_said_to_be_unsigned() {
    let files = log();
    let mut frames = frames(&files);
    frames.push((Kind::Record, 8, b"put in".to_vec()));
    let seen = seen(lay(&with(&files, &frames)).path(), &Trust::default());
    let report = &seen.examined.report;
    assert_eq!((report.records, report.signed, report.is_sound()), (9, 8, true));
}

/// A log of other records that somebody signs with a key of their own, under the same name.
fn forged(files: &Files) -> (Files, SigningKey) {
    let rng = SystemRandom::new();
    let key = SigningKey::generate(&rng).unwrap();
    let origin = seen(lay(files).path(), &Trust::default())
        .examined
        .report
        .origin
        .unwrap();
    let head = |tree: &Tree| {
        let (origin, size, root) = (origin.clone(), tree.size(), tree.root());
        TreeHead {
            origin,
            size,
            root,
            at_unix_ms: NOW,
        }
        .sign(&key, &rng)
        .unwrap()
    };
    let mut tree = Tree::new();
    let mut bytes = encode_start(&tree, &head(&tree));
    tree.append(encode(Kind::Record, 0, b"forged", &mut bytes));
    let files = Files::from([
        (SEGMENT.to_owned(), bytes),
        ("checkpoint".to_owned(), head(&tree).into_bytes()),
        ("log.pub".to_owned(), key.public().to_pem().as_bytes().to_vec()),
    ]);
    (files, key)
}

#[test]
fn a_log_signed_with_another_key_is_found_where_the_key_is_pinned() {
    let files = log();
    let (forged, _) = forged(&files);
    let pinned = |files: &Files| {
        let pem = String::from_utf8(log_key(files)).unwrap();
        let key = fieldfare_release::tuf::PublicKey::from_pem(&pem).unwrap();
        Trust {
            key: Some(key),
            heads: Vec::new(),
        }
    };
    let seen_alone = seen(lay(&forged).path(), &Trust::default());
    assert!(seen_alone.examined.report.is_sound(), "its own key vouches for it");
    assert!(!seen_alone.examined.pinned, "and that is said");
    let told = seen(lay(&forged).path(), &pinned(&files)).told();
    assert!(told[0].starts_with("the log's key has the fingerprint "), "{told:?}");
    // With the true key put beside it, every signature is another's.
    let mut swapped = forged.clone();
    swapped.insert("log.pub".to_owned(), log_key(&files));
    let told = seen(lay(&swapped).path(), &pinned(&files)).told();
    assert!(
        told[0].starts_with("the checkpoint: it is signed with another key"),
        "{told:?}"
    );
}

fn log_key(files: &Files) -> Vec<u8> {
    files["log.pub"].clone()
}

#[test]
fn the_head_of_another_log_with_the_same_key_is_no_head_of_this_one() {
    let place = Place::large();
    place.write(3, 1);
    let files = place.files();
    let rng = SystemRandom::new();
    let key = SigningKey::from_pem(&fs::read_to_string(place.key()).unwrap(), &rng).unwrap();
    let root = Tree::new().root();
    let head = TreeHead {
        origin: "fleet.example/other".to_owned(),
        size: 0,
        root,
        at_unix_ms: 0,
    };
    let mut swapped = files.clone();
    swapped.insert("checkpoint".to_owned(), head.sign(&key, &rng).unwrap().into_bytes());
    let told = told(&swapped);
    assert!(
        told[0].starts_with("the beginning of 00000000000000000000.log: it is of the log "),
        "{told:?}"
    );
}

#[test]
fn a_log_put_back_to_an_earlier_state_is_found_by_a_head_kept_elsewhere() {
    let place = Place::large();
    place.write(4, 2);
    let earlier = place.files();
    place.write(4, 2);
    let kept = place.files()["checkpoint"].clone();
    let trust = |head: &[u8]| Trust {
        key: None,
        heads: vec![("the head of May".to_owned(), head.to_vec())],
    };
    assert!(
        seen(lay(&earlier).path(), &Trust::default()).examined.report.is_sound(),
        "alone it is a log"
    );
    let told = seen(lay(&earlier).path(), &trust(&kept)).told();
    assert!(
        told[0].starts_with("the head of May covers 8 records and only 4 are here"),
        "{told:?}"
    );
    // The other way round it is the same log, further on.
    let older = &earlier["checkpoint"];
    assert!(seen(&place.path(), &trust(older)).examined.report.is_sound());
}

#[test]
fn a_log_written_anew_with_its_own_key_is_found_by_a_head_kept_elsewhere() {
    let place = Place::large();
    place.write(8, 2);
    let kept = place.files()["checkpoint"].clone();
    let rng = SystemRandom::new();
    let key = SigningKey::from_pem(&fs::read_to_string(place.key()).unwrap(), &rng).unwrap();
    let origin = place.examine().examined.report.origin.unwrap();
    let head = |tree: &Tree| {
        let (origin, size, root) = (origin.clone(), tree.size(), tree.root());
        TreeHead {
            origin,
            size,
            root,
            at_unix_ms: NOW,
        }
        .sign(&key, &rng)
        .unwrap()
    };
    let mut tree = Tree::new();
    let mut bytes = encode_start(&tree, &head(&tree));
    for index in 0..9 {
        let payload = if index == 5 {
            b"nothing happened".to_vec()
        } else {
            record(index)
        };
        tree.append(encode(Kind::Record, index, &payload, &mut bytes));
    }
    let mut anew = place.files();
    anew.insert(SEGMENT.to_owned(), bytes);
    anew.insert("checkpoint".to_owned(), head(&tree).into_bytes());
    let folder = lay(&anew);
    assert!(
        seen(folder.path(), &Trust::default()).examined.report.is_sound(),
        "who has the key can write"
    );
    let trust = Trust {
        key: None,
        heads: vec![("the head of May".to_owned(), kept)],
    };
    assert_eq!(
        seen(folder.path(), &trust).told(),
        ["the head of May is of other records than the first 8 of this log"]
    );
}

#[test]
fn a_head_of_what_was_removed_can_say_nothing() {
    let place = Place::new(600, 3000);
    place.write(4, 2);
    let kept = place.files()["checkpoint"].clone();
    place.write(200, 2);
    let trust = Trust {
        key: None,
        heads: vec![("the head of May".to_owned(), kept)],
    };
    let told = seen(&place.path(), &trust).told();
    assert!(
        told[0].starts_with("the head of May is of 4 records and record "),
        "{told:?}"
    );
    assert!(
        told[0].ends_with("is the first that is kept: nothing can be said"),
        "{told:?}"
    );
}

#[test]
fn endless_findings_are_counted_and_not_kept() {
    let place = Place::large();
    place.write(1000, 500);
    let files = place.files();
    let mut frames = frames(&files);
    let mut odd = 0;
    frames.retain(|frame| {
        odd += 1;
        frame.0 != Kind::Record || odd % 2 == 0
    });
    let report = seen(lay(&with(&files, &frames)).path(), &Trust::default())
        .examined
        .report;
    assert_eq!(report.findings.len(), fieldfare_audit::limits::MAX_FINDINGS);
    assert!(report.more_findings > 300, "{}", report.more_findings);
}
