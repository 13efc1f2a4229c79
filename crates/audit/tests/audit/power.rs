//! A power cut: of the writes that were not synced, any are on the disk and any are not. What was committed is there.

use std::fs;

use super::{Files, NOW, Place, record};

/// A log with four committed records, then three more that are not, by the files' content.
fn unfinished() -> (Place, Files, usize) {
    let place = Place::new(1 << 20, 1 << 30);
    place.write(4, 2);
    let committed = place.files()[SEGMENT].len();
    let (mut log, _) = place.open();
    for index in 4..7 {
        log.append(&record(index)).unwrap();
    }
    drop(log);
    let files = place.files();
    (place, files, committed)
}

const SEGMENT: &str = "00000000000000000000.log";

/// Puts a content of the last segment in place, opens the log, and returns how many records there are.
fn recover(place: &Place, segment: &[u8]) -> u64 {
    fs::write(place.path().join(SEGMENT), segment).unwrap();
    let before = place.examine();
    assert_eq!(before.told(), Vec::<String>::new(), "an unfinished write is no damage");
    let (mut log, opened) = place.open();
    let records = opened.records;
    assert!(records >= 4, "what was committed is gone: {opened:?}");
    assert_eq!(records, before.examined.report.records);
    log.append(&record(records)).unwrap();
    log.commit(NOW).unwrap();
    drop(log);
    place.examine().assert_whole(0..records + 1);
    records
}

fn put_back(place: &Place, files: &Files) {
    for (name, bytes) in files {
        fs::write(place.path().join(name), bytes).unwrap();
    }
}

#[test]
fn a_tail_that_is_cut_at_any_byte_is_cut_to_whole_records() {
    let (place, files, committed) = unfinished();
    let whole = &files[SEGMENT];
    let each = (whole.len() - committed) / 3;
    for length in committed..=whole.len() {
        put_back(&place, &files);
        let records = recover(&place, &whole[..length]);
        assert_eq!(records, 4 + ((length - committed) / each) as u64, "cut at {length}");
    }
}

#[test]
fn any_of_the_unsynced_writes_may_be_missing() {
    let (place, files, committed) = unfinished();
    let whole = &files[SEGMENT];
    let each = (whole.len() - committed) / 3;
    for lost in 0_usize..8 {
        put_back(&place, &files);
        let mut segment = whole.clone();
        for write in (0..3).filter(|write| lost >> write & 1 == 1) {
            let from = committed + write * each;
            segment[from..from + each].fill(0);
        }
        let records = recover(&place, &segment);
        assert_eq!(
            records,
            4 + u64::from(lost.trailing_zeros().min(3)),
            "lost writes {lost:03b}"
        );
    }
}

#[test]
fn a_flipped_bit_of_an_unsigned_record_costs_no_signed_one() {
    let (place, files, committed) = unfinished();
    let whole = &files[SEGMENT];
    for at in committed..whole.len() {
        for bit in 0..8 {
            let mut segment = whole.clone();
            segment[at] ^= 1 << bit;
            fs::write(place.path().join(SEGMENT), segment).unwrap();
            let seen = place.examine();
            let report = &seen.examined.report;
            assert!(report.torn.is_some() || !report.is_sound(), "bit {bit} of byte {at}");
            assert_eq!(report.signed, 4);
            assert!((0..4).all(|index| seen.records[&index] == record(index)));
        }
    }
}

#[test]
fn a_segment_that_was_just_being_made_is_made_again() {
    let place = Place::new(400, 1 << 30);
    place.write(6, 2);
    let files = place.files();
    let (last, bytes) = files.iter().rfind(|(name, _)| name.ends_with(".log")).unwrap();
    // Only its beginning: the records before it are all in the one before.
    assert!(!bytes.ends_with(b"record number 5"));
    for length in (0..bytes.len()).step_by(7) {
        put_back(&place, &files);
        fs::write(place.path().join(last), &bytes[..length]).unwrap();
        place.examine().assert_whole(0..6);
        place.write(2, 1);
        place.examine().assert_whole(0..8);
        for name in place.files().into_keys().filter(|name| name.ends_with(".log")) {
            fs::remove_file(place.path().join(name)).unwrap();
        }
    }
}
