//! A log that nobody tampers with.

use std::fs;

use fieldfare_audit::limits::MAX_RECORD_BYTES;
use fieldfare_audit::log::{Log, LogError, OpenError};
use fieldfare_audit::read::Trust;
use fieldfare_release::tuf::PublicKey;
use ring::rand::SystemRandom;

use super::{NOW, Place, lay, record, seen};

#[test]
fn what_is_written_is_read_and_signed() {
    let place = Place::large();
    place.write(10, 3);
    let seen = place.examine();
    seen.assert_whole(0..10);
    let report = &seen.examined.report;
    // Before the first record, after 3, 6 and 9 records and at the end, and the checkpoint once more.
    assert_eq!((report.signed, report.heads), (10, 6));
    assert_eq!(
        report.newest.as_ref().map(|head| (head.size, head.at_unix_ms)),
        Some((10, NOW))
    );
    let origin = report.origin.clone().unwrap();
    let id = seen.examined.key.unwrap().to_string();
    assert_eq!(origin, format!("fleet.example/tenant/farm/device/1/{}", &id[..16]));
    assert!(!seen.examined.pinned);
}

#[test]
fn a_log_goes_on_where_it_ended_over_many_segments() {
    let place = Place::new(600, 1 << 30);
    for _ in 0..10 {
        place.write(3, 2);
    }
    place.examine().assert_whole(0..30);
    let segments = place.files().keys().filter(|name| name.ends_with(".log")).count();
    assert!(segments > 10, "{segments}");
}

#[test]
fn what_was_not_committed_is_signed_when_the_log_is_opened_again() {
    let place = Place::large();
    let (mut log, opened) = place.open();
    assert!(opened.began);
    (0..3).for_each(|index| assert_eq!(log.append(&record(index)).unwrap(), index));
    log.commit(NOW).unwrap();
    (3..5).for_each(|index| assert_eq!(log.append(&record(index)).unwrap(), index));
    // As the process dies.
    drop(log);
    let before = place.examine();
    before.assert_whole(0..5);
    assert_eq!(before.examined.report.signed, 3);
    let (log, opened) = place.open();
    assert_eq!((log.signed(), opened.cut_bytes, opened.records), (5, 0, 5));
    drop(log);
    assert_eq!(place.examine().examined.report.signed, 5);
}

#[test]
fn the_oldest_segments_leave_with_a_signed_statement() {
    let place = Place::new(600, 3000);
    place.write(200, 2);
    let seen = place.examine();
    let report = &seen.examined.report;
    let removal = report.removal.clone().unwrap();
    assert!(removal.first > 100 && removal.first == report.first, "{removal:?}");
    seen.assert_whole(removal.first..200);
    let bytes: usize = place.files().values().map(Vec::len).sum();
    assert!(bytes < 3000 + 600 + 2000, "{bytes} bytes");
    // The key vouches for what is kept, and for nothing that is not.
    let mut files = place.files();
    files.remove("removed");
    let without = super::seen(lay(&files).path(), &Trust::default());
    assert_eq!(
        without.told(),
        [format!("records 0 to {} are missing", removal.first - 1)]
    );
}

#[test]
fn a_removal_that_a_crash_cut_off_is_sound_and_is_finished() {
    let place = Place::new(600, 1 << 30);
    place.write(60, 2);
    let all = place.files();
    let little = Place {
        folder: place.folder,
        segment_bytes: 600,
        keep_bytes: 3000,
    };
    little.write(2, 2);
    let removed = little.files()["removed"].clone();
    // The statement is written, and the files are still there.
    for (name, bytes) in all.iter().filter(|(name, _)| name.ends_with(".log")) {
        if !little.path().join(name).exists() {
            fs::write(little.path().join(name), bytes).unwrap();
        }
    }
    let seen = little.examine();
    seen.assert_whole(0..62);
    assert!(seen.examined.report.removal.is_some());
    drop(little.open());
    assert_eq!(little.files()["removed"], removed);
    let first = little.examine().examined.report.removal.unwrap().first;
    little.examine().assert_whole(first..62);
}

#[test]
fn one_process_writes_a_log() {
    let place = Place::large();
    let (log, _) = place.open();
    assert!(matches!(place.try_open(), Err(OpenError::Locked(_))));
    drop(log);
    drop(place.open());
}

#[test]
fn a_beginning_that_was_cut_off_begins_again_with_another_key() {
    let place = Place::large();
    drop(place.open());
    let files = place.files();
    let segment = &files["00000000000000000000.log"];
    let steps = [(0, false), (segment.len(), false), (segment.len(), true)];
    let cuts = (0..segment.len()).step_by(11).map(|length| (length, false));
    for (length, checkpoint) in cuts.chain(steps) {
        let again = Place::large();
        fs::copy(place.key(), again.key()).unwrap();
        fs::create_dir(again.path()).unwrap();
        fs::write(again.path().join("00000000000000000000.log"), &segment[..length]).unwrap();
        if checkpoint {
            fs::write(again.path().join("checkpoint"), &files["checkpoint"]).unwrap();
        }
        let (log, opened) = again.open();
        assert!(opened.began, "{length} bytes");
        drop(log);
        again.write(2, 1);
        again.examine().assert_whole(0..2);
        assert_ne!(fs::read(place.key()).unwrap(), fs::read(again.key()).unwrap());
    }
}

#[test]
fn a_log_is_not_written_without_its_key_or_over_what_is_lost() {
    let place = Place::large();
    place.write(3, 1);
    let key = fs::read(place.key()).unwrap();
    fs::remove_file(place.key()).unwrap();
    assert!(matches!(place.try_open(), Err(OpenError::KeyLost(_))));
    fs::write(place.key(), &key).unwrap();
    for lost in ["checkpoint", "log.pub", "00000000000000000000.log"] {
        let bytes = fs::read(place.path().join(lost)).unwrap();
        fs::remove_file(place.path().join(lost)).unwrap();
        let refused = place.try_open();
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{lost}: {refused:?}");
        fs::write(place.path().join(lost), bytes).unwrap();
    }
    assert!(!place.open().1.began);
    let owner = "two words".to_owned();
    let refused = Log::open(
        super::Settings {
            owner,
            ..place.settings()
        },
        NOW,
        SystemRandom::new(),
    );
    assert!(matches!(refused, Err(OpenError::Owner(_))));
}

#[test]
fn a_record_over_the_limit_is_refused_and_harms_nothing() {
    let place = Place::large();
    let (mut log, _) = place.open();
    log.append(&record(0)).unwrap();
    let refused = log.append(&vec![7; MAX_RECORD_BYTES + 1]);
    assert!(matches!(refused, Err(LogError::TooLong { .. })));
    log.append(&vec![7; MAX_RECORD_BYTES]).unwrap();
    log.commit(NOW).unwrap();
    drop(log);
    let seen = place.examine();
    assert!(seen.examined.report.is_sound());
    assert_eq!(seen.records[&1].len(), MAX_RECORD_BYTES);
}

#[test]
fn a_key_that_is_given_must_be_the_logs() {
    let (place, other) = (Place::large(), Place::large());
    place.write(3, 1);
    other.write(3, 1);
    let key = |place: &Place| {
        let pem = fs::read_to_string(place.path().join("log.pub")).unwrap();
        Trust {
            key: Some(PublicKey::from_pem(&pem).unwrap()),
            heads: Vec::new(),
        }
    };
    let right = seen(&place.path(), &key(&place));
    assert!(right.examined.report.is_sound() && right.examined.pinned);
    let wrong = seen(&place.path(), &key(&other));
    let codes: Vec<_> = wrong
        .examined
        .report
        .findings
        .iter()
        .map(|finding| finding.code())
        .collect();
    assert_eq!(codes[..2], ["other_key", "bad_note"], "{:?}", wrong.told());
    assert_eq!(wrong.examined.report.signed, 0);
}
