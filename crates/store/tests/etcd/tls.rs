//! TLS to etcd: both sides prove themselves, or nothing is said.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use fieldfare_etcd_process::{EtcdProcess, ServerTls, Settings, own_address};
use fieldfare_store::{OpenError, Prefix, Store};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::{chain, put};

/// An authority, and the files of what it vouches for.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Authority { folder, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key.
    fn issue(&self, name: &str, address: Option<Ipv4Addr>) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.subject_alt_names = address.into_iter().map(|a| SanType::IpAddress(IpAddr::V4(a))).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let paths = ["pem", "key"].map(|kind| self.folder.path().join(format!("{name}.{kind}")));
        std::fs::write(&paths[0], certificate.pem()).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
        let [certificate, key] = paths;
        (certificate, key)
    }
}

fn server(authority: &Authority) -> Option<EtcdProcess> {
    if !fieldfare_etcd_process::is_installed("TLS to etcd") {
        return None;
    }
    let address = own_address();
    let (certificate, key) = authority.issue("server", Some(address));
    let tls = ServerTls {
        certificate,
        key,
        clients: authority.ca(),
    };
    let server = EtcdProcess::with(
        address,
        Settings {
            arguments: Vec::new(),
            tls: Some(tls),
        },
    );
    assert!(
        server.url().contains(&address.to_string()),
        "the certificate is for another address"
    );
    Some(server)
}

async fn open(url: &str, ca: &Path, client: Option<&(PathBuf, PathBuf)>) -> Result<Store, OpenError> {
    let client = client.map(|(certificate, key)| format!("&cert={}&key={}", certificate.display(), key.display()));
    let text = format!("etcd:{url}?ca={}{}", ca.display(), client.unwrap_or_default());
    Store::open(&text.parse().unwrap()).await
}

#[tokio::test]
async fn a_store_over_tls_serves_whom_both_sides_know() {
    let authority = Authority::new("ours");
    let Some(server) = server(&authority) else { return };
    let client = authority.issue("client", None);
    let store = open(&server.url(), &authority.ca(), Some(&client)).await.unwrap();
    let start = put(&store, "/a", "1").await;
    let mut watch = store.watch(&Prefix::root(), start).await.unwrap();
    let at = put(&store, "/b", "1").await;
    assert_eq!(watch.next().await.unwrap().revision, at);
    store.close().await.unwrap();
}

#[tokio::test]
async fn whoever_one_side_does_not_know_is_turned_away_with_the_reason() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let Some(server) = server(&authority) else { return };
    let client = authority.issue("client", None);
    let forged = stranger.issue("client", None);
    for (ca, client, reason) in [
        (stranger.ca(), Some(&client), "UnknownIssuer"),
        (authority.ca(), None, ""),
        (authority.ca(), Some(&forged), ""),
    ] {
        let error = open(&server.url(), &ca, client).await.unwrap_err();
        assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
        assert!(chain(&error).contains(reason), "{}", chain(&error));
    }
    let plain = server.url().replace("https", "http");
    let error = Store::open(&format!("etcd:{plain}").parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn files_that_are_missing_or_no_certificates_are_named() {
    let authority = Authority::new("ours");
    let client = authority.issue("client", None);
    let url = "https://127.0.0.1:1";
    let missing = authority.folder.path().join("missing.pem");
    for (ca, client) in [
        (&missing, None),
        (&authority.ca(), Some((missing.clone(), client.1.clone()))),
        (&authority.ca(), Some((client.0.clone(), missing.clone()))),
    ] {
        let error = open(url, ca, client.as_ref()).await.unwrap_err();
        assert!(
            matches!(&error, OpenError::File { path, .. } if *path == missing),
            "{error:?}"
        );
        assert!(error.to_string().contains("missing.pem"), "{error}");
    }
    // A certificate in the place of its key.
    let error = open(url, &authority.ca(), Some(&(client.0.clone(), client.0)))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Etcd { .. }), "{error:?}");
}
