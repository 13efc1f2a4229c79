//! Keys that stay the same, so that an input which broke a target breaks it again. They protect nothing.

use fieldfare_release::tuf::SigningKey;
use ring::rand::SystemRandom;

const FIRST: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKcbpGkQTNSZNgBQU
TXJshWi7iW2uJI6WNaFEj3p3clShRANCAAQ0OeynZZuMOyU3s9mPRfAEddVSmTzi
EOBBtbDBm+eKE1V5TOCGFc/A6tx5zO4JOXOrWy7+07mAb6sP+N9T91QO
-----END PRIVATE KEY-----
";

const SECOND: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4FdKGN4UgchSBLZV
uUzhbgu7RVpG3WfHPAOf3vK4urihRANCAARkzcen+FJnZdgpnVe26IgciUtRwpok
e9/qvJuh/RzgQpcAYNDVhxSdLTebooFVR/mCs3TwO6FAqVbKj4I/ybGg
-----END PRIVATE KEY-----
";

fn key(pem: &str) -> SigningKey {
    SigningKey::from_pem(pem, &SystemRandom::new()).unwrap()
}

/// A key.
pub(crate) fn first() -> SigningKey {
    key(FIRST)
}

/// Another one.
pub(crate) fn second() -> SigningKey {
    key(SECOND)
}
