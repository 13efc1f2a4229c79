//! The thread that owns a log: who waits, who does not, and what is said of that for which there was no room.

use std::fs;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use fieldfare_audit::limits::{COMMIT_RECORDS, WRITER_QUEUE};
use fieldfare_audit::log::Log;
use fieldfare_audit::writer::{Handle, Host, Unwritten, Writer};

use ring::rand::SystemRandom;

use super::{NOW, Place, record};

struct Tests(SyncSender<String>);

impl Host for Tests {
    fn now_unix_ms(&self) -> u64 {
        NOW
    }

    fn gap(&self, records: u64, since_unix_ms: u64) -> Vec<u8> {
        format!("{records} missed since {since_unix_ms}").into_bytes()
    }

    fn trouble(&self, error: &(dyn std::error::Error + 'static)) {
        self.0.send(error.to_string()).unwrap();
    }
}

fn start(place: &Place) -> (Writer, Receiver<String>) {
    let (troubles, told) = sync_channel(64);
    (Writer::start(place.open().0, Tests(troubles)).unwrap(), told)
}

/// Commits a record and waits for the outcome.
fn commit(handle: &Handle, record: Vec<u8>) -> Result<u64, Unwritten> {
    let (said, outcome) = sync_channel(64);
    handle.commit(record, Box::new(move |outcome| said.send(outcome).unwrap()));
    outcome.recv().unwrap()
}

#[test]
fn what_somebody_waits_for_is_signed_when_they_hear() {
    let place = Place::large();
    let (writer, _) = start(&place);
    let handle = writer.handle();
    for index in 0..5 {
        assert_eq!(commit(&handle, record(index)), Ok(index));
        let seen = place.examine();
        seen.assert_whole(0..index + 1);
        assert_eq!(seen.examined.report.signed, index + 1);
    }
    assert_eq!((handle.written(), handle.unwritten()), (5, 0));
    writer.close();
    assert_eq!(commit(&handle, record(5)), Err(Unwritten::Closed));
}

#[test]
fn what_nobody_waits_for_is_committed_by_the_next_who_waits_or_at_the_end() {
    let place = Place::large();
    let (writer, _) = start(&place);
    (0..3).for_each(|index| writer.handle().note(record(index)));
    assert_eq!(commit(&writer.handle(), record(3)), Ok(3));
    assert_eq!(place.examine().examined.report.signed, 4);
    (4..9).for_each(|index| writer.handle().note(record(index)));
    writer.close();
    let seen = place.examine();
    seen.assert_whole(0..9);
    assert_eq!(seen.examined.report.signed, 9);
}

#[test]
fn many_share_a_commit() {
    let place = Place::large();
    let (writer, _) = start(&place);
    let (said, outcomes) = sync_channel(64);
    for index in 0..500 {
        let said = said.clone();
        let answer = move |outcome: Result<u64, _>| said.send((index, outcome.unwrap())).unwrap();
        writer.handle().commit(record(index), Box::new(answer));
    }
    drop(said);
    assert!(outcomes.iter().all(|(asked, given)| asked == given));
    writer.close();
    let seen = place.examine();
    seen.assert_whole(0..500);
    let heads = seen.examined.report.heads;
    assert!(heads < 100, "{heads} heads for 500 records");
}

#[test]
fn what_finds_no_room_is_counted_in_the_log() {
    let place = Place::large();
    let (writer, _) = start(&place);
    let handle = writer.handle();
    // The thread is held up while it tells the outcome of the first record.
    let (held, is_held) = sync_channel(64);
    let (release, released) = sync_channel::<()>(64);
    let hold = move |_| {
        held.send(()).unwrap();
        released.recv().unwrap();
    };
    handle.commit(record(0), Box::new(hold));
    is_held.recv().unwrap();
    let queued = WRITER_QUEUE as u64;
    (1..=queued + 7).for_each(|index| handle.note(record(index)));
    assert_eq!(commit(&handle, b"an action".to_vec()), Err(Unwritten::Busy));
    assert_eq!(handle.unwritten(), 7);
    release.send(()).unwrap();
    writer.close();
    let seen = place.examine();
    assert!(seen.examined.report.is_sound());
    let gap = format!("7 missed since {NOW}").into_bytes();
    let gaps: Vec<&u64> = seen
        .records
        .iter()
        .filter(|(_, bytes)| **bytes == gap)
        .map(|(index, _)| index)
        .collect();
    assert_eq!(gaps.len(), 1);
    assert!(
        seen.records.len() as u64 == queued + 2 && *gaps[0] <= COMMIT_RECORDS as u64 + 1,
        "{gaps:?}"
    );
}

#[test]
fn a_disk_that_refuses_is_told_and_made_up_for() {
    let place = Place::large();
    let (writer, troubles) = start(&place);
    let handle = writer.handle();
    assert_eq!(commit(&handle, record(0)), Ok(0));
    // Nothing can be staged in the place of a folder.
    let in_the_way = place.path().join("checkpoint.new");
    fs::create_dir(&in_the_way).unwrap();
    handle.note(record(1));
    handle.note(record(2));
    let refused = commit(&handle, b"an action".to_vec());
    assert!(matches!(refused, Err(Unwritten::Failed(_))), "{refused:?}");
    assert!(troubles.recv().unwrap().contains("checkpoint.new"));
    // Until the disk is tried again, nothing is written for nobody.
    handle.note(record(3));
    fs::remove_dir(&in_the_way).unwrap();
    // Whoever waits is the next try.
    let index = commit(&handle, b"another action".to_vec()).unwrap();
    writer.close();
    let seen = place.examine();
    assert_eq!(
        (seen.told(), seen.examined.report.signed),
        (vec![], seen.examined.report.records)
    );
    assert_eq!(seen.records[&index], b"another action");
    assert!(
        !seen.records.values().any(|bytes| bytes == b"an action"),
        "what was refused is not there"
    );
    assert_eq!(handle.unwritten(), 3);
    assert_eq!(seen.records[&(index + 1)], format!("3 missed since {NOW}").into_bytes());
    assert_eq!(seen.records.len(), 3);
}

#[test]
fn a_log_that_cannot_be_opened_is_opened_when_it_can_and_tells_what_it_missed() {
    let place = Place::large();
    // A file stands in the place of the folder.
    fs::write(place.path(), "in the way").unwrap();
    let (troubles, told) = sync_channel(64);
    let settings = place.settings();
    let open = move |now| {
        let (log, opened) = Log::open(settings.clone(), now, SystemRandom::new())?;
        assert!(opened.began);
        Ok((log, b"opened".to_vec()))
    };
    let writer = Writer::start_opening(Box::new(open), Tests(troubles)).unwrap();
    let handle = writer.handle();
    let first = told.recv().unwrap();
    assert!(first.contains("cannot make"), "{first}");
    handle.note(record(1));
    handle.note(record(2));
    let refused = commit(&handle, b"an action".to_vec());
    assert!(
        matches!(&refused, Err(Unwritten::Failed(why)) if why.contains("cannot make")),
        "{refused:?}"
    );
    fs::remove_file(place.path()).unwrap();
    assert_eq!(commit(&handle, b"another action".to_vec()), Ok(2));
    writer.close();
    let seen = place.examine();
    assert!(seen.examined.report.is_sound());
    let records: Vec<&[u8]> = seen.records.values().map(Vec::as_slice).collect();
    let gap = format!("2 missed since {NOW}");
    assert_eq!(records, [&b"opened"[..], gap.as_bytes(), b"another action"]);
    assert_eq!(handle.unwritten(), 2);
}
