//! The judge of a log: it is shown one frame after the other, and says what is wrong with which record.

mod finding;
mod frames;

use fieldfare_release::tuf::PublicKey;

pub use finding::{Finding, segment_name};

use crate::head::{Removal, TreeHead};
use crate::limits::MAX_FINDINGS;
use crate::note::NoteError;
use crate::tree::Tree;

/// A signed head that the log must agree with: its own checkpoint, or one that was kept elsewhere.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// What to call it: "the checkpoint", or the name of a file.
    pub name: String,
    /// The head.
    pub head: TreeHead,
}

/// The end of a log that is no whole record: written when the process or the machine died, and never acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// In which segment.
    pub segment: u64,
    /// From which byte of it on.
    pub offset: u64,
}

/// What is known of a log after all of it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The log's name, by its signed heads.
    pub origin: Option<String>,
    /// The first record that is kept.
    pub first: u64,
    /// How many records there are, those before `first` included.
    pub records: u64,
    /// How many of them a signed head covers. What lies after is not protected yet.
    pub signed: u64,
    /// Signed heads that agree with the records.
    pub heads: u64,
    /// The newest of them.
    pub newest: Option<TreeHead>,
    /// What the log says it removed by itself.
    pub removal: Option<Removal>,
    /// The end that is no whole record.
    pub torn: Option<Torn>,
    /// What is wrong, in the order of the log; at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// The segment under the eyes of the judge.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// The first record, by the file's name.
    name: u64,
    /// Whether it is the last one, which may end torn.
    last: bool,
    /// Whether its first frame was seen.
    begun: bool,
    /// Where the frame begins that is judged.
    offset: u64,
}

/// Judges the frames of a log.
#[derive(Debug)]
pub struct Verifier {
    key: PublicKey,
    origin: Option<String>,
    removal: Option<Removal>,
    anchors: Vec<Anchor>,
    /// The tree of all records so far; none after a finding that makes it unknown, until a signed start.
    tree: Option<Tree>,
    /// The record that comes next.
    next: u64,
    first: Option<u64>,
    signed: u64,
    heads: u64,
    newest: Option<TreeHead>,
    /// Records below this one were acknowledged: somebody has a signed head that covers them.
    acknowledged: u64,
    segment: Segment,
    /// What is wrong at the end of the last segment, where nothing was acknowledged as far as is known.
    suspects: Vec<Finding>,
    /// The first record that the suspects concern, and where.
    torn: Option<(u64, Torn)>,
    /// The tree before that record.
    torn_tree: Option<Tree>,
    findings: Vec<Finding>,
    more_findings: u64,
}

impl Verifier {
    /// Judges by a key, and by heads that are known already.
    pub fn new(key: PublicKey, removal: Option<Removal>, anchors: Vec<Anchor>) -> Self {
        let origin = anchors.first().map(|anchor| anchor.head.origin.clone());
        let mut verifier = Self {
            key,
            origin,
            removal: None,
            anchors: Vec::new(),
            tree: None,
            next: 0,
            first: None,
            signed: 0,
            heads: 0,
            newest: None,
            acknowledged: anchors.iter().map(|anchor| anchor.head.size).max().unwrap_or(0),
            segment: Segment {
                name: 0,
                last: false,
                begun: false,
                offset: 0,
            },
            suspects: Vec::new(),
            torn: None,
            torn_tree: None,
            findings: Vec::new(),
            more_findings: 0,
        };
        for anchor in anchors {
            match verifier.same_origin(&anchor.head.origin) {
                Ok(()) => verifier.anchors.push(anchor),
                Err(why) => verifier.report(Finding::BadNote { note: anchor.name, why }),
            }
        }
        if let Some(removal) = removal {
            match verifier.same_origin(&removal.origin) {
                Ok(()) => verifier.removal = Some(removal),
                Err(why) => verifier.report(Finding::BadNote {
                    note: "the statement of what was removed".to_owned(),
                    why,
                }),
            }
        }
        verifier
    }

    /// Judges nothing before the segment that begins with this record: what a writer does before it goes on.
    #[must_use]
    pub fn from_segment(mut self, first: u64) -> Self {
        (self.first, self.next) = (Some(first), first);
        self
    }

    /// The tree of all records that are whole; none where that is unknown.
    pub fn tree(&self) -> Option<&Tree> {
        if self.torn.is_some() {
            self.torn_tree.as_ref()
        } else {
            self.tree.as_ref()
        }
    }

    /// Adds what was found before the first segment.
    pub fn report(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }

    fn same_origin(&mut self, origin: &str) -> Result<(), NoteError> {
        if self.origin.get_or_insert_with(|| origin.to_owned()) == origin {
            return Ok(());
        }
        Err(NoteError::Origin(origin.to_owned()))
    }

    /// Reports what whole frames show from `record` on. Behind an unfinished write they are a part of it.
    fn find(&mut self, record: u64, finding: Finding) {
        if self.suspects.is_empty() || record < self.acknowledged {
            self.accuse();
            return self.report(finding);
        }
        self.suspects.push(finding);
    }

    /// Reports bytes that are no whole frame, where `record` should be. At the very end of the log they may be nothing but an
    /// unfinished write.
    fn find_torn(&mut self, record: u64, finding: Finding) {
        if !self.segment.last || record < self.acknowledged {
            return self.find(record, finding);
        }
        if self.torn.is_none() {
            let torn = Torn {
                segment: self.segment.name,
                offset: self.segment.offset,
            };
            self.torn = Some((record, torn));
            self.torn_tree = self.tree.clone();
        }
        self.suspects.push(finding);
    }

    /// A signed head covers what was suspect: it was acknowledged, and is wrong.
    fn accuse(&mut self) {
        self.torn = None;
        for finding in std::mem::take(&mut self.suspects) {
            self.report(finding);
        }
    }

    fn signed_up_to(&mut self, size: u64) {
        self.acknowledged = self.acknowledged.max(size);
        if self.torn.is_some_and(|(record, _)| size > record) {
            self.accuse();
        }
    }

    /// The verdict.
    pub fn finish(mut self) -> Report {
        let records = self.torn.map_or(self.next, |(record, _)| record);
        for anchor in std::mem::take(&mut self.anchors) {
            if anchor.head.size > records {
                self.signed_up_to(anchor.head.size);
                self.report(Finding::Truncated {
                    head: anchor.name,
                    signed: anchor.head.size,
                    records,
                });
            }
        }
        Report {
            origin: self.origin,
            first: self.first.unwrap_or(0),
            records,
            signed: self.signed.min(records),
            heads: self.heads,
            newest: self.newest,
            removal: self.removal,
            torn: self.torn.map(|(_, torn)| torn),
            findings: self.findings,
            more_findings: self.more_findings,
        }
    }
}
