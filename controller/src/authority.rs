//! The fleet's authority, and how another one takes its place while everybody goes on.
//!
//! The next authority is announced first: whoever renews from then on trusts both. Then the two change places: the next one issues, and
//! certificates of the old one still count. In the end the old one is retired. Each step is one of the folder, and a controller
//! that starts afterwards takes it up.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use fieldfare_files::{self as files, Secrecy};
use fieldfare_fleet::Timestamp;
use fieldfare_tls::limits::CERTIFICATE_BACKDATING;
use fieldfare_tls::{
    AuthorityCertificate, CertificateAuthority, Identity, PrivateKey, SerialNumber, TimeSource, TrustBundle,
    TrustDomain, ValidityWindow,
};

use crate::audit::Given;
use crate::clock::random_bytes;
use crate::config::{Authority, AuthorityStep};
use crate::folder::{FleetFile, Folder, read, write};
use crate::init::{identity, load_fleet, own_principal};
use crate::limits::{AUTHORITY_LIFETIME, CERTIFICATE_LIFETIME};

/// The authority that issues, and all that are trusted.
#[derive(Debug)]
pub struct Authorities {
    issuing: CertificateAuthority,
    trusted: TrustBundle,
}

impl Authorities {
    /// Those of the folder. A change of places that was interrupted is finished first.
    ///
    /// # Errors
    /// They cannot be read, or do not belong together.
    pub fn load(folder: &Folder) -> Result<Self> {
        if folder.previous_authority().exists() && folder.next_authority_certificate().exists() {
            change_places(folder)?;
        }
        let issuing = load(&folder.authority_certificate(), &folder.authority_key())?;
        let mut trusted = vec![issuing.certificate().clone()];
        for path in [folder.next_authority_certificate(), folder.previous_authority()] {
            if path.exists() {
                let other = AuthorityCertificate::from_pem(&read(&path)?);
                trusted.push(other.with_context(|| format!("reading {}", path.display()))?);
            }
        }
        let trusted = TrustBundle::new(trusted).context("the trusted authorities")?;
        Ok(Self { issuing, trusted })
    }

    /// The one that issues.
    pub fn issuing(&self) -> &CertificateAuthority {
        &self.issuing
    }

    /// All that are trusted: everybody who gets a certificate is told them with it.
    pub fn trusted(&self) -> &TrustBundle {
        &self.trusted
    }
}

fn load(certificate: &Path, key: &Path) -> Result<CertificateAuthority> {
    let read_both = CertificateAuthority::from_pem(&read(certificate)?, &read(key)?);
    read_both.with_context(|| format!("reading the authority {}", certificate.display()))
}

/// A new authority of the domain, from now on. The certificate is written last: with it, both are there.
pub(crate) fn create(certificate: &Path, key: &Path, domain: &TrustDomain, clock: &TimeSource) -> Result<()> {
    let now = clock.now();
    let backdating = u64::try_from(CERTIFICATE_BACKDATING.as_millis()).unwrap_or(u64::MAX);
    // Twice the backdating of leaves, which must lie within the authority's own validity.
    let start = Timestamp::from_unix_ms(now.unix_ms().saturating_sub(2 * backdating));
    let window = ValidityWindow::new(start, now.saturating_add(AUTHORITY_LIFETIME))?;
    let made = CertificateAuthority::create(domain, window, SerialNumber::from_random(random_bytes()?))?;
    write(key, made.key_pem(), Secrecy::Secret)?;
    Ok(write(certificate, &made.certificate_pem(), Secrecy::Public)?)
}

/// Takes one step of the replacement. Says what was done and what follows.
///
/// # Errors
/// The step before is missing or too recent, or a file cannot be written.
pub fn step(options: &Authority, clock: &TimeSource) -> Result<String> {
    let folder = Folder::at(&options.dir);
    let fleet = load_fleet(&folder)?;
    let words = match options.step {
        AuthorityStep::Announce => "authority announce",
        AuthorityStep::Switch if options.early => "authority switch --early",
        AuthorityStep::Switch => "authority switch",
        AuthorityStep::Retire if options.early => "authority retire --early",
        AuthorityStep::Retire => "authority retire",
    };
    let given = Given::begin(&folder, &own_principal(&fleet.domain)?, words, clock)?;
    given.end(carry_out(&folder, &fleet, options, clock))
}

fn carry_out(folder: &Folder, fleet: &FleetFile, options: &Authority, clock: &TimeSource) -> Result<String> {
    // Finishes what was interrupted.
    Authorities::load(folder)?;
    let (next, previous) = (folder.next_authority_certificate(), folder.previous_authority());
    let told = match options.step {
        AuthorityStep::Announce => {
            if previous.exists() {
                bail!("the authority before is not retired yet: `authority retire` comes first");
            }
            if !next.exists() {
                let domain = TrustDomain::new(fleet.domain.as_str())?;
                create(&next, &folder.next_authority_key(), &domain, clock)?;
            }
            "the next authority is announced: restart the controller, and `authority switch` when everybody has renewed (a day for whoever is connected)"
        }
        AuthorityStep::Switch => {
            if !next.exists() {
                bail!("there is no next authority: `authority announce` makes one");
            }
            old_enough(&next, "announced", options.early, clock)?;
            write(&previous, &read(&folder.authority_certificate())?, Secrecy::Public)?;
            change_places(folder)?;
            "the next authority issues from the controller's next start on, and the one before is still trusted: restart it, make join tokens anew, and `authority retire` when everybody has renewed (a day for whoever is connected)"
        }
        AuthorityStep::Retire => {
            if !previous.exists() {
                bail!("there is no authority to retire: `authority switch` comes first");
            }
            old_enough(&previous, "replaced", options.early, clock)?;
            files::remove(&previous)?;
            files::sync_parent(&previous)?;
            "the authority before is no longer trusted from the controller's next start on: restart it"
        }
    };
    renew_first_operator(folder, clock)?;
    Ok(told.to_owned())
}

/// The next authority becomes the one that issues. What is written before is the sign that this was begun.
fn change_places(folder: &Folder) -> Result<()> {
    for (from, to) in [
        (folder.next_authority_key(), folder.authority_key()),
        (folder.next_authority_certificate(), folder.authority_certificate()),
    ] {
        match files::rename(&from, &to) {
            // Done before an interruption: the key goes first.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => files::sync_parent(&to)?,
            renamed => renamed?,
        }
    }
    Ok(())
}

/// A certificate lives a day and is renewed at half of it.
fn old_enough(file: &Path, what: &str, early: bool, clock: &TimeSource) -> Result<()> {
    let since = fs::metadata(file).and_then(|about| about.modified())?;
    let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Duration::from_millis(clock.now().unix_ms());
    if early || now >= since + CERTIFICATE_LIFETIME {
        return Ok(());
    }
    let left = (since + CERTIFICATE_LIFETIME).saturating_sub(now).as_secs() / 60;
    bail!(
        "the authority was {what} less than a day ago, and who has not renewed since would be shut out: wait {left} minutes, or say --early"
    )
}

/// The first operator's credential stays good for whoever copies it.
fn renew_first_operator(folder: &Folder, clock: &TimeSource) -> Result<()> {
    let place = folder.operator();
    let Some(held) = Identity::load(&place)? else {
        return Ok(());
    };
    let key = PrivateKey::from_pem(&held.key().to_pem())?;
    let next = identity(&Authorities::load(folder)?, key, held.principal(), &[], clock)?;
    Ok(next.save(&place)?)
}
