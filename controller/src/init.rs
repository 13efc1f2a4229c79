//! `init`: makes the keys and the store of a new fleet, and the first operator's credential.

use anyhow::{Context, Result, bail};
use fieldfare_files::{Secrecy, make_folder};
use fieldfare_proto::v1::{FleetRecord, KeyRecord, PrincipalRecord, TokenRole};
use fieldfare_release::tuf::SigningKey;
use fieldfare_store::Store;
use fieldfare_tls::{
    CertificateRequest, ControllerName, HostName, Identity, OperatorName, Principal, PrivateKey, TimeSource,
    TrustDomain,
};
use ring::rand::SystemRandom;

use crate::audit::Given;
use crate::authority::{self, Authorities};
use crate::clock::unix_ms;
use crate::config::{Init, NextOnlineKeys};
use crate::folder::{FleetFile, Folder, read, write};
use crate::keys::Keys;
use crate::records::{Records, attempt};
use crate::refusal::Refusal;

/// Version of `fleet.json`.
pub const FLEET_SCHEMA: u32 = 1;

/// Name of the operator whose credential `init` writes.
const FIRST_OPERATOR: &str = "first";

/// What `init` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The fleet is new.
    Created,
    /// The fleet was there; nothing changed.
    Present(FleetFile),
}

/// Makes a fleet. Where one is, changes nothing and says what there is.
///
/// # Errors
/// A file, a key or the store cannot be made; whatever was made stays, and the next `init` goes on with it.
pub async fn init(options: &Init, clock: &TimeSource) -> Result<Outcome> {
    let folder = Folder::at(&options.dir);
    if folder.fleet().exists() {
        return Ok(Outcome::Present(load_fleet(&folder)?));
    }
    make_folder(&folder.blobs(), Secrecy::Public)?;
    let authority = authority(&folder, &options.domain, clock)?;
    online_key(&folder.snapshot_key())?;
    online_key(&folder.timestamp_key())?;
    private_key(&folder.identity_key())?;
    let store = Store::open(&folder.store(options.store.as_ref()))
        .await
        .context("--store")?;
    let records = Records::new(store, 0);
    first_operator(&folder, &records, &authority, options, clock).await?;
    records.store().clone().close().await?;
    let file = FleetFile {
        schema: FLEET_SCHEMA,
        domain: options.domain.to_string(),
        tenant: options.tenant.to_string(),
        advertise: options.advertise.iter().map(host_text).collect(),
    };
    write(
        &folder.fleet(),
        &(serde_json::to_string_pretty(&file)? + "\n"),
        Secrecy::Public,
    )?;
    Ok(Outcome::Created)
}

fn host_text(host: &HostName) -> String {
    match host {
        HostName::Dns(name) => name.as_ref().to_owned(),
        HostName::Ip(address) => address.to_string(),
    }
}

/// What `init` decided about the fleet in this folder.
///
/// # Errors
/// There is none, or it is of another version.
pub fn load_fleet(folder: &Folder) -> Result<FleetFile> {
    let path = folder.fleet();
    let text = read(&path).with_context(|| {
        format!(
            "{} holds no fleet; `fieldfare-controller init --dir` makes one",
            folder.root().display()
        )
    })?;
    let file: FleetFile = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    if file.schema != FLEET_SCHEMA {
        bail!(
            "{} has schema {}, this version reads {FLEET_SCHEMA}",
            path.display(),
            file.schema
        );
    }
    if file.advertise.is_empty() {
        bail!("{}: `advertise` is empty; expected at least one host", path.display());
    }
    Ok(file)
}

/// The authority of the folder; an interrupted `init` goes on with the one it made.
fn authority(folder: &Folder, domain: &TrustDomain, clock: &TimeSource) -> Result<Authorities> {
    if !folder.authority_certificate().exists() {
        authority::create(&folder.authority_certificate(), &folder.authority_key(), domain, clock)?;
    }
    Authorities::load(folder)
}

/// Makes the online keys that the next root may name, where there are none yet.
///
/// # Errors
/// There is no fleet, or they cannot be logged or written.
pub fn next_online_keys(options: &NextOnlineKeys, clock: &TimeSource) -> Result<()> {
    let folder = Folder::at(&options.dir);
    let owner = own_principal(&load_fleet(&folder)?.domain)?;
    let given = Given::begin(&folder, &owner, "next-online-keys", clock)?;
    let made = online_key(&folder.next_snapshot_key()).and_then(|()| online_key(&folder.next_timestamp_key()));
    given.end(made)
}

fn online_key(path: &std::path::Path) -> Result<()> {
    if !path.exists() {
        write(
            path,
            &SigningKey::generate(&SystemRandom::new())?.to_pem(),
            Secrecy::Secret,
        )?;
    }
    Ok(())
}

fn private_key(path: &std::path::Path) -> Result<PrivateKey> {
    if !path.exists() {
        write(path, &PrivateKey::generate()?.to_pem(), Secrecy::Secret)?;
    }
    Ok(PrivateKey::from_pem(&read(path)?)?)
}

async fn first_operator(
    folder: &Folder,
    records: &Records,
    authority: &Authorities,
    options: &Init,
    clock: &TimeSource,
) -> Result<()> {
    let place = folder.operator();
    let key = match Identity::load(&place)? {
        Some(made) => PrivateKey::from_pem(&made.key().to_pem())?,
        None => PrivateKey::generate()?,
    };
    let name = OperatorName::new(FIRST_OPERATOR)?;
    let principal = Principal::operator(options.domain.clone(), options.tenant.clone(), name.clone());
    let identity = identity(authority, key, &principal, &[], clock)?;
    // Before the store knows the key: interrupted between the two, `init` goes on with the same key.
    identity.save(&place)?;
    let registered = register(records, options, &name, identity.key().digest(), unix_ms(clock.now())).await;
    registered.context("--store")
}

/// An identity with a certificate that begins now.
pub(crate) fn identity(
    authority: &Authorities,
    key: PrivateKey,
    principal: &Principal,
    names: &[HostName],
    clock: &TimeSource,
) -> Result<Identity> {
    let request = CertificateRequest::parse(&key.certificate_request()?)?;
    let issued = crate::enrolment::issue(authority, &request, principal, names, clock.now())?;
    let bundle = authority.trusted().clone();
    Ok(Identity::new(
        key,
        issued.chain_der.into_iter().map(Into::into).collect(),
        bundle,
    )?)
}

/// The controller of a trust domain.
pub(crate) fn own_principal(domain: &str) -> Result<Principal> {
    Ok(Principal::controller(
        TrustDomain::new(domain)?,
        ControllerName::new("controller")?,
    ))
}

/// The controller's own identity, for a day from now. Its key stays the same.
///
/// # Errors
/// Its key cannot be read, or the authority does not issue.
pub fn own_identity(folder: &Folder, authority: &Authorities, clock: &TimeSource) -> Result<Identity> {
    let fleet = load_fleet(folder)?;
    let principal = own_principal(&fleet.domain)?;
    let names = fleet
        .advertise
        .iter()
        .map(|host| host.parse())
        .collect::<Result<Vec<HostName>, _>>()?;
    identity(
        authority,
        private_key(&folder.identity_key())?,
        &principal,
        &names,
        clock,
    )
}

async fn register(
    records: &Records,
    options: &Init,
    name: &OperatorName,
    key: fieldfare_fleet::Digest,
    now: i64,
) -> Result<(), Refusal> {
    let keys = Keys::of(&options.tenant);
    attempt!("the new fleet", records, change, {
        if change.read::<FleetRecord>(&keys.fleet()).await?.is_none() {
            let mut fleet = FleetRecord {
                generation: None,
                trust_domain: options.domain.to_string(),
                created_unix_ms: now,
                schema: crate::schema::RECORDS,
            };
            change.put(keys.fleet(), &mut fleet);
        }
        let held: Option<PrincipalRecord> = change.read(&keys.operator(name)).await?;
        if held.as_ref().is_some_and(|held| held.key_digest != key.as_bytes()) {
            return Err(Refusal::Unready(
                "the store holds a fleet that `init` made from another folder: name another store, or, in etcd, another prefix=".to_owned(),
            ));
        }
        if held.is_none() {
            let key_digest = key.as_bytes().to_vec();
            let mut operator = PrincipalRecord {
                key_digest,
                enrolled_unix_ms: now,
                ..PrincipalRecord::default()
            };
            change.put(keys.operator(name), &mut operator);
            let mut holder = KeyRecord {
                generation: None,
                role: TokenRole::Operator.into(),
                id: name.to_string(),
            };
            change.put(keys.holder(&key), &mut holder);
        }
    });
    Ok(())
}
