//! The next root: signed by the holders of the old one and of its own, so that every device follows from the one that it knows.

use anyhow::{Context as _, Result, bail};
use fieldfare_proto::v1;
use fieldfare_release::tuf::{
    PublicKey, Purpose, RoleHolders, RoleType, Root, Signed, SigningKey, TrustedState, Update, Version,
};
use ring::rand::SystemRandom;

use super::{fleet, install_root, named_key, sign_again, trusted};
use crate::client::Client;
use crate::clock;
use crate::context::{Context, OfflineKey};
use crate::exit::Advice;
use crate::limits::ROOT_LIFETIME_SECONDS;

/// Which keys the next root replaces. Without any it is the same root, for another year.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// The key that signs roots.
    pub root_key: bool,
    /// The key that signs what is released.
    pub targets_key: bool,
    /// The controller's keys: the next ones that it has made.
    pub online_keys: bool,
}

/// Signs and installs the next root. An interrupted rotation goes on with the keys that it made. Gives the version.
///
/// # Errors
/// This context lacks a key, the controller has another root, or no next online keys where they are asked for.
pub async fn rotate_root(context: &Context, client: &Client, rotation: Rotation) -> Result<Version> {
    catch_up(context, client).await?;
    let next_online = match rotation.online_keys {
        true => Some(next_online_keys(client).await?),
        false => None,
    };
    let next_root = match rotation.root_key {
        true => Some(context.offline_key_or_new(OfflineKey::NextRoot)?),
        false => None,
    };
    let next_targets = match rotation.targets_key {
        true => Some(context.offline_key_or_new(OfflineKey::NextTargets)?),
        false => None,
    };
    // Both keys may sign targets until the new one has: no list is ever without a valid signature.
    sign(context, client, next_root.as_ref(), |root| {
        if let Some(key) = &next_root {
            root.assign(RoleType::Root, RoleHolders::one(key.public()));
        }
        if let Some((snapshot, timestamp)) = &next_online {
            root.assign(RoleType::Snapshot, RoleHolders::one(snapshot));
            root.assign(RoleType::Timestamp, RoleHolders::one(timestamp));
        }
        if let Some(next) = &next_targets {
            let present = root.roles.targets.keyids.iter();
            let mut keys: Vec<PublicKey> = present.filter_map(|id| root.keys.get(id).cloned()).collect();
            keys.push(next.public().clone());
            let threshold = root.roles.targets.threshold;
            root.assign(RoleType::Targets, RoleHolders { keys, threshold });
        }
    })
    .await?;
    if let Some(next) = &next_targets {
        sign_again(context, client).await?;
        sign(context, client, None, |root| {
            root.assign(RoleType::Targets, RoleHolders::one(next.public()));
        })
        .await?;
    }
    Ok(trusted(context)?.root().version())
}

/// Signs the root after the one that this context knows, installs it, and trusts it.
async fn sign(
    context: &Context,
    client: &Client,
    next_key: Option<&SigningKey>,
    change: impl FnOnce(&mut Root),
) -> Result<()> {
    let key = named_key(context, RoleType::Root)?;
    let now = clock::now_seconds();
    let mut root = trusted(context)?
        .root()
        .payload()
        .next(now, now.plus(ROOT_LIFETIME_SECONDS));
    change(&mut root);
    let mut keys = vec![&key];
    keys.extend(next_key.filter(|next| next.id() != key.id()));
    let signed = Signed::sign(root, &keys, &SystemRandom::new()).context("signing the root")?;
    install_root(client, signed.bytes()).await?;
    trust(context, signed.bytes())
}

/// Trusts a root that this context signed, and lets keys that it names take the place of those that it does not.
fn trust(context: &Context, root: &[u8]) -> Result<()> {
    let state = TrustedState::from_root(root)?;
    context.keep_trust(&state)?;
    settle(context, &state)
}

fn settle(context: &Context, state: &TrustedState) -> Result<()> {
    let roles = &state.root().payload().roles;
    for (named, present, next) in [
        (&roles.root.keyids, OfflineKey::Root, OfflineKey::NextRoot),
        (&roles.targets.keyids, OfflineKey::Targets, OfflineKey::NextTargets),
    ] {
        let is_named = |key: Option<SigningKey>| key.is_some_and(|key| named.contains(key.id()));
        if is_named(context.offline_key(next)?) && !is_named(context.offline_key(present)?) {
            context.replace_offline_key(present, next)?;
        }
    }
    Ok(())
}

/// Brings this context and the controller to the same root: an interrupted rotation left the controller one ahead, and a controller that
/// was restored from a backup is behind.
async fn catch_up(context: &Context, client: &Client) -> Result<()> {
    let state = trusted(context)?;
    let repository: v1::Repository = client
        .call(v1::GetRepositoryRequest {}, |mut api, request| async move {
            api.get_repository(request).await
        })
        .await?;
    if repository.root.as_slice() != state.root().bytes() {
        let held = Signed::<Root>::read(&repository.root).context("reading the controller's root")?;
        if held.version().next() == state.root().version() {
            install_root(client, state.root().bytes()).await?;
        } else if held.version() == state.root().version().next() {
            let mut update = Update::begin(state, clock::now_seconds(), Purpose::Inspect);
            update.supply(&repository.root).context("the controller's root")?;
            trust(context, &repository.root)?;
        } else {
            let (ours, theirs) = (state.root().version(), held.version());
            bail!(Advice::new(
                format!("this context knows root version {ours}, and the controller has version {theirs}"),
                "rotate in the context that rotated last, or copy its folder"
            ));
        }
    }
    settle(context, &trusted(context)?)
}

/// The public keys that the controller made for the next root.
async fn next_online_keys(client: &Client) -> Result<(PublicKey, PublicKey)> {
    let fleet = fleet(client).await?;
    if fleet.next_snapshot_public_key_pem.is_empty() {
        bail!(Advice::new(
            "the controller has no next online keys",
            "`fieldfare-controller next-online-keys --dir DIR` makes them, on the controller's machine"
        ));
    }
    let key = |pem: &str| PublicKey::from_pem(pem).context("the controller's next online keys");
    Ok((
        key(&fleet.next_snapshot_public_key_pem)?,
        key(&fleet.next_timestamp_public_key_pem)?,
    ))
}
