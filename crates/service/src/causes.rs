//! Errors, as a log or a person is told them.

use std::error::Error;

/// An error with its causes, in one line. One whose text its cause repeats is said once.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn an_error_is_said_with_its_causes_once() {
        let disk = || io::Error::other("disk");
        assert_eq!(chain(&disk()), "disk");
        assert_eq!(chain(&Outer("cannot read /x", disk())), "cannot read /x: disk");
        assert_eq!(chain(&Outer("cannot read /x: disk", disk())), "cannot read /x: disk");
    }
}
