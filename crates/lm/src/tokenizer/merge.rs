//! Pairwise merging: the best pair of neighbours first, the leftmost among equals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A part of a text: bytes `start..end`, or nothing once it was merged into its left neighbour.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// A pair that may be merged. Ordered by rank, then leftmost first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate<R> {
    rank: R,
    left: Reverse<usize>,
    right: Reverse<usize>,
    bytes: Reverse<usize>,
}

/// Merges neighbours until no pair has a rank; gives the byte ranges of what is left.
///
/// `starts` holds where each symbol of the text begins, ascending. `rank(start, middle, end)` says how good it is to merge
/// `start..middle` with `middle..end`; the largest goes first.
pub(super) fn merge<R: Ord>(
    starts: &[usize],
    length: usize,
    mut rank: impl FnMut(usize, usize, usize) -> Option<R>,
) -> Vec<std::ops::Range<usize>> {
    let count = starts.len();
    let mut symbols: Vec<Symbol> = (0..count)
        .map(|index| Symbol {
            start: starts[index],
            end: starts.get(index + 1).copied().unwrap_or(length),
            previous: index.checked_sub(1),
            next: Some(index + 1).filter(|next| *next < count),
        })
        .collect();
    let mut heap = BinaryHeap::new();
    let mut consider = |symbols: &[Symbol], heap: &mut BinaryHeap<Candidate<R>>, left: usize, right: usize| {
        let (start, middle, end) = (symbols[left].start, symbols[right].start, symbols[right].end);
        if let Some(rank) = rank(start, middle, end) {
            heap.push(Candidate {
                rank,
                left: Reverse(left),
                right: Reverse(right),
                bytes: Reverse(end - start),
            });
        }
    };
    for right in 1..count {
        consider(&symbols, &mut heap, right - 1, right);
    }
    while let Some(Candidate {
        left: Reverse(left),
        right: Reverse(right),
        bytes: Reverse(bytes),
        ..
    }) = heap.pop()
    {
        let is_current = symbols[left].next == Some(right)
            && symbols[left].end > symbols[left].start
            && symbols[right].end - symbols[left].start == bytes;
        if !is_current {
            continue;
        }
        symbols[left].end = symbols[right].end;
        symbols[left].next = symbols[right].next;
        symbols[right].start = symbols[right].end;
        symbols[right].next = None;
        if let Some(next) = symbols[left].next {
            symbols[next].previous = Some(left);
            consider(&symbols, &mut heap, left, next);
        }
        if let Some(previous) = symbols[left].previous {
            consider(&symbols, &mut heap, previous, left);
        }
    }
    symbols
        .iter()
        .filter(|symbol| symbol.end > symbol.start)
        .map(|symbol| symbol.start..symbol.end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_pair_goes_first_and_the_leftmost_of_equals() {
        let text = "aaab";
        let ranks = |start: usize, _: usize, end: usize| match &text[start..end] {
            "aa" => Some(1),
            "ab" => Some(2),
            "aaab" => Some(3),
            _ => None,
        };
        assert_eq!(merge(&[0, 1, 2, 3], 4, ranks).as_slice(), std::slice::from_ref(&(0..4)));
        let only_aa = |start: usize, _: usize, end: usize| (&text[start..end] == "aa").then_some(1);
        assert_eq!(merge(&[0, 1, 2, 3], 4, only_aa), [0..2, 2..3, 3..4]);
    }
}
