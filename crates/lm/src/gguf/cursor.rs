//! Bounded reading of numbers, strings and counts. `field` names the place, for an error.

use super::GgufError;

/// The bytes of a file that are there, and how many of them were read.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn take(&mut self, length: u64, field: &dyn Fn() -> String) -> Result<&'a [u8], GgufError> {
        let start = self.at as usize;
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| start.checked_add(length))
            .and_then(|end| self.bytes.get(start..end));
        match taken {
            Some(taken) => {
                self.at += length;
                Ok(taken)
            }
            None => Err(GgufError::Truncated {
                field: field(),
                at: self.bytes.len() as u64,
            }),
        }
    }

    pub(super) fn array<const N: usize>(&mut self, field: &dyn Fn() -> String) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, field)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, field: &dyn Fn() -> String) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &dyn Fn() -> String) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    pub(super) fn count(&mut self, field: &dyn Fn() -> String, limit: u64) -> Result<u64, GgufError> {
        let found = self.u64(field)?;
        if found > limit {
            return Err(GgufError::TooLarge {
                field: field(),
                found,
                limit,
            });
        }
        Ok(found)
    }

    pub(super) fn string(&mut self, field: &dyn Fn() -> String, limit: u64) -> Result<String, GgufError> {
        let length = self.count(&|| format!("the length of {}", field()), limit)?;
        let bytes = self.take(length, field)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(GgufError::Invalid {
                field: field(),
                problem: "it is not UTF-8".to_owned(),
            }),
        }
    }

    /// `count`, lowered to what the bytes that are left can hold: the most that may be allocated ahead.
    pub(super) fn plausible(&self, count: u64, least_bytes: u64) -> usize {
        let left = self.bytes.len() as u64 - self.at;
        count.min(left / least_bytes) as usize
    }
}
