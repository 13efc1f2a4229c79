//! Listings: pages of one prefix, all at one revision.

use std::fmt;
use std::str::FromStr;

use crate::limits::PAGE_ENTRIES_MAX;
use crate::{Entry, Key, ListError, Prefix, Revision};

/// A request for one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub(crate) prefix: Prefix,
    pub(crate) limit: usize,
    pub(crate) after: Option<Continuation>,
}

impl List {
    /// The first page of everything below `prefix`, at the current revision.
    pub fn under(prefix: &Prefix) -> List {
        List {
            prefix: prefix.clone(),
            limit: PAGE_ENTRIES_MAX,
            after: None,
        }
    }

    /// At most this many entries; brought into 1 to [`PAGE_ENTRIES_MAX`].
    pub fn limit(mut self, entries: usize) -> List {
        self.limit = entries.clamp(1, PAGE_ENTRIES_MAX);
        self
    }

    /// The page after the one that told `continuation`, at that page's revision.
    pub fn after(mut self, continuation: Continuation) -> List {
        self.after = Some(continuation);
        self
    }
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the order of keys; may be fewer than the limit even when more follow.
    pub entries: Vec<Entry>,
    /// The state that all pages of this listing show: watch after it to miss nothing.
    pub revision: Revision,
    /// Where to go on; absent on the last page.
    pub next: Option<Continuation>,
}

/// A whole listing, gathered by [`crate::Store::list_all`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of keys.
    pub entries: Vec<Entry>,
    /// The state that the entries show: watch after it to miss nothing.
    pub revision: Revision,
}

/// Where a listing goes on. Opaque: only the text and back, to hand it to a client as a page token.
///
/// It grants nothing: it is refused with any prefix that does not cover it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    pub(crate) revision: Revision,
    pub(crate) last: Key,
}

/// Marks the encoding of a continuation, so that a later one is refused and not misread.
const ENCODING: &str = "1.";

impl fmt::Display for Continuation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ENCODING}{:x}{}", self.revision.number(), self.last)
    }
}

impl FromStr for Continuation {
    type Err = ListError;

    fn from_str(text: &str) -> Result<Continuation, ListError> {
        let parse = || {
            let body = text.strip_prefix(ENCODING)?;
            let (revision, last) = body.split_at(body.find('/')?);
            let digits_only = !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_hexdigit());
            let revision = digits_only.then(|| u64::from_str_radix(revision, 16).ok()).flatten()?;
            Some(Continuation {
                revision: Revision::new(revision),
                last: Key::new(last).ok()?,
            })
        };
        parse().ok_or(ListError::BadContinuation)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_continuation_survives_its_text(revision: u64, last in "/[a-z0-9é]{1,20}(/[a-z.:-]{1,20}){0,3}") {
            let continuation = Continuation { revision: Revision::new(revision), last: Key::new(last).unwrap() };
            prop_assert_eq!(continuation.to_string().parse::<Continuation>().unwrap(), continuation);
        }

        #[test]
        fn a_foreign_page_token_is_an_error_and_no_panic(text in "\\PC{0,40}") {
            if let Ok(continuation) = text.parse::<Continuation>() {
                prop_assert!(continuation.to_string().parse::<Continuation>().unwrap() == continuation);
            }
        }
    }

    #[test]
    fn forged_page_tokens_are_refused() {
        for bad in [
            "",
            "1.",
            "1./a",
            "1.+1/a",
            "2.1/a",
            "1.10000000000000000/a",
            "1.1/",
            "1.1/a//b",
            "1.g/a",
        ] {
            assert!(bad.parse::<Continuation>().is_err(), "{bad}");
        }
    }
}
