//! Which devices a deployment or a job means.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::label::{LabelError, Labels, check_key, check_value};
use crate::limits::{MAX_SELECTOR_BYTES, MAX_SELECTOR_TERMS};

/// A condition on the labels of a device: all terms hold. The empty selector matches every device.
///
/// Its text is a list of terms with commas between: `k=v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k`, `!k`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    terms: Vec<SelectorTerm>,
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SelectorTerm {
    /// The label exists and has one of these values; `k=v` is the set of one value.
    In(String, BTreeSet<String>),
    /// The label is absent or has none of these values.
    NotIn(String, BTreeSet<String>),
    /// The label exists.
    Exists(String),
    /// The label is absent.
    Absent(String),
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A key or a value breaks the rule of labels.
    #[error("selector term {term:?}")]
    Label {
        /// The term that holds it.
        term: String,
        /// The rule.
        source: LabelError,
    },
    /// A term has no known form.
    #[error("selector term {term:?}: expected k=v, k!=v, k in (a,b), k notin (a,b), k or !k")]
    Term {
        /// The refused term.
        term: String,
    },
    /// A parenthesis has no partner.
    #[error("selector: parenthesis at byte {at} has no partner")]
    Parenthesis {
        /// Byte position.
        at: usize,
    },
    /// The text is too long.
    #[error("a selector has at most {MAX_SELECTOR_BYTES} bytes, this one has {bytes}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// There are too many terms.
    #[error("a selector has at most {MAX_SELECTOR_TERMS} terms, this one has {count}")]
    TooManyTerms {
        /// Number of terms.
        count: usize,
    },
}

impl Selector {
    /// The selector that matches every device.
    pub const fn everything() -> Self {
        Self { terms: Vec::new() }
    }

    /// Whether a device with these labels is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.first_mismatch(labels).is_none()
    }

    /// The first term that does not hold for these labels: why a device is not meant.
    pub fn first_mismatch(&self, labels: &Labels) -> Option<&SelectorTerm> {
        self.terms.iter().find(|term| !term.holds(labels))
    }

    /// The conditions, in the order in which they were written.
    pub fn terms(&self) -> &[SelectorTerm] {
        &self.terms
    }
}

impl SelectorTerm {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::Absent(key) => labels.get(key).is_none(),
        }
    }
}

impl fmt::Display for SelectorTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", list(values)),
            Self::In(key, values) => write!(f, "{key} in ({})", list(values)),
            Self::NotIn(key, values) if values.len() == 1 => write!(f, "{key}!={}", list(values)),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", list(values)),
            Self::Exists(key) => write!(f, "{key}"),
            Self::Absent(key) => write!(f, "!{key}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms: Vec<String> = self.terms.iter().map(ToString::to_string).collect();
        f.pad(&terms.join(","))
    }
}

/// Cuts a selector's text at the commas outside parentheses.
fn split_terms(text: &str) -> Result<Vec<&str>, SelectorError> {
    let mut terms = Vec::new();
    let (mut start, mut open) = (0, None);
    for (at, byte) in text.bytes().enumerate() {
        match (byte, open) {
            (b'(', None) => open = Some(at),
            (b'(', Some(_)) | (b')', None) => return Err(SelectorError::Parenthesis { at }),
            (b')', Some(_)) => open = None,
            (b',', None) => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    match open {
        Some(at) => Err(SelectorError::Parenthesis { at }),
        None => {
            terms.push(&text[start..]);
            Ok(terms)
        }
    }
}

/// The values of `(a,b)`, or nothing where the text is not of this form.
fn parse_set(text: &str) -> Option<BTreeSet<String>> {
    let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

fn parse_term(term: &str) -> Result<SelectorTerm, SelectorError> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    let owned = |key: &str| key.trim().to_owned();
    let form = || SelectorError::Term { term: term.to_owned() };
    let parsed = if let Some((key, value)) = term.split_once("!=") {
        SelectorTerm::NotIn(owned(key), one(value))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        SelectorTerm::In(owned(key), one(value))
    } else if let Some((key, set)) = term
        .split_once(" notin ")
        .or_else(|| term.split_once(" notin(").map(|(k, _)| (k, &term[k.len() + 6..])))
    {
        SelectorTerm::NotIn(owned(key), parse_set(set).ok_or_else(form)?)
    } else if let Some((key, set)) = term
        .split_once(" in ")
        .or_else(|| term.split_once(" in(").map(|(k, _)| (k, &term[k.len() + 3..])))
    {
        SelectorTerm::In(owned(key), parse_set(set).ok_or_else(form)?)
    } else if let Some(key) = term.strip_prefix('!') {
        SelectorTerm::Absent(owned(key))
    } else {
        SelectorTerm::Exists(owned(term))
    };
    check_term(&parsed).map_err(|source| SelectorError::Label {
        term: term.to_owned(),
        source,
    })?;
    Ok(parsed)
}

fn check_term(term: &SelectorTerm) -> Result<(), LabelError> {
    match term {
        SelectorTerm::In(key, values) | SelectorTerm::NotIn(key, values) => {
            check_key(key)?;
            values.iter().try_for_each(|value| check_value(value))
        }
        SelectorTerm::Exists(key) | SelectorTerm::Absent(key) => check_key(key),
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong { bytes: text.len() });
        }
        if text.trim().is_empty() {
            return Ok(Self::everything());
        }
        let terms = split_terms(text)?;
        if terms.len() > MAX_SELECTOR_TERMS {
            return Err(SelectorError::TooManyTerms { count: terms.len() });
        }
        let terms = terms
            .into_iter()
            .map(|term| parse_term(term.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;
    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = Labels::new(labels.iter().copied()).unwrap();
        selector.parse::<Selector>().unwrap().matches(&labels)
    }

    #[test]
    fn a_selector_means_the_devices_for_which_all_terms_hold() {
        let device = [("site", "north"), ("kind", "gateway")];
        let cases = [
            ("", true),
            ("site=north", true),
            ("site==north", true),
            ("site=south", false),
            ("site!=south", true),
            ("absent!=x", true),
            ("site in (south, north)", true),
            ("site in(south,north)", true),
            ("site notin (south,north)", false),
            ("kind", true),
            ("!kind", false),
            ("!phone", true),
            ("site=north,kind in (phone,gateway),!spare", true),
            ("site=north,kind in (phone),!spare", false),
        ];
        for (selector, expected) in cases {
            assert_eq!(matches(selector, &device), expected, "{selector}");
        }
    }

    #[test]
    fn an_unreadable_selector_names_its_term() {
        let cases = [
            ("a=b,,c", "selector term \"\""),
            ("k in a,b", "expected k=v"),
            ("k in (a", "parenthesis at byte 5"),
            ("k)", "parenthesis at byte 1"),
            ("k in ((a))", "parenthesis at byte 6"),
            ("a b", "selector term \"a b\""),
            ("=v", "selector term \"=v\""),
            ("k=v w", "selector term \"k=v w\""),
        ];
        for (text, part) in cases {
            let error = text.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_and_what_is_parsed_reads_back(text in "[a-c!=(), in]{0,24}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector));
            }
        }
    }
}
