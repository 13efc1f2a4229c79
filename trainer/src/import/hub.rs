//! `hf://owner/repo/file.gguf`: a file of a model hub.

use std::str::FromStr;

/// A file of a repository on a hub, at its main revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    owner: String,
    repository: String,
    path: Vec<String>,
}

/// Why a text names no file of a hub.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// Not of the form.
    #[error("{uri:?} is not of the form hf://owner/repo/file.gguf")]
    Form {
        /// The text.
        uri: String,
    },
    /// The address of the hub is none.
    #[error("{endpoint:?} is not of the form https://host")]
    Endpoint {
        /// The text.
        endpoint: String,
    },
}

fn is_segment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+');
    !text.is_empty() && text.len() <= 128 && text.bytes().all(allowed) && !text.bytes().all(|byte| byte == b'.')
}

impl FromStr for HubFile {
    type Err = HubError;

    fn from_str(uri: &str) -> Result<Self, HubError> {
        let form = || HubError::Form {
            uri: uri.chars().take(256).collect(),
        };
        let parts: Vec<String> = uri
            .strip_prefix("hf://")
            .ok_or_else(form)?
            .split('/')
            .map(str::to_owned)
            .collect();
        let is_file = parts.last().is_some_and(|file| file.to_lowercase().ends_with(".gguf"));
        if !(3..=8).contains(&parts.len()) || !is_file || !parts.iter().all(|part| is_segment(part)) {
            return Err(form());
        }
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next()) {
            (Some(owner), Some(repository)) => Ok(Self {
                owner,
                repository,
                path: parts.collect(),
            }),
            _ => Err(form()),
        }
    }
}

impl HubFile {
    /// Where the hub at `endpoint` serves the file.
    ///
    /// # Errors
    /// The endpoint is no HTTP address.
    pub fn url(&self, endpoint: &str) -> Result<String, HubError> {
        let base = endpoint.trim_end_matches('/');
        if !base.starts_with("https://") && !base.starts_with("http://") {
            return Err(HubError::Endpoint {
                endpoint: endpoint.to_owned(),
            });
        }
        Ok(format!(
            "{base}/{}/{}/resolve/main/{}",
            self.owner,
            self.repository,
            self.path.join("/")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_hub_has_one_address() {
        let file: HubFile = "hf://TheBloke/TinyLlama-1.1B/gguf/model.Q4_0.gguf".parse().unwrap();
        let expected = "https://huggingface.co/TheBloke/TinyLlama-1.1B/resolve/main/gguf/model.Q4_0.gguf";
        assert_eq!(file.url("https://huggingface.co/").unwrap(), expected);
        assert!(file.url("file:///etc").is_err());
    }

    #[test]
    fn an_address_that_leads_elsewhere_is_refused() {
        for uri in [
            "https://huggingface.co/a/b/c.gguf",
            "hf://a/c.gguf",
            "hf://a/b/c.safetensors",
            "hf://a/../c.gguf",
            "hf://a/b//c.gguf",
            "hf://a/b/c.gguf?x=.gguf",
            "hf://a/b/%2e%2e/c.gguf",
            "hf://user@a/b/c.gguf",
            "hf://",
        ] {
            assert!(uri.parse::<HubFile>().is_err(), "{uri}");
        }
    }
}
