//! Turning tokens into text while they are generated.

use super::Tokenizer;

/// Collects the bytes of tokens and gives out whole characters only: a character may span several tokens.
#[derive(Debug, Default, Clone)]
pub struct Detokenizer {
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that becomes complete with `token`. Bytes that can be no UTF-8 become U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> String {
        self.push_bytes(&tokenizer.token_bytes(token))
    }

    /// The text that becomes complete with `bytes`.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut taken = 0;
        loop {
            match std::str::from_utf8(&self.pending[taken..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    taken = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid = taken + error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[taken..valid]));
                    taken = valid;
                    let Some(invalid) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    taken += invalid;
                }
            }
        }
        self.pending.drain(..taken);
        text
    }

    /// What is left at the end of generation: U+FFFD for a character that was never completed.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_cut_anywhere_comes_out_whole(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 1_usize..5) {
            let mut stream = Detokenizer::new();
            let mut text: String = bytes.chunks(cut).map(|part| stream.push_bytes(part)).collect();
            text.push_str(&stream.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn half_a_character_is_held_back() {
        let mut stream = Detokenizer::new();
        assert_eq!(stream.push_bytes(&[b'a', 0xF0, 0x9F]), "a");
        assert_eq!(stream.push_bytes(&[0xA6, 0x99, b'!']), "🦙!");
        assert_eq!(stream.push_bytes(&[0xC3]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }
}
