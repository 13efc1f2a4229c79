//! Which store a controller under test has: a file in its folder, or an etcd of its own.

use std::path::Path;

use fieldfare_etcd_process::EtcdProcess;
use fieldfare_store::Location;

/// Names the kind of store for all tests of a run: `redb`, which is meant where it is not set, or `etcd`.
const VARIABLE: &str = "FIELDFARE_TEST_STORE";

/// The store of one fleet.
#[derive(Debug)]
pub enum TestStore {
    /// The controller's own choice.
    InFolder,
    /// A server, which ends with this.
    Etcd(EtcdProcess),
}

impl TestStore {
    /// A new store of the kind that this run of the tests is about.
    ///
    /// # Panics
    /// When the variable says something else, or etcd does not start.
    #[allow(clippy::disallowed_methods, reason = "tests read their configuration here only")]
    pub fn start() -> TestStore {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("redb") => TestStore::InFolder,
            Ok("etcd") => TestStore::Etcd(EtcdProcess::start()),
            Ok(other) => panic!("{VARIABLE} is {other:?}, not redb or etcd"),
        }
    }

    /// Where it lies, for a fleet in this folder.
    pub fn location(&self, folder: &Path) -> Location {
        match self {
            TestStore::InFolder => Location::Embedded(folder.join("store.redb")),
            TestStore::Etcd(server) => format!("etcd:{}", server.url()).parse().unwrap(),
        }
    }

    /// What the controller's command line says of it.
    pub fn arguments(&self) -> Vec<String> {
        match self {
            TestStore::InFolder => Vec::new(),
            TestStore::Etcd(server) => vec!["--store".to_owned(), format!("etcd:{}", server.url())],
        }
    }
}
