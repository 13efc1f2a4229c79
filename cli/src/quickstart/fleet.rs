//! The processes of the fleet: a controller, a trainer, and the devices.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Result, bail};
use fieldfare_fleet::{CapabilityProfile, reference_profiles};
use fieldfare_release::ReleaseManifest;

use super::data::RunData;
use super::device::LocalApi;
use super::narrator::Stage;
use super::processes::Program;
use super::{CONTEXT, Quickstart, RunDevice, TRAINER, owners, releases};
use crate::args::Global;
use crate::client::Client;
use crate::commands::{Session, devices, token, trainers};
use crate::context::Contexts;
use crate::exit::Advice;
use crate::limits::{DEVICES_CHECK, DEVICES_TIMEOUT};
use crate::output::bytes;
use crate::signing;

/// Hours for which a join token is good: it is used at once.
const TOKEN_HOURS: u32 = 1;

fn option(name: &str, value: impl AsRef<OsStr>) -> [OsString; 2] {
    [name.into(), value.as_ref().to_owned()]
}

fn command(name: &str, options: impl IntoIterator<Item = [OsString; 2]>) -> Vec<OsString> {
    std::iter::once(name.into())
        .chain(options.into_iter().flatten())
        .collect()
}

fn borrowed(arguments: &[OsString]) -> Vec<&OsStr> {
    arguments.iter().map(OsString::as_os_str).collect()
}

impl Quickstart {
    /// Starts the controller and the trainer, and makes the release keys.
    pub(super) async fn fleet(&mut self, global: &Global) -> Result<Session> {
        let store = self.arguments.store.clone();
        let which = store.as_deref().unwrap_or("its embedded store");
        self.narrator
            .begin(Stage::Fleet, &format!("a controller on {which}, and a trainer"));
        let dir = self.folder.controller();
        let place = || {
            [option("--dir", &dir)]
                .into_iter()
                .chain(store.iter().map(|store| option("--store", store)))
        };
        self.call("controller-init", Program::Controller, &command("init", place()))
            .await?;
        let free = ["--grpc-listen", "--artifact-listen", "--metrics-listen"].map(|name| option(name, "127.0.0.1:0"));
        let run = command("run", place().chain(free));
        self.processes
            .start(
                "controller",
                Program::Controller,
                &borrowed(&run),
                &dir.join("endpoints.json"),
            )
            .await?;
        let contexts = Contexts::at(self.folder.operator());
        let context = contexts.add(CONTEXT, &dir.join("operator"))?;
        let client = Client::connect(&context, global.timeout).await?;
        let session = Session {
            context,
            client,
            format: global.output,
        };
        signing::init(&session.context, &session.client).await?;
        self.narrator
            .say("release root and targets keys made; they stay with the operator");
        self.trainer(&session).await?;
        Ok(session)
    }

    async fn trainer(&mut self, session: &Session) -> Result<()> {
        let dir = self.folder.trainer();
        let token = self.token(session, token::Role::Trainer, TRAINER).await?;
        let enrol = command(
            "enrol",
            [
                option("--dir", &dir),
                option("--token", &token),
                option("--name", TRAINER),
            ],
        );
        self.call("trainer-enrol", Program::Trainer, &enrol).await?;
        let run = command("run", [option("--dir", &dir)]);
        self.processes
            .start(
                "trainer",
                Program::Trainer,
                &borrowed(&run),
                &dir.join("endpoints.json"),
            )
            .await?;
        let known = || async {
            let trainers = trainers::list(session).await?;
            Ok(trainers
                .iter()
                .any(|trainer| trainer.name == TRAINER && !trainer.delegation_public_key_pem.is_empty()))
        };
        until("the trainer", known).await?;
        self.narrator.say("the trainer enrolled and keeps its own signing key");
        Ok(())
    }

    async fn call(&mut self, name: &str, program: Program, arguments: &[OsString]) -> Result<()> {
        self.processes.finish(name, program, &borrowed(arguments)).await
    }

    async fn token(&self, session: &Session, role: token::Role, name: &str) -> Result<String> {
        let create = token::Create {
            role,
            name: name.to_owned(),
            hours: TOKEN_HOURS,
            uses: 1,
            labels: BTreeMap::new(),
            require_approval: false,
        };
        Ok(token::create(session, &create).await?.0)
    }

    /// Enrols and starts the devices, with the memory that their owners grant.
    pub(super) async fn devices(
        &mut self,
        session: &Session,
        data: &RunData,
        manifest: &ReleaseManifest,
        adapter: u64,
    ) -> Result<Vec<RunDevice>> {
        let count = data.devices.len();
        self.narrator.begin(
            Stage::Devices,
            &format!("{count} devices enrol with one-time tokens, then speak mutual TLS"),
        );
        let context = releases::context_tokens(manifest);
        let grants = owners::grants(manifest, context, adapter);
        let profiles = reference_profiles();
        let mut devices = Vec::new();
        for (index, device) in data.devices.iter().enumerate() {
            // A device of the farm is named after the machine whose profile it has; others take turns.
            let namesake = profiles.iter().position(|profile| profile.device_model == device.name);
            let index = namesake.unwrap_or(index % profiles.len());
            let folder = self.folder.device(&device.name);
            self.device(
                session,
                &device.name,
                &profiles[index],
                grants[index % grants.len()],
                &folder,
            )
            .await?;
            devices.push(RunDevice {
                data: device.clone(),
                api: LocalApi::of(&folder)?,
            });
        }
        let names: Vec<&str> = data.devices.iter().map(|device| device.name.as_str()).collect();
        until("every device", || all_connected(session, &names)).await?;
        self.narrator.say("every profile is emulated: declared after data sheets, not measured on this machine; speeds are real, and this machine's");
        self.narrator.say("memory for models was set by this command, in place of the owners, so that unlike devices run unlike variants");
        Ok(devices)
    }

    async fn device(
        &mut self,
        session: &Session,
        name: &str,
        profile: &CapabilityProfile,
        grant: Option<u64>,
        folder: &Path,
    ) -> Result<()> {
        let token = self.token(session, token::Role::Device, name).await?;
        let mut options = vec![
            option("--dir", folder),
            option("--token", &token),
            option("--name", name),
            option("--labels", format!("site={name},run=quickstart")),
            option("--profile", &profile.device_model),
            option("--consent", "yes"),
        ];
        options.extend(grant.map(|grant| option("--model-memory", grant.to_string())));
        let enrol = command("enrol", options);
        self.call(&format!("{name}-enrol"), Program::Agent, &enrol).await?;
        let run = command("run", [option("--dir", folder), option("--api-listen", "127.0.0.1:0")]);
        self.processes
            .start(name, Program::Agent, &borrowed(&run), &folder.join("endpoints.json"))
            .await?;
        let memory = grant.map_or_else(
            || format!("{} for models", bytes(profile.model_memory.get())),
            |grant| format!("its owner lets models use {}", bytes(grant)),
        );
        self.narrator.say(&format!(
            "{name} enrolled as an emulated {}; {memory}",
            profile.device_model
        ));
        Ok(())
    }
}

async fn all_connected(session: &Session, names: &[&str]) -> Result<bool> {
    let connected = devices::list(session, "").await?;
    let is_there = |name: &&str| {
        connected
            .iter()
            .any(|device| device.name == **name && device.connected && device.profile.is_some())
    };
    Ok(names.iter().all(is_there))
}

/// Waits until the controller has heard from somebody.
async fn until<F>(whom: &str, heard: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let waiting = async {
        while !heard().await? {
            tokio::time::sleep(DEVICES_CHECK).await;
        }
        Ok(())
    };
    match tokio::time::timeout(DEVICES_TIMEOUT, waiting).await {
        Ok(done) => done,
        Err(_) => {
            let what = format!(
                "the controller did not hear from {whom} within {} s",
                DEVICES_TIMEOUT.as_secs()
            );
            bail!(Advice::new(what, "the logs in the run's folder say why"))
        }
    }
}
