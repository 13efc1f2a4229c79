//! Patterns of delegations, and file names of delegated roles.

/// Whether a shell-style pattern matches the whole name. `*` stands for any number and `?` for one character, and
/// neither for `/`. Anything else, brackets included, stands for itself, so that a pattern never matches more than
/// other clients read in it. Time is at most the product of the two lengths.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut taken) = (0, 0);
    // Where to continue when a later part does not fit: after the last star, with one more character given to it.
    let mut retry: Option<(usize, usize)> = None;
    while taken < name.len() {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                retry = Some((at, taken));
            }
            Some('?') if name[taken] != '/' => (at, taken) = (at + 1, taken + 1),
            Some(exact) if *exact == name[taken] && *exact != '?' => (at, taken) = (at + 1, taken + 1),
            _ => match retry {
                Some((after_star, given)) if name[given] != '/' => {
                    retry = Some((after_star, given + 1));
                    (at, taken) = (after_star, given + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|rest| *rest == '*')
}

/// The file name of a delegated role without version: `NAME.json`, in which everything but letters, digits, `-`,
/// `.`, `_` and `~` is percent-encoded, so that no role's name can lead out of the folder of the metadata.
pub(super) fn role_file(role: &str) -> String {
    let mut file = String::with_capacity(role.len() + 5);
    for byte in role.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            file.push(char::from(byte));
        } else {
            file.push_str(&format!("%{byte:02X}"));
        }
    }
    file.push_str(".json");
    file
}

#[cfg(test)]
mod tests {
    use super::{matches, role_file};

    #[test]
    fn patterns_match_as_the_specification_says() {
        for (pattern, name, expected) in [
            ("adapter.farm.*", "adapter.farm.r2.safetensors", true),
            ("adapter.farm.*", "adapter.farm.", true),
            ("adapter.farm.*", "adapter.farm", false),
            ("adapter.farm.*", "adapter.farmer.r2.safetensors", false),
            ("adapter.farm.*", "farm.r2.release.json", false),
            ("adapter.farm.*", "adapter.farm.r2/../../x", false),
            ("adapter.farm.*", "x/adapter.farm.r2", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("targets/*.tgz", "targets/foo.tgz", true),
            ("targets/*.tgz", "targets/foo.txt", false),
            ("foo-version-?.tgz", "foo-version-2.tgz", true),
            ("foo-version-?.tgz", "foo-version-alpha.tgz", false),
            ("a?b", "a/b", false),
            ("a?b", "a?b", true),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
            ("*a*b", "xaxxb", true),
            ("*a*b", "xaxxbc", false),
            ("", "", true),
            ("", "a", false),
            ("**", "abc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(200), &"a".repeat(199)));
    }

    #[test]
    fn a_role_cannot_lead_out_of_the_folder() {
        assert_eq!(role_file("adapter-farm"), "adapter-farm.json");
        assert_eq!(role_file("../a b"), "..%2Fa%20b.json");
        assert_eq!(role_file("é"), "%C3%A9.json");
    }
}
