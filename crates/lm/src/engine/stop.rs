//! Stop strings: text that ends a generation and is not part of it.

/// Holds back text that may turn out to be the beginning of a stop string.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What became of some text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    /// This much can be shown.
    Text(String),
    /// A stop string began after this text.
    Stop(String),
}

impl StopMatcher {
    pub(crate) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self {
            stops,
            held: String::new(),
        }
    }

    pub(crate) fn push(&mut self, text: &str) -> Matched {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return Matched::Stop(std::mem::take(&mut self.held));
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| longest_beginning_at_end(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Matched::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, at the end of generation.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that are a beginning of `stop`.
fn longest_beginning_at_end(text: &str, stop: &str) -> usize {
    let beginnings = stop.char_indices().map(|(at, _)| at).skip(1);
    beginnings.filter(|at| text.ends_with(&stop[..*at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], parts: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(&stops.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>());
        let mut shown = String::new();
        for part in parts {
            match matcher.push(part) {
                Matched::Text(text) => shown.push_str(&text),
                Matched::Stop(text) => return (shown + &text, true),
            }
        }
        (shown + &matcher.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_never_shown() {
        assert_eq!(
            run(&["\nUser:"], &["Fine.", "\n", "Us", "er", ": and"]),
            ("Fine.".into(), true)
        );
        assert_eq!(
            run(&["\nUser:"], &["Fine.", "\n", "Us", "eful"]),
            ("Fine.\nUseful".into(), false)
        );
        assert_eq!(
            run(&["END", "N"], &["aE", "ND"]),
            ("a".into(), true),
            "the earliest match counts"
        );
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("café?".into(), false));
        assert_eq!(run(&[""], &["text"]), ("text".into(), false));
    }
}
