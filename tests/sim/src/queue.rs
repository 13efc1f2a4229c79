//! What will happen, in the order of the virtual clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fieldfare_fleet::Timestamp;

/// Something that will happen. Of two things at one time that one happens first which was put in first.
#[derive(Debug)]
struct Entry<T> {
    at: Timestamp,
    number: u64,
    what: T,
}

impl<T> Entry<T> {
    const fn place(&self) -> (Timestamp, u64) {
        (self.at, self.number)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

/// The queue of a life.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    entries: BinaryHeap<Reverse<Entry<T>>>,
    next: u64,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: BinaryHeap::new(),
            next: 0,
        }
    }

    pub(crate) fn put(&mut self, at: Timestamp, what: T) {
        let number = self.next;
        self.next += 1;
        self.entries.push(Reverse(Entry { at, number, what }));
    }

    /// The next thing to happen, and when.
    pub(crate) fn take(&mut self) -> Option<(Timestamp, T)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at, entry.what))
    }
}
