//! A database file that is only looked at: what the database writes when it opens stays in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// Bytes that are copied into memory when one of them is written.
const PAGE: u64 = 4096;

/// A file below, and pages that were written above it. Takes no lock: whoever has the file open is not disturbed.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    above: Mutex<Above>,
}

#[derive(Debug)]
struct Above {
    length: u64,
    /// Bytes of the file that count; what lies beyond was cut off, and is zero where the length grew again.
    below: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let above = Above {
            length,
            below: length,
            pages: BTreeMap::new(),
        };
        Ok(Self {
            file,
            above: Mutex::new(above),
        })
    }

    fn above(&self) -> MutexGuard<'_, Above> {
        self.above.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One page as it is now.
    fn page(&self, above: &Above, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = above.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize];
        let begin = number.saturating_mul(PAGE);
        let there = above.below.saturating_sub(begin).min(PAGE) as usize;
        if let Some(part) = page.get_mut(..there) {
            self.file.read_exact_at(part, begin)?;
        }
        Ok(page)
    }

    /// The pages that a range of bytes lies in: the page, where the range begins in it, and how many bytes of it are in the range.
    fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
        let end = offset.saturating_add(length as u64);
        (offset / PAGE..end.div_ceil(PAGE)).map(move |number| {
            let begin = number * PAGE;
            let (from, to) = (offset.max(begin), end.min(begin + PAGE));
            (number, (from - begin) as usize, (to - from) as usize)
        })
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.above().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let above = self.above();
        if offset.saturating_add(out.len() as u64) > above.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (number, from, count) in Self::parts(offset, rest.len()) {
            let page = self.page(&above, number)?;
            let (part, after) = rest.split_at_mut(count);
            part.copy_from_slice(&page[from..from + count]);
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut above = self.above();
        if length < above.length {
            above.below = above.below.min(length);
            above.pages.retain(|number, _| number * PAGE < length);
            if let Some(last) = above.pages.get_mut(&(length / PAGE)) {
                last[(length % PAGE) as usize..].fill(0);
            }
        }
        above.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut above = self.above();
        let mut rest = data;
        for (number, from, count) in Self::parts(offset, data.len()) {
            let mut page = self.page(&above, number)?;
            let (part, after) = rest.split_at(count);
            page[from..from + count].copy_from_slice(part);
            above.pages.insert(number, page);
            rest = after;
        }
        above.length = above.length.max(offset.saturating_add(data.len() as u64));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u16, Vec<u8>),
        Length(u16),
        Read(u16, u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u16..20_000, proptest::collection::vec(any::<u8>(), 0..9000))
                .prop_map(|(at, bytes)| Step::Write(at, bytes)),
            (0u16..20_000).prop_map(Step::Length),
            (0u16..20_000, 0u16..9000).prop_map(|(at, count)| Step::Read(at, count)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_as_if_the_file_were_written_and_the_file_is_not(
            bytes in proptest::collection::vec(any::<u8>(), 0..12_000),
            steps in proptest::collection::vec(step(), 0..20),
        ) {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("file");
            std::fs::write(&path, &bytes).unwrap();
            let overlay = Overlay::open(&path).unwrap();
            let mut expected = bytes.clone();
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let end = usize::from(at) + data.len();
                        if expected.len() < end {
                            expected.resize(end, 0);
                        }
                        expected[usize::from(at)..end].copy_from_slice(&data);
                        overlay.write(u64::from(at), &data).unwrap();
                    }
                    Step::Length(length) => {
                        expected.resize(usize::from(length), 0);
                        overlay.set_len(u64::from(length)).unwrap();
                    }
                    Step::Read(at, count) => {
                        let mut found = vec![7; usize::from(count)];
                        let wanted = expected.get(usize::from(at)..usize::from(at) + usize::from(count));
                        let read = overlay.read(u64::from(at), &mut found);
                        prop_assert_eq!(read.is_ok().then_some(&*found), wanted);
                    }
                }
                prop_assert_eq!(overlay.len().unwrap(), expected.len() as u64);
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }
}
