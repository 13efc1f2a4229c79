//! TLS to etcd: both sides prove themselves, or nothing is said.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions, UserAddOptions};
use fieldfare_etcd_process::{EtcdProcess, ServerTls, Settings, own_address};
use fieldfare_store::{Commit, Condition, OpenError, Prefix, Store};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::{chain, key, put};

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

/// The grant that docs/operating.md names is enough for everything that a store does, and for nothing beside it.
#[tokio::test]
async fn a_user_with_the_prefix_can_do_all_and_nothing_else() {
    let authority = Authority::new("ours");
    let Some(server) = server(&authority) else { return };
    let root = authority.issue("root", None);
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(std::fs::read(authority.ca()).unwrap()))
        .identity(Identity::from_pem(
            std::fs::read(root.0).unwrap(),
            std::fs::read(root.1).unwrap(),
        ));
    let options = ConnectOptions::new().with_tls(tls);
    let mut etcd = Client::connect([server.url()], Some(options)).await.unwrap();
    for (user, role) in [("root", "root"), ("controller", "fieldfare")] {
        etcd.role_add(role).await.unwrap();
        let no_password = UserAddOptions::new().with_no_pwd();
        etcd.user_add(user, "", Some(no_password)).await.unwrap();
        etcd.user_grant_role(user, role).await.unwrap();
    }
    let prefix = Permission::read_write("/fieldfare").with_prefix();
    etcd.role_grant_permission("fieldfare", prefix).await.unwrap();
    etcd.auth_enable().await.unwrap();

    let user = authority.issue("controller", None);
    let store = open(&server.url(), &authority.ca(), Some(&user)).await.unwrap();
    let start = put(&store, "/v1/a", "1").await;
    let mut watch = store.watch(&Prefix::root(), start).await.unwrap();
    let lease = store.grant_lease(std::time::Duration::from_secs(60)).await.unwrap();
    let leased = Commit::new()
        .expect(Condition::LeaseLive(lease.id))
        .put_leased(key("/v1/b"), "1", lease.id);
    assert!(store.commit(leased).await.unwrap().is_committed());
    store.keep_alive(lease.id).await.unwrap();
    store.revoke_lease(lease.id).await.unwrap();
    for _ in 0..2 {
        assert_eq!(watch.next().await.unwrap().changes[0].key(), &key("/v1/b"));
    }
    assert_eq!(store.list_all(&Prefix::root()).await.unwrap().entries.len(), 1);
    store.close().await.unwrap();

    let client = format!("cert={}&key={}", user.0.display(), user.1.display());
    let elsewhere = format!(
        "etcd:{}?ca={}&{client}&prefix=/elsewhere",
        server.url(),
        authority.ca().display()
    );
    let error = Store::open(&elsewhere.parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, OpenError::Etcd { .. }), "{error:?}");
    assert!(
        chain(&error).contains("refuses to serve") && chain(&error).contains("permission denied"),
        "{error:?}"
    );
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
