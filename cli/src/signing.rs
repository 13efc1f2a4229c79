//! The operator's part in signed releases: the first root, targets, delegations. The keys stay in the context's folder.

mod rotation;

pub use rotation::{Rotation, rotate_root};

use anyhow::{Context as _, Result, anyhow, bail};
use fieldfare_proto::v1;
use fieldfare_release::tuf::{
    ListedTarget, Lookup, PublicKey, Purpose, RoleHolders, RoleType, Roles, Root, Signed, SigningKey, Target, Targets,
    TrustedState, Update, VerifiedRepository,
};
use fieldfare_release::{ModelName, ReleaseManifest, Sha256Digest, TargetName};
use ring::rand::SystemRandom;

use crate::client::Client;
use crate::clock;
use crate::context::{Context, OfflineKey};
use crate::exit::Advice;
use crate::limits::{ROOT_LIFETIME_SECONDS, TARGETS_LIFETIME_SECONDS};

/// Makes the release repository's root and targets keys, signs root version 1, and installs it at the controller. Where this
/// context did so before, changes nothing. Says whether it was new.
///
/// # Errors
/// The controller has a root that this context did not make.
pub async fn init(context: &Context, client: &Client) -> Result<bool> {
    if let Some(state) = context.trust()? {
        install_root(client, state.root().bytes()).await?;
        return Ok(false);
    }
    let fleet = fleet(client).await?;
    if fleet.root_version > 0 {
        return Err(Advice::new(
            "the fleet has a release root that this context does not know",
            "sign releases in the context that ran `fieldfare release init`, or copy its folder",
        )
        .into());
    }
    let root_key = context.offline_key_or_new(OfflineKey::Root)?;
    let targets_key = context.offline_key_or_new(OfflineKey::Targets)?;
    let online =
        |name: &str, pem: &str| PublicKey::from_pem(pem).with_context(|| format!("the controller's {name} key"));
    let holders = Roles {
        root: RoleHolders::one(root_key.public()),
        targets: RoleHolders::one(targets_key.public()),
        snapshot: RoleHolders::one(&online("snapshot", &fleet.snapshot_public_key_pem)?),
        timestamp: RoleHolders::one(&online("timestamp", &fleet.timestamp_public_key_pem)?),
        extra: Default::default(),
    };
    let now = clock::now_seconds();
    let root = Root::first(holders, now, now.plus(ROOT_LIFETIME_SECONDS));
    let signed = Signed::sign(root, &[&root_key], &SystemRandom::new()).context("signing the root")?;
    install_root(client, signed.bytes()).await?;
    context.keep_trust(&TrustedState::from_root(signed.bytes())?)?;
    Ok(true)
}

async fn install_root(client: &Client, root: &[u8]) -> Result<()> {
    let request = v1::InstallRootRequest { root: root.to_vec() };
    client
        .call(
            request,
            |mut api, request| async move { api.install_root(request).await },
        )
        .await?;
    Ok(())
}

async fn fleet(client: &Client) -> Result<v1::Fleet> {
    client
        .call(v1::GetFleetRequest {}, |mut api, request| async move {
            api.get_fleet(request).await
        })
        .await
}

/// The repository's root that this operator trusts.
///
/// # Errors
/// There is none yet.
pub fn trusted(context: &Context) -> Result<TrustedState> {
    context.trust()?.ok_or_else(|| {
        Advice::new(
            "this fleet has no release root yet",
            "`fieldfare release init` makes one",
        )
        .into()
    })
}

/// This context's key, present or next, that the trusted root names for a role; the next one where it names both.
pub(crate) fn named_key(context: &Context, role: RoleType) -> Result<SigningKey> {
    let state = trusted(context)?;
    let named = &state.root().payload().roles.get(role).keyids;
    let (present, next) = match role {
        RoleType::Root => (OfflineKey::Root, OfflineKey::NextRoot),
        _ => (OfflineKey::Targets, OfflineKey::NextTargets),
    };
    for key in [next, present] {
        if let Some(key) = context.offline_key(key)?.filter(|key| named.contains(key.id())) {
            return Ok(key);
        }
    }
    bail!(Advice::new(
        format!("this context has no {role} key that the fleet's root names"),
        "sign in the context that ran `fieldfare release init`, or that rotated the root last"
    ))
}

/// What a signature would be put on: the targets that are published now, or none.
async fn current_targets(context: &Context, client: &Client) -> Result<Option<Signed<Targets>>> {
    let state = trusted(context)?;
    let repository: v1::Repository = client
        .call(v1::GetRepositoryRequest {}, |mut api, request| async move {
            api.get_repository(request).await
        })
        .await?;
    if repository.targets.is_empty() {
        return Ok(None);
    }
    let targets = Signed::<Targets>::read(&repository.targets).context("reading the published targets")?;
    // A controller must not have the operator sign on top of somebody else's list.
    state
        .root()
        .payload()
        .verify(&targets)
        .context("the published targets are not signed by this fleet's targets key")?;
    Ok(Some(targets))
}

/// Signs the published targets again, as they are. Gives the new version; nothing where none are published.
async fn sign_again(context: &Context, client: &Client) -> Result<Option<u64>> {
    if current_targets(context, client).await?.is_none() {
        return Ok(None);
    }
    publish(context, client, [], |_| Ok(())).await.map(Some)
}

/// Changes what is listed, signs it, and publishes it with the manifests that it newly lists. Gives the new version.
async fn publish(
    context: &Context,
    client: &Client,
    manifests: impl IntoIterator<Item = (TargetName, Vec<u8>)>,
    change: impl FnOnce(&mut Targets) -> Result<()>,
) -> Result<u64> {
    let key = named_key(context, RoleType::Targets)?;
    let expires = clock::now_seconds().plus(TARGETS_LIFETIME_SECONDS);
    let mut targets = match current_targets(context, client).await? {
        Some(current) => current.payload().next(expires),
        None => Targets::first(expires),
    };
    change(&mut targets)?;
    let signed = Signed::sign(targets, &[&key], &SystemRandom::new()).context("signing the targets")?;
    let request = v1::PublishTargetsRequest {
        targets: signed.bytes().to_vec(),
        manifests: manifests
            .into_iter()
            .map(|(name, bytes)| (name.as_str().to_owned(), bytes))
            .collect(),
    };
    let answer = client
        .call(
            request,
            |mut api, request| async move { api.publish_targets(request).await },
        )
        .await?;
    Ok(answer.targets_version)
}

/// Signs a proposed release: its manifest and every artifact that it names. Gives the version of targets.
///
/// # Errors
/// The manifest is not sound, or the controller refuses it.
pub async fn publish_release(context: &Context, client: &Client, name: &TargetName, manifest: &[u8]) -> Result<u64> {
    let decoded = ReleaseManifest::decode(name, manifest).with_context(|| format!("the manifest {name}"))?;
    let listed = Target::new(manifest.len() as u64, Sha256Digest::of(manifest));
    publish(context, client, [(name.clone(), manifest.to_vec())], |targets| {
        targets.list(name, listed);
        for (target, artifact) in decoded.artifacts() {
            targets.list(target, Target::new(artifact.length, artifact.sha256));
        }
        Ok(())
    })
    .await
}

/// Takes a release back, also one that a trainer signed: no device installs it from now on. Artifacts that other releases share stay
/// listed.
///
/// # Errors
/// The release is not listed.
pub async fn withdraw_release(context: &Context, client: &Client, name: &TargetName) -> Result<u64> {
    publish(context, client, [], |targets| {
        if !targets.withdraw(name) {
            bail!(Advice::new(
                format!("{name} is not listed, or was withdrawn before"),
                "`fieldfare release list` shows what is published",
            ));
        }
        Ok(())
    })
    .await
}

/// Lets a trainer sign adapter releases of one model, and nothing else.
///
/// # Errors
/// The key is no key, or the controller refuses.
pub async fn delegate(context: &Context, client: &Client, model: &ModelName, public_key_pem: &str) -> Result<u64> {
    let key = PublicKey::from_pem(public_key_pem).context("the trainer's key")?;
    publish(context, client, [], |targets| {
        targets.delegate_adapters(model, RoleHolders::one(&key));
        Ok(())
    })
    .await
}

/// Brings what is known of the repository up to date and verifies all of it, from files that `fetch` gets.
///
/// # Errors
/// The repository is not one that a device would install from.
pub async fn verify_repository(
    state: TrustedState,
    mut fetch: impl AsyncFnMut(&str, u64) -> Result<Option<Vec<u8>>>,
) -> Result<VerifiedRepository> {
    let mut update = Update::begin(state, clock::now_seconds(), Purpose::Install);
    while let Some(file) = update.next_file() {
        match fetch(&file.name, file.max_bytes).await? {
            Some(bytes) => update.supply(&bytes)?,
            None => update.missing()?,
        }
    }
    update
        .finish()
        .map_err(|_| anyhow!("the repository's metadata ended before it was complete"))
}

/// What the repository lists under a name, delegations included.
///
/// # Errors
/// It is not listed, or a delegation's metadata is missing or wrong.
pub async fn listed(
    repository: &mut VerifiedRepository,
    name: &TargetName,
    mut fetch: impl AsyncFnMut(&str, u64) -> Result<Option<Vec<u8>>>,
) -> Result<ListedTarget> {
    loop {
        match repository.look_up(name)? {
            Lookup::Listed(listed) => return Ok(listed),
            Lookup::NotListed => bail!("{name} is not listed by the signed repository"),
            Lookup::Needs(request) => {
                let bytes = fetch(&request.file.name, request.file.max_bytes).await?;
                let bytes = bytes.ok_or_else(|| anyhow!("{} is missing from the repository", request.file.name))?;
                repository.supply(&request, &bytes)?;
            }
        }
    }
}
