//! Contexts: a fleet that this command knows, with the operator's credential, signing keys and trusted root.
//!
//! A context is a folder: `key.pem`, `chain.pem`, `ca.pem` (the identity), `endpoints.json`, `root-key.pem`, `targets-key.pem` (after
//! `release init`), and `trust.json` (what was last seen of the release repository).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use fieldfare_files::{self as files, Secrecy};
use fieldfare_fleet::TrainerName;
use fieldfare_release::tuf::{SigningKey, TrustedState};
use fieldfare_tls::{Endpoint, Identity};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};

use crate::exit::Advice;

/// All contexts of a person.
#[derive(Clone, Debug)]
pub struct Contexts {
    root: PathBuf,
}

/// Where the controller of a context listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// HTTPS address of the gRPC services.
    pub grpc: String,
    /// HTTPS address of metadata and artifacts.
    pub artifacts: String,
}

/// One fleet and one operator's credential for it.
#[derive(Clone, Debug)]
pub struct Context {
    name: String,
    folder: PathBuf,
}

/// The two offline keys of a release repository, which never leave their operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineKey {
    /// Signs who may sign.
    Root,
    /// Signs what is released.
    Targets,
    /// Takes the place of [`OfflineKey::Root`] with the next root.
    NextRoot,
    /// Takes the place of [`OfflineKey::Targets`] with the next root.
    NextTargets,
}

impl OfflineKey {
    fn file(self) -> &'static str {
        match self {
            Self::Root => "root-key.pem",
            Self::Targets => "targets-key.pem",
            Self::NextRoot => "next-root-key.pem",
            Self::NextTargets => "next-targets-key.pem",
        }
    }
}

impl Contexts {
    /// The contexts in this folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that was named, or the user's own configuration folder.
    ///
    /// # Errors
    /// No folder was named and there is no home folder.
    pub fn of_user(named: Option<&Path>) -> Result<Self> {
        if let Some(folder) = named {
            return Ok(Self::at(folder));
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the folder of the configuration is found here only"
        )]
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let base = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home + "/.config"));
        let base = base.ok_or_else(|| anyhow!("neither FIELDFARE_CONFIG nor HOME is set"))?;
        Ok(Self::at(Path::new(&base).join("fieldfare")))
    }

    /// The named context, or the current one.
    ///
    /// # Errors
    /// There is none.
    pub fn open(&self, named: Option<&str>) -> Result<Context> {
        let name = match named {
            Some(name) => name.to_owned(),
            None => self.current()?.ok_or_else(no_context)?,
        };
        let context = self.context(&name)?;
        if !context.folder.is_dir() {
            return Err(Advice::new(
                format!("there is no context {name:?} in {}", self.root.display()),
                "`fieldfare context list` shows what there is",
            )
            .into());
        }
        Ok(context)
    }

    /// Names of all contexts, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let folder = self.root.join("contexts");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        // What else lies there, such as a file that a desktop left behind, is no context.
        let folders = entries.flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| TrainerName::new(name.as_str()).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The current context's name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn current(&self) -> Result<Option<String>> {
        let path = self.root.join("current");
        Ok(files::read_text(&path)?.map(|name| name.trim().to_owned()))
    }

    /// Makes a context the current one.
    ///
    /// # Errors
    /// There is no such context, or the file cannot be written.
    pub fn select(&self, name: &str) -> Result<()> {
        self.open(Some(name))?;
        write_private(&self.root.join("current"), name.as_bytes())
    }

    /// Adds a context from the folder of an operator's credential, as `fieldfare-controller init` and `run` write it, and makes it
    /// the current one if it is the first.
    ///
    /// # Errors
    /// The folder holds no credential, the controller never ran, or the name is taken by another fleet.
    pub fn add(&self, name: &str, from: &Path) -> Result<Context> {
        let identity = Identity::load(from).with_context(|| format!("reading the credential in {}", from.display()))?;
        let Some(identity) = identity else {
            return Err(Advice::new(
                format!("{} holds no operator's credential", from.display()),
                "`fieldfare-controller init --dir DIR` writes the first one to DIR/operator",
            )
            .into());
        };
        let endpoints = fs::read(from.join("endpoints.json")).map_err(|error| {
            let what = format!("{} has no endpoints.json", from.display());
            anyhow::Error::from(error).context(Advice::new(
                what,
                "start the controller once with `fieldfare-controller run`",
            ))
        })?;
        let endpoints: Endpoints = serde_json::from_slice(&endpoints).context("reading endpoints.json")?;
        let context = self.context(name)?;
        if let Ok(Some(present)) = Identity::load(&context.folder)
            && present.bundle().domain() != identity.bundle().domain()
        {
            bail!(
                "context {name:?} is of fleet {}, not {}",
                present.bundle().domain(),
                identity.bundle().domain()
            );
        }
        identity.save(&context.folder)?;
        write_private(
            &context.folder.join("endpoints.json"),
            &serde_json::to_vec_pretty(&endpoints)?,
        )?;
        if self.current()?.is_none() {
            self.select(name)?;
        }
        Ok(context)
    }

    fn context(&self, name: &str) -> Result<Context> {
        TrainerName::new(name).with_context(|| format!("the context's name {name:?}"))?;
        Ok(Context {
            name: name.to_owned(),
            folder: self.root.join("contexts").join(name),
        })
    }
}

fn no_context() -> anyhow::Error {
    Advice::new(
        "no fleet is known yet",
        "`fieldfare context add NAME --from DIR/operator` with the folder that `fieldfare-controller init --dir DIR` wrote, \
         or `fieldfare quickstart` to see everything on this machine",
    )
    .into()
}

impl Context {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The operator's identity.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn identity(&self) -> Result<Identity> {
        Identity::load(&self.folder)?.ok_or_else(|| anyhow!("context {} has no credential", self.name))
    }

    /// Replaces the identity after a renewal.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn replace_identity(&self, identity: &Identity) -> Result<()> {
        Ok(identity.save(&self.folder)?)
    }

    /// Where the controller listens.
    ///
    /// # Errors
    /// The file is missing or wrong.
    pub fn endpoints(&self) -> Result<Endpoints> {
        let path = self.folder.join("endpoints.json");
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
    }

    /// Address of the gRPC services.
    ///
    /// # Errors
    /// The file is missing or wrong.
    pub fn grpc(&self) -> Result<Endpoint> {
        let text = self.endpoints()?.grpc;
        text.parse()
            .with_context(|| format!("`grpc` of context {} is {text:?}", self.name))
    }

    /// One of the two offline keys; `None` before `release init`.
    ///
    /// # Errors
    /// The file is there and no key.
    pub fn offline_key(&self, key: OfflineKey) -> Result<Option<SigningKey>> {
        let path = self.folder.join(key.file());
        let Some(text) = files::read_text(&path)? else {
            return Ok(None);
        };
        let key = SigningKey::from_pem(&text, &SystemRandom::new());
        key.map(Some).with_context(|| format!("reading {}", path.display()))
    }

    /// The key, made and kept where there is none yet.
    ///
    /// # Errors
    /// It cannot be made, read or written.
    pub fn offline_key_or_new(&self, key: OfflineKey) -> Result<SigningKey> {
        if let Some(key) = self.offline_key(key)? {
            return Ok(key);
        }
        let made = SigningKey::generate(&SystemRandom::new()).context("making a signing key")?;
        write_private(&self.folder.join(key.file()), made.to_pem().as_bytes())?;
        Ok(made)
    }

    /// Puts a key in the place of another one.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub fn replace_offline_key(&self, key: OfflineKey, by: OfflineKey) -> Result<()> {
        let (from, to) = (self.folder.join(by.file()), self.folder.join(key.file()));
        Ok(files::rename(&from, &to)?)
    }

    /// What was last seen of the release repository; `None` before `release init`.
    ///
    /// # Errors
    /// The file is there and unreadable.
    pub fn trust(&self) -> Result<Option<TrustedState>> {
        let path = self.folder.join("trust.json");
        let Some(bytes) = files::read(&path)? else {
            return Ok(None);
        };
        let state = TrustedState::from_bytes(&bytes);
        state.map(Some).with_context(|| format!("reading {}", path.display()))
    }

    /// Keeps what was seen of the release repository.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_trust(&self, state: &TrustedState) -> Result<()> {
        write_private(&self.folder.join("trust.json"), &state.to_bytes())
    }
}

/// Writes a file for its owner alone, whole or not at all, and the folder it lies in.
fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        files::make_folder(folder, Secrecy::Secret)?;
    }
    Ok(files::replace(path, bytes, Secrecy::Secret)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_context_the_error_says_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let error = Contexts::at(folder.path()).open(None).unwrap_err();
        assert!(
            error.downcast_ref::<Advice>().unwrap().next.contains("context add"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_without_a_credential_is_no_context() {
        let folder = tempfile::tempdir().unwrap();
        let contexts = Contexts::at(folder.path().join("contexts"));
        let error = contexts.add("farm", folder.path()).unwrap_err();
        assert!(error.to_string().contains("no operator's credential"), "{error}");
        assert_eq!(contexts.names().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Contexts::at(folder.path()).open(Some("../other")).is_err());
    }
}
