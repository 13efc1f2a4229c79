//! `fieldfare plan`: which variant of a model a device would run, at what speed, and why not a better one.

mod model;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use fieldfare_fleet::placement::{Correction, PlacementReport, Requirements, place};
use fieldfare_fleet::{
    ByteSize, CapabilityProfile, Capacity, TokensPerSecond, TrustTier, known_model, known_models, reference_profile,
    reference_profiles,
};
use fieldfare_proto::v1;
use fieldfare_release::ReleaseManifest;
use serde::Serialize;

pub use self::model::header;
use self::model::{SizedModel, of_file};
use super::Session;
use super::devices::{SpeedView, VariantView, described};
use crate::args::{Global, at_least_one, not_negative};
use crate::exit::Advice;
use crate::output::{bytes, rate, show, table};

/// Arguments of `fieldfare plan`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A known model (tinyllama-1.1b, phi-2, mistral-7b-instruct, llama-2-7b; all of them when nothing is named), or a GGUF file.
    model: Option<String>,
    /// Plan a published release for the fleet's own devices instead: MODEL, or MODEL:N.
    #[arg(long, conflicts_with_all = ["model", "profile"])]
    release: Option<String>,
    /// Which of the fleet's devices, with --release.
    #[arg(long, short = 'l', default_value = "", requires = "release")]
    selector: String,
    /// One device: a reference profile by name, or a JSON file as `fieldfare-agent profile --output json` prints it. The five
    /// reference profiles when not given.
    #[arg(long)]
    profile: Vec<String>,
    /// Memory that each device's owner lets the model use, for example 4GiB; as the profile says when not given.
    #[arg(long, value_parser = size)]
    model_memory: Option<ByteSize>,
    #[command(flatten)]
    needs: Needs,
}

/// The context asked for where nobody says: room for a question and its answer, and little memory on a small device.
const DEFAULT_CONTEXT_TOKENS: u32 = 512;

/// What a deployment asks of a variant.
#[derive(Clone, Debug, Args)]
pub struct Needs {
    /// Slowest speed that will do.
    #[arg(long, default_value_t = 1.0, value_parser = not_negative, allow_negative_numbers = true)]
    pub min_tokens_per_second: f64,
    /// Tokens of context; when not given 512, or all that the model has where that is less.
    #[arg(long, value_parser = at_least_one)]
    pub context_tokens: Option<u32>,
    /// Most memory that a variant may use, for example 2GiB; the device's own limit alone when not given.
    #[arg(long, value_parser = size)]
    pub max_memory: Option<ByteSize>,
}

impl Needs {
    /// The domain's requirements on a model with this longest context.
    ///
    /// # Errors
    /// The speed is no speed.
    pub fn requirements(&self, model_context: u32) -> Result<Requirements> {
        Ok(Requirements {
            min_tokens_per_second: TokensPerSecond::new(self.min_tokens_per_second)
                .context("--min-tokens-per-second")?,
            context: self.context_tokens.unwrap_or(model_context.min(DEFAULT_CONTEXT_TOKENS)),
            max_memory: self.max_memory,
            max_loss: None,
        })
    }
}

/// The context that every variant of a release has.
pub fn context(manifest: &ReleaseManifest) -> u32 {
    let contexts = manifest.variants.iter().map(|variant| variant.figures.context_tokens);
    contexts.min().unwrap_or(DEFAULT_CONTEXT_TOKENS)
}

/// A size on the command line: bytes, or with a unit of 1024 (`KiB`, `MiB`, `GiB`) or 1000 (`kB`, `MB`, `GB`).
pub fn size(text: &str) -> Result<ByteSize, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            return Err(format!(
                "{text:?} is no size; expected bytes, or a number with kB, MB, GB, KiB, MiB or GiB"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no size; expected for example 4GiB"))?;
    let value = number * factor as f64;
    if value > fieldfare_fleet::limits::MAX_DISK_BYTES as f64 {
        return Err(format!("{text:?} is more than any machine has"));
    }
    Ok(ByteSize::new(value as u64))
}

#[derive(Serialize)]
struct Plan {
    model: String,
    source: String,
    /// What stands in the way of running it, whatever the device.
    obstacle: Option<String>,
    devices: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    device: String,
    model_memory_bytes: u64,
    chosen: Option<String>,
    tokens_per_second: Option<f64>,
    bounded_by: Option<String>,
    speed: SpeedView,
    variants: Vec<VariantView>,
}

/// Does it.
///
/// # Errors
/// The model is unknown, the file is no GGUF that this version reads, or a profile is impossible.
pub async fn run(global: &Global, arguments: Arguments) -> Result<()> {
    let plans = match &arguments.release {
        Some(release) => vec![of_fleet(&Session::open(global).await?, release, &arguments).await?],
        None => of_profiles(&arguments)?,
    };
    show(global.output, &plans, |plans| {
        plans.iter().map(text).collect::<Vec<_>>().join("\n\n")
    })
}

fn of_profiles(arguments: &Arguments) -> Result<Vec<Plan>> {
    let profiles = profiles(&arguments.profile, arguments.model_memory)?;
    let models = match arguments.model.as_deref() {
        None => known_models().into_iter().map(SizedModel::known).collect(),
        Some(name) => match known_model(name) {
            Some(known) => vec![SizedModel::known(known)],
            None => vec![of_file(Path::new(name))?],
        },
    };
    let plan = |sized: SizedModel| -> Result<Plan> {
        let requirements = arguments.needs.requirements(sized.architecture.context)?;
        let variants = sized.architecture.variants();
        let devices = profiles.iter().map(|profile| {
            let capacity = Capacity::of(profile, TrustTier::Unattested);
            row(profile, &place(&capacity, &variants, &requirements, Correction::NONE))
        });
        Ok(Plan {
            devices: devices.collect(),
            model: sized.name,
            source: sized.source,
            obstacle: sized.obstacle,
        })
    };
    models.into_iter().map(plan).collect()
}

fn profiles(named: &[String], model_memory: Option<ByteSize>) -> Result<Vec<CapabilityProfile>> {
    let mut profiles = match named {
        [] => reference_profiles(),
        named => named.iter().map(|name| profile(name)).collect::<Result<Vec<_>>>()?,
    };
    for profile in &mut profiles {
        if let Some(memory) = model_memory {
            profile.model_memory = memory.min(profile.memory);
        }
        profile
            .validate()
            .with_context(|| format!("the profile {:?}", profile.device_model))?;
    }
    Ok(profiles)
}

fn profile(name: &str) -> Result<CapabilityProfile> {
    if let Some(profile) = reference_profile(name) {
        return Ok(profile);
    }
    let names = || {
        reference_profiles()
            .iter()
            .map(|profile| profile.device_model.clone())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let bytes = std::fs::read(name).map_err(|error| {
        let next = format!("name a JSON file, or one of {}", names());
        anyhow::Error::from(error).context(Advice::new(
            format!("{name:?} is no reference profile and no file"),
            next,
        ))
    })?;
    serde_json::from_slice(&bytes).with_context(|| format!("{name}: expected a capability profile as JSON"))
}

fn row(profile: &CapabilityProfile, report: &PlacementReport) -> Row {
    let choice = report.choice();
    let wire = v1::PlacementReport::from(report);
    Row {
        device: described(profile),
        model_memory_bytes: profile.model_memory.get(),
        chosen: choice.map(|variant| variant.name.to_string()),
        tokens_per_second: choice.map(|variant| variant.prediction.tokens_per_second.get()),
        bounded_by: choice.map(|variant| variant.prediction.bottleneck.to_string()),
        speed: SpeedView::of(&wire),
        variants: wire.variants.into_iter().map(VariantView::of).collect(),
    }
}

/// Where each of the fleet's devices would run a release.
///
/// # Errors
/// What the controller says.
pub async fn placements(
    session: &Session,
    manifest_target: &str,
    selector: &str,
    requirements: &Requirements,
) -> Result<Vec<v1::DevicePlacement>> {
    let request = v1::PlanPlacementRequest {
        manifest_target: manifest_target.to_owned(),
        selector: selector.to_owned(),
        requirements: Some(requirements.into()),
    };
    let answer = session.client.call(
        request,
        |mut api, request| async move { api.plan_placement(request).await },
    );
    Ok(answer.await?.devices)
}

async fn of_fleet(session: &Session, release: &str, arguments: &Arguments) -> Result<Plan> {
    let release = super::release::get(session, release).await?;
    let (_, manifest) = super::release::manifest(&release)?;
    let requirements = arguments.needs.requirements(context(&manifest))?;
    let placements = placements(session, &release.manifest_target, &arguments.selector, &requirements).await?;
    if placements.is_empty() {
        bail!(Advice::new(
            "no enrolled device matches the selector",
            "`fieldfare devices list` shows their labels"
        ));
    }
    let devices = placements.into_iter().map(|placement| {
        let report = placement.report.unwrap_or_default();
        let profile = placement
            .profile
            .and_then(|profile| CapabilityProfile::try_from(profile).ok());
        let chosen = report.variants.iter().find(|variant| variant.variant == report.chosen);
        Row {
            device: match &profile {
                Some(profile) => format!("{}: {}", placement.name, described(profile)),
                None => placement.name,
            },
            model_memory_bytes: profile.as_ref().map_or(0, |profile| profile.model_memory.get()),
            chosen: chosen.map(|variant| variant.variant.clone()),
            tokens_per_second: chosen.map(|variant| variant.predicted_tokens_per_second),
            bounded_by: chosen.map(|variant| variant.bottleneck.clone()),
            speed: SpeedView::of(&report),
            variants: report.variants.into_iter().map(VariantView::of).collect(),
        }
    });
    Ok(Plan {
        model: release.model,
        source: release.manifest_target,
        obstacle: None,
        devices: devices.collect(),
    })
}

fn text(plan: &Plan) -> String {
    let rows = table(
        ["device", "model may use", "runs", "tokens/s", "bounded by", "not"],
        plan.devices.iter().map(|row| {
            let refused = row.variants.iter().filter(|variant| variant.verdict == "refused");
            let reasons: Vec<String> = refused
                .map(|variant| format!("{}: {}", variant.variant, variant.why.join("; ")))
                .collect();
            [
                row.device.clone(),
                bytes(row.model_memory_bytes),
                row.chosen.clone().unwrap_or_else(|| "nothing".to_owned()),
                row.tokens_per_second.map(rate).unwrap_or_default(),
                row.bounded_by.clone().unwrap_or_default(),
                reasons.join("\n"),
            ]
        }),
    );
    let obstacle: String = plan.obstacle.iter().map(|why| format!("{why}\n")).collect();
    format!("{} ({})\n{obstacle}{rows}", plan.model, plan.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("7", 7),
            ("4GiB", 4 << 30),
            ("1.5MiB", 3 << 19),
            ("2 MB", 2_000_000),
            ("1kB", 1000),
        ] {
            assert_eq!(size(text), Ok(ByteSize::new(bytes)), "{text}");
        }
        for text in ["", "GiB", "4 tons", "-1", "1e9", "9999999999GiB"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_model_says_what_is_one() {
        let error = of_file(Path::new("/nowhere/llama-9")).unwrap_err();
        assert!(
            error.downcast_ref::<Advice>().unwrap().next.contains("tinyllama-1.1b"),
            "{error:?}"
        );
    }

    #[test]
    fn an_impossible_memory_is_cut_to_the_machine() {
        let profiles = profiles(&["raspberry-pi-5".to_owned()], Some(ByteSize::from_gib(64))).unwrap();
        assert_eq!(profiles[0].model_memory, profiles[0].memory);
    }
}
