//! What each kind of frame is held against.

use super::{Anchor, Finding, Segment, Verifier};
use crate::frame::{Frame, Kind, decode_start};
use crate::head::TreeHead;
use crate::note::NoteError;
use crate::tree::Tree;

impl Verifier {
    /// A segment begins whose file is named after its first record.
    pub fn begin_segment(&mut self, name: u64, last: bool) {
        self.segment = Segment {
            name,
            last,
            begun: false,
            offset: 0,
        };
    }

    /// Takes the frame that begins at byte `offset` of the segment. True for a record that is whole and in its place, or behind
    /// others that are missing.
    pub fn frame(&mut self, offset: u64, frame: &Frame) -> bool {
        let in_place = frame.kind == Kind::Record && frame.intact && frame.index >= self.next;
        self.judge(offset, frame);
        in_place
    }

    fn judge(&mut self, offset: u64, frame: &Frame) {
        self.segment.offset = offset;
        let begins = !std::mem::replace(&mut self.segment.begun, true);
        match frame.kind {
            Kind::Start if begins => self.start(frame),
            _ if begins => {
                self.bad_start(frame.intact, NoteError::Form("it does not begin with a signed head"));
                self.rest(frame);
            }
            Kind::Start if frame.intact => self.second_start(),
            Kind::Start => self.unreadable(),
            Kind::Record | Kind::Head => self.rest(frame),
        }
    }

    fn second_start(&mut self) {
        let (segment, offset, record) = (self.segment.name, self.segment.offset, self.next);
        self.find(
            record,
            Finding::Unreadable {
                segment,
                offset,
                record,
            },
        );
        self.tree = None;
    }

    fn rest(&mut self, frame: &Frame) {
        match frame.kind {
            Kind::Record => self.record(frame),
            _ => self.head(frame),
        }
    }

    fn bad_start(&mut self, intact: bool, why: NoteError) {
        let segment = self.segment.name;
        if self.first.is_some() && segment > self.next {
            self.find(
                self.next,
                Finding::Missing {
                    from: self.next,
                    to: segment,
                },
            );
        }
        let finding = Finding::BadStart { segment, why };
        if intact {
            self.find(segment, finding);
        } else {
            self.find_torn(segment, finding);
        }
        self.tree = None;
        self.next = self.next.max(segment);
        self.first.get_or_insert(segment);
    }

    fn opened(&mut self, note: &[u8], size: u64) -> Result<TreeHead, NoteError> {
        let head = TreeHead::open(note, &self.key)?;
        self.same_origin(&head.origin)?;
        if head.size != size {
            return Err(NoteError::Form("it is of another size than its place says"));
        }
        Ok(head)
    }

    fn start(&mut self, frame: &Frame) {
        let damaged = NoteError::Form("its first frame is damaged");
        let Some((tree, note)) = decode_start(frame.index, &frame.payload).filter(|_| frame.intact) else {
            return self.bad_start(frame.intact, damaged);
        };
        let head = match self.opened(note, frame.index) {
            Ok(head) if head.root == tree.root() => head,
            Ok(_) => return self.bad_start(true, NoteError::Form("its head is not that of its tree")),
            Err(why) => return self.bad_start(true, why),
        };
        self.signed_up_to(head.size);
        if frame.index != self.segment.name {
            let (segment, found) = (self.segment.name, frame.index);
            self.find(found, Finding::Renamed { segment, found });
        }
        self.join(&tree);
        self.first.get_or_insert(frame.index);
        self.next = frame.index;
        self.tree = Some(tree);
        self.agree(head);
        self.settle();
    }

    /// Compares the tree that a segment begins with to what was before it.
    fn join(&mut self, begins: &Tree) {
        let size = begins.size();
        if self.first.is_none() {
            return self.join_removed(begins);
        }
        if size > self.next {
            self.find(
                self.next,
                Finding::Missing {
                    from: self.next,
                    to: size,
                },
            );
        } else if size < self.next {
            self.find(
                size,
                Finding::Misplaced {
                    record: size,
                    expected: self.next,
                },
            );
        } else if self.tree.as_ref().is_some_and(|tree| tree != begins) {
            self.find(
                self.signed,
                Finding::ChangedBetween {
                    from: self.signed,
                    to: size,
                },
            );
        }
    }

    fn join_removed(&mut self, begins: &Tree) {
        let size = begins.size();
        let removed = self.removal.as_ref().map_or(0, |removal| removal.first);
        if size > removed {
            self.report(Finding::Missing {
                from: removed,
                to: size,
            });
        }
        if let Some(removal) = self.removal.clone().filter(|removal| removal.first == size)
            && removal.root != begins.root()
        {
            self.report(Finding::HeadMismatch {
                head: "the statement of what was removed".to_owned(),
                size,
            });
        }
        let old: Vec<Anchor> = self.anchors.extract_if(.., |anchor| anchor.head.size < size).collect();
        for anchor in old {
            self.report(Finding::TooOld {
                head: anchor.name,
                size: anchor.head.size,
                first: size,
            });
        }
    }

    fn record(&mut self, frame: &Frame) {
        let (index, expected) = (frame.index, self.next);
        if !frame.intact {
            self.find_torn(expected, Finding::Changed { record: expected });
        }
        if index == expected {
            self.next += 1;
            if let Some(tree) = &mut self.tree {
                tree.append(frame.hash);
            }
            return self.settle();
        }
        if index > expected && frame.intact {
            self.find(
                expected,
                Finding::Missing {
                    from: expected,
                    to: index,
                },
            );
            self.next = index + 1;
        } else if frame.intact {
            self.find(
                expected,
                Finding::Misplaced {
                    record: index,
                    expected,
                },
            );
        } else {
            // Neither its place nor its content is its own: it stands where a record belongs.
            self.next += 1;
        }
        self.tree = None;
    }

    fn head(&mut self, frame: &Frame) {
        let head = match self.opened(&frame.payload, frame.index) {
            Ok(head) if frame.intact => head,
            Ok(_) => return self.bad_head(false, NoteError::Form("its frame is damaged")),
            Err(why) => return self.bad_head(frame.intact, why),
        };
        self.signed_up_to(head.size);
        let (size, next) = (head.size, self.next);
        if size > next {
            self.find(next, Finding::Missing { from: next, to: size });
            (self.next, self.tree) = (size, None);
        } else if size < next {
            self.find(next, Finding::Added { size, records: next });
            self.tree = None;
        } else if let Some(tree) = &self.tree {
            if tree.root() == head.root {
                self.agree(head);
            } else {
                self.find(
                    self.signed,
                    Finding::ChangedBetween {
                        from: self.signed,
                        to: size,
                    },
                );
                self.tree = None;
            }
        }
    }

    fn bad_head(&mut self, intact: bool, why: NoteError) {
        let note = format!("the head after {} records", self.next);
        let finding = Finding::BadNote { note, why };
        if intact {
            self.find(self.next, finding);
        } else {
            self.find_torn(self.next, finding);
        }
    }

    fn agree(&mut self, head: TreeHead) {
        self.signed = self.signed.max(head.size);
        self.heads += 1;
        if self.newest.as_ref().is_none_or(|newest| newest.size <= head.size) {
            self.newest = Some(head);
        }
    }

    /// Compares the tree to the heads that were known beforehand.
    fn settle(&mut self) {
        let Some(tree) = &self.tree else { return };
        let size = tree.size();
        let due: Vec<Anchor> = self.anchors.extract_if(.., |anchor| anchor.head.size == size).collect();
        if due.is_empty() {
            return;
        }
        let root = tree.root();
        for anchor in due {
            if anchor.head.root == root {
                self.agree(anchor.head);
            } else {
                self.report(Finding::HeadMismatch {
                    head: anchor.name,
                    size,
                });
            }
        }
    }

    /// From the byte at `offset` on, the segment cannot be read.
    pub fn unreadable_from(&mut self, offset: u64) {
        self.segment.offset = offset;
        if !self.segment.begun {
            return self.bad_start(
                false,
                NoteError::Form("it ends before its first frame, or is no segment"),
            );
        }
        self.unreadable();
    }

    /// The segment ends, whole, at byte `offset`.
    pub fn end_segment(&mut self, offset: u64) {
        if !self.segment.begun {
            self.unreadable_from(offset);
        }
    }

    fn unreadable(&mut self) {
        let (segment, offset, record) = (self.segment.name, self.segment.offset, self.next);
        let finding = Finding::Unreadable {
            segment,
            offset,
            record,
        };
        self.find_torn(record, finding);
        self.tree = None;
    }
}
