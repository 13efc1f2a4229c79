//! Byte ranges (RFC 9110, section 14): one range, or the whole.

use std::ops::Range;

/// What of a representation is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that it does not have.
    Unsatisfiable,
}

/// Reads a `Range` header for a representation of `length` bytes. What is not one range of bytes asks for the whole, as the
/// RFC allows a server to ignore it.
pub(super) fn asked(header: Option<&str>, length: u64) -> Asked {
    let Some(spec) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Asked::Whole;
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Asked::Whole;
    };
    let number = |text: &str| {
        let text = text.trim();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let part = match (number(first), number(last)) {
        (Some(first), _) if last.trim().is_empty() => first..length,
        (Some(first), Some(last)) if last >= first => first..last.saturating_add(1).min(length),
        (None, Some(suffix)) if first.trim().is_empty() => length.saturating_sub(suffix)..length,
        _ => return Asked::Whole,
    };
    if part.start >= part.end {
        Asked::Unsatisfiable
    } else {
        Asked::Part(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_the_rfc_says() {
        let cases = [
            (None, Asked::Whole),
            (Some("bytes=0-499"), Asked::Part(0..499 + 1)),
            (Some("bytes=500-999"), Asked::Part(500..1000)),
            (Some("bytes=500-5000"), Asked::Part(500..1000)),
            (Some("bytes=999-"), Asked::Part(999..1000)),
            (Some("bytes=-500"), Asked::Part(500..1000)),
            (Some("bytes=-5000"), Asked::Part(0..1000)),
            (Some("bytes=1000-"), Asked::Unsatisfiable),
            (Some("bytes=1000-1001"), Asked::Unsatisfiable),
            (Some("bytes=-0"), Asked::Unsatisfiable),
            (Some("bytes=99999999999999999999999-"), Asked::Unsatisfiable),
            (Some("bytes=5-4"), Asked::Whole),
            (Some("bytes=0-0,5-6"), Asked::Whole),
            (Some("bytes=a-b"), Asked::Whole),
            (Some("bytes=-"), Asked::Whole),
            (Some("bytes=+1-2"), Asked::Whole),
            (Some("lines=1-2"), Asked::Whole),
        ];
        for (header, expected) in cases {
            assert_eq!(asked(header, 1000), expected, "{header:?}");
        }
        assert_eq!(asked(Some("bytes=0-"), 0), Asked::Unsatisfiable);
    }
}
