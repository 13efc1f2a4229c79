//! The store in a real etcd: the contract, its keys, and everything that can happen to an answer on its way.
#![allow(
    clippy::unwrap_used,
    reason = "a file of tests: clippy sees only functions with the attribute as such"
)]

mod counting;
mod interruptions;
mod opening;
mod proxy;
mod sessions;
mod tls;
mod watching;

use fieldfare_etcd_process::EtcdProcess;
use fieldfare_store::{Commit, Key, Location, Prefix, Revision, Store};

mod conformance {
    use super::{open, server};

    fieldfare_store::conformance_tests! {
        [#[tokio::test]]
        {
            let Some(server) = server() else { return };
            let url = server.url();
            (async move || open(&url).await, server)
        }
    }
}

/// A new server, where etcd is installed; a test without one is skipped.
fn server() -> Option<EtcdProcess> {
    fieldfare_etcd_process::is_installed(std::thread::current().name().unwrap_or_default()).then(EtcdProcess::start)
}

fn location(url: &str) -> Location {
    format!("etcd:{url}").parse().unwrap()
}

async fn open(url: &str) -> Store {
    Store::open(&location(url)).await.unwrap()
}

/// etcd as its other clients see it.
async fn etcd(url: &str) -> etcd_client::Client {
    etcd_client::Client::connect([url], None).await.unwrap()
}

/// An error with its causes, as an operator reads it.
fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(chain);
    cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"))
}

fn key(text: impl AsRef<str>) -> Key {
    Key::new(text).unwrap()
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).unwrap()
}

async fn put(store: &Store, name: &str, value: &str) -> Revision {
    let commit = Commit::new().put(key(name), value.to_owned());
    store.commit(commit).await.unwrap().committed().unwrap()
}
