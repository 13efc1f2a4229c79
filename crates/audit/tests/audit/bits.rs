//! Whatever single thing happens to the files of a closed log, it is found: each bit flipped, each file cut at each byte, each
//! file gone or renamed, each frame dropped, repeated or exchanged.

use std::fs;
use std::path::Path;

use fieldfare_audit::frame::{HEADER_BYTES, MAGIC};
use fieldfare_audit::read::Trust;

use super::{Files, Place, Seen, lay, record, seen};

/// A closed log that has removed its oldest segment and has two, of which the last has records or only its beginning.
fn small(count: u64) -> Files {
    let place = Place::new(1000, 2500);
    place.write(count, 2);
    let files = place.files();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!((names.len(), names.contains(&"removed")), (5, true), "{names:?}");
    place.examine().assert_whole(first(count)..count);
    files
}

const COUNTS: [u64; 2] = [10, 12];

/// The first record that is kept of so many.
fn first(count: u64) -> u64 {
    if count == 10 { 4 } else { 8 }
}

/// Where the last segment has nothing any more but what the checkpoint says as well: behind its last record.
fn tail(files: &Files) -> (String, usize) {
    let name = segments(files).pop().unwrap();
    let at = frames(&files[&name]);
    let last = at.windows(2).rev().find(|frame| files[&name][frame[0]] == RECORD);
    let end = last.map_or(0, |frame| frame[1]);
    (name, end)
}

/// The first byte of a frame with a record.
const RECORD: u8 = 0;

/// Asserts that what was done to the files of a log of `count` records is found; or, where that may be, that nothing at all is
/// lost by it.
fn assert_found(count: u64, seen: &Seen, what: &str, may_be_harmless: bool) {
    let report = &seen.examined.report;
    if report.is_sound() {
        assert!(may_be_harmless, "{what} is not found: {report:?}");
        assert_eq!(report.signed, count, "{what}");
        seen.assert_whole(first(count)..count);
        assert!(report.removal.is_some(), "{what}");
    }
}

fn look(folder: &Path) -> Seen {
    seen(folder, &Trust::default())
}

/// The beginnings of all frames of a segment, and its end.
fn frames(segment: &[u8]) -> Vec<usize> {
    let mut at = vec![MAGIC.len()];
    while let Some(start) = at.last().copied().filter(|start| *start < segment.len()) {
        let length = u32::from_le_bytes(segment[start + 1..start + 5].try_into().unwrap());
        at.push(start + HEADER_BYTES + length as usize);
    }
    assert_eq!(at.last(), Some(&segment.len()));
    at
}

fn segments(files: &Files) -> Vec<String> {
    files.keys().filter(|name| name.ends_with(".log")).cloned().collect()
}

/// The bits of a byte that are flipped. Of a signed note it is one: every bit of a note is flipped in the tests of notes.
fn bits(name: &str, bytes: &[u8], at: usize) -> std::ops::Range<usize> {
    let in_note = |frame: &[usize]| frame[0] + HEADER_BYTES <= at && at < frame[1] && bytes[frame[0]] != RECORD;
    let is_note = match name.ends_with(".log") {
        true => frames(bytes).windows(2).any(in_note),
        false => name != "log.pub",
    };
    if is_note { at % 8..at % 8 + 1 } else { 0..8 }
}

#[test]
fn every_flipped_bit_is_found() {
    for count in COUNTS {
        let files = small(count);
        let folder = lay(&files);
        let (last, end) = tail(&files);
        // The logs differ in how they end.
        for (name, bytes) in files.iter().filter(|(name, _)| count == COUNTS[0] || **name == last) {
            for at in 0..bytes.len() {
                for bit in bits(name, bytes, at) {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << bit;
                    fs::write(folder.path().join(name), changed).unwrap();
                    let seen = look(folder.path());
                    let what = format!("bit {bit} of byte {at} of {name}");
                    // Another white space between the lines of a PEM makes no other key.
                    let space = name == "log.pub" && bytes[at] == b'\n';
                    assert_found(count, &seen, &what, space || *name == last && at >= end);
                }
            }
            fs::write(folder.path().join(name), bytes).unwrap();
        }
    }
}

#[test]
fn every_cut_is_found() {
    for count in COUNTS {
        let files = small(count);
        let folder = lay(&files);
        let (last, end) = tail(&files);
        for (name, bytes) in &files {
            // A segment without its last head has nothing less: the next one begins with it.
            let head = name
                .ends_with(".log")
                .then(|| frames(bytes))
                .and_then(|at| at.iter().rev().nth(1).copied());
            for length in 0..bytes.len() {
                fs::write(folder.path().join(name), &bytes[..length]).unwrap();
                let what = format!("{name} cut at {length}");
                let harmless = *name == last && length >= end || head == Some(length);
                let harmless = harmless || name == "log.pub" && length + 1 == bytes.len();
                assert_found(count, &look(folder.path()), &what, harmless);
            }
            fs::remove_file(folder.path().join(name)).unwrap();
            let what = format!("{name} gone");
            assert_found(count, &look(folder.path()), &what, *name == last && end == 0);
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        look(folder.path()).assert_whole(first(count)..count);
    }
}

#[test]
fn a_segment_under_another_name_is_found() {
    let files = small(10);
    for name in segments(&files) {
        for other in [
            "00000000000000000000.log",
            "00000000000000000007.log",
            "00000000000000000099.log",
        ] {
            if files.contains_key(other) {
                continue;
            }
            let mut files = files.clone();
            let bytes = files.remove(&name).unwrap();
            files.insert(other.to_owned(), bytes);
            assert!(
                !look(lay(&files).path()).examined.report.is_sound(),
                "{name} as {other}"
            );
        }
    }
}

/// Puts a segment together from others' frames and looks at the log.
fn rebuilt(files: &Files, name: &str, order: &[usize]) -> Seen {
    let (segment, mut files) = (&files[name], files.clone());
    let at = frames(segment);
    let mut bytes = segment[..MAGIC.len()].to_vec();
    order
        .iter()
        .for_each(|frame| bytes.extend(&segment[at[*frame]..at[frame + 1]]));
    files.insert(name.to_owned(), bytes);
    look(lay(&files).path())
}

#[test]
fn every_frame_that_is_dropped_repeated_or_exchanged_is_found() {
    for count in COUNTS {
        let files = small(count);
        for name in segments(&files) {
            let segment = &files[&name];
            let at = frames(segment);
            let all: Vec<usize> = (0..at.len() - 1).collect();
            let is_head = |frame: usize| frame > 0 && segment[at[frame]] != RECORD;
            assert!(rebuilt(&files, &name, &all).examined.report.is_sound());
            let changed = |change: &dyn Fn(&mut Vec<usize>), what: &str, harmless: bool| {
                let mut order = all.clone();
                change(&mut order);
                assert_found(
                    count,
                    &rebuilt(&files, &name, &order),
                    &format!("{what} of {name}"),
                    harmless,
                );
            };
            for frame in all.clone() {
                // The next head covers what a dropped one did, and the same head twice says nothing twice. A segment that was only
                // begun holds nothing.
                let alone = is_head(frame) || all.len() == 1;
                changed(
                    &|order| order.retain(|at| *at != frame),
                    &format!("frame {frame} dropped"),
                    alone,
                );
                changed(
                    &|order| order.insert(frame, frame),
                    &format!("frame {frame} repeated"),
                    is_head(frame),
                );
                for other in 0..frame {
                    changed(
                        &|order| order.swap(frame, other),
                        &format!("frames {frame}, {other} exchanged"),
                        false,
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_found_names_the_record() {
    let place = Place::large();
    place.write(8, 2);
    let files = place.files();
    let name = segments(&files).remove(0);
    let segment = &files[&name];
    let at = frames(segment);
    let records: Vec<usize> = (0..at.len() - 1).filter(|frame| segment[at[*frame]] == 0).collect();
    let all: Vec<usize> = (0..at.len() - 1).collect();
    let (third, fourth) = (records[3], records[4]);

    let mut changed = files.clone();
    changed.get_mut(&name).unwrap()[at[third] + HEADER_BYTES] ^= 1;
    assert_eq!(look(lay(&changed).path()).told(), ["record 3 was changed"]);

    let mut dropped = all.clone();
    dropped.remove(third);
    let told = rebuilt(&files, &name, &dropped).told();
    assert_eq!(told, ["record 3 is missing"]);

    let mut exchanged = all.clone();
    exchanged.swap(records[2], third);
    let told = rebuilt(&files, &name, &exchanged).told();
    let misplaced = "record 2 stands in the place of record 4: repeated, or out of order";
    assert_eq!(told, ["record 2 is missing", misplaced]);

    let mut repeated = all.clone();
    repeated.insert(fourth, fourth);
    let told = rebuilt(&files, &name, &repeated).told();
    assert_eq!(
        told,
        ["record 4 stands in the place of record 5: repeated, or out of order"]
    );

    let mut cut = files.clone();
    cut.get_mut(&name).unwrap().truncate(at[third]);
    let told = look(lay(&cut).path()).told();
    assert_eq!(
        told,
        [
            "the checkpoint covers 8 records and only 3 are here: the end was cut off, or the files were copied while they were written"
        ]
    );
    assert_eq!(record(3), b"record number 3");
}
