//! What enrolment fixed, and what the owner may change.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use fieldfare_files::{self as files, FileError};
use fieldfare_fleet::{ByteSize, CapabilityProfile, Digest, Labels};
use fieldfare_privacy::Budget;
use fieldfare_tls::Endpoint;
use serde::{Deserialize, Serialize};

use crate::folder::Folder;
use crate::limits::DEFAULT_BUDGET;

/// Schema of `agent.json` and `settings.json`.
pub const SCHEMA: u32 = 1;

/// What enrolment fixed: `agent.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Version of this file's form.
    pub schema: u32,
    /// What people call the device.
    pub name: String,
    /// Labels that the device gives itself.
    pub labels: Labels,
    /// Controllers to try in turn, `https://host:port`.
    pub endpoints: Vec<String>,
    /// The digest that the join token promised for the first trusted root.
    pub root_sha256: Digest,
    /// Version of that root.
    pub root_version: u64,
    /// What the device is and can do.
    pub profile: CapabilityProfile,
}

/// Why `agent.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is none.
    #[error("{path} does not exist: enrol this device first (fieldfare-agent enrol --dir ... --token ...)")]
    NotEnrolled {
        /// Where it should be.
        path: String,
    },
    /// It was written by another version.
    #[error("{path} has schema {found}, expected {SCHEMA}")]
    Schema {
        /// Which file.
        path: String,
        /// Its schema.
        found: u32,
    },
    /// One of its values cannot be.
    #[error("field `{field}` of {path}: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl AgentConfig {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the field.
    pub fn load(folder: &Folder) -> Result<Self, ConfigError> {
        let path = folder.config().display().to_string();
        let config: Self =
            files::read_json(&folder.config())?.ok_or(ConfigError::NotEnrolled { path: path.clone() })?;
        if config.schema != SCHEMA {
            return Err(ConfigError::Schema {
                path,
                found: config.schema,
            });
        }
        let field = |field, reason: String| ConfigError::Field {
            field,
            path: path.clone(),
            reason,
        };
        config
            .profile
            .validate()
            .map_err(|error| field("profile", error.to_string()))?;
        config.gateways().map_err(|error| field("endpoints", error))?;
        Ok(config)
    }

    /// The controllers, parsed.
    ///
    /// # Errors
    /// One of them is no endpoint, or there is none.
    pub fn gateways(&self) -> Result<Vec<Endpoint>, String> {
        if self.endpoints.is_empty() {
            return Err("there is no endpoint".to_owned());
        }
        self.endpoints
            .iter()
            .map(|text| text.parse().map_err(|error| format!("{text:?}: {error}")))
            .collect()
    }
}

/// Whether the owner lets the device's examples take part in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// They may, within the device's budget.
    Given,
    /// They may not.
    #[default]
    Withheld,
}

/// When the device counts as idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum IdlePolicy {
    /// At any time.
    #[default]
    Always,
    /// When all that is named holds.
    When {
        /// Load average of the last minute, per core, at most this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_load_per_core: Option<f64>,
        /// Hours of the day in UTC, from the first up to but not including the second; may pass midnight.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hours_utc: Option<(u8, u8)>,
    },
}

/// What an idle policy looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Load average of the last minute, per core.
    pub load_per_core: f64,
    /// Hour of the day in UTC, 0 to 23.
    pub hour_utc: u8,
}

impl IdlePolicy {
    /// Whether the device is idle.
    pub fn allows(&self, moment: Moment) -> bool {
        let Self::When {
            max_load_per_core,
            hours_utc,
        } = *self
        else {
            return true;
        };
        let load = max_load_per_core.is_none_or(|most| moment.load_per_core <= most);
        let hour = hours_utc.is_none_or(|(from, to)| match from <= to {
            true => (from..to).contains(&moment.hour_utc),
            false => moment.hour_utc >= from || moment.hour_utc < to,
        });
        load && hour
    }

    fn validate(&self) -> Result<(), String> {
        let Self::When {
            max_load_per_core,
            hours_utc,
        } = *self
        else {
            return Ok(());
        };
        if max_load_per_core.is_some_and(|load| !(load.is_finite() && load >= 0.0)) {
            return Err("`idle.when.max_load_per_core` is no number from 0 on".to_owned());
        }
        if hours_utc.is_some_and(|(from, to)| from > 23 || to > 24 || from == to) {
            return Err(
                "`idle.when.hours_utc` is not two different hours, the first 0 to 23, the second 0 to 24".to_owned(),
            );
        }
        Ok(())
    }
}

/// What the owner may change while the agent runs: `settings.json`, and `/fieldfare/v1/settings`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of this file's form.
    pub schema: u32,
    /// Consent to training.
    pub consent: Consent,
    /// When training may happen.
    pub idle: IdlePolicy,
    /// What the device's examples may pay in its whole life, whatever any server says.
    pub budget: Budget,
    /// Memory that models may use, in bytes: at most what the profile says.
    pub model_memory: ByteSize,
    /// Where the local API listens when the command line names nothing else.
    pub api_listen: SocketAddr,
}

impl Settings {
    /// Settings of a device whose owner said no more than this.
    pub fn new(consent: Consent, model_memory: ByteSize) -> Self {
        #[allow(clippy::expect_used)]
        let budget = Budget::from_numbers(DEFAULT_BUDGET.0, DEFAULT_BUDGET.1).expect("the default budget is a budget");
        Self {
            schema: SCHEMA,
            consent,
            idle: IdlePolicy::Always,
            budget,
            model_memory,
            api_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the field.
    pub fn load(folder: &Folder) -> Result<Self, ConfigError> {
        let path = folder.settings().display().to_string();
        let settings: Self =
            files::read_json(&folder.settings())?.ok_or(ConfigError::NotEnrolled { path: path.clone() })?;
        settings.validate().map_err(|reason| ConfigError::Field {
            field: "settings",
            path,
            reason,
        })?;
        Ok(settings)
    }

    /// What is wrong with these settings, if anything.
    ///
    /// # Errors
    /// The sentence names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("`schema` is {}, expected {SCHEMA}", self.schema));
        }
        if !self.api_listen.ip().is_loopback() {
            return Err(format!(
                "`api_listen` is {}, expected a loopback address",
                self.api_listen
            ));
        }
        self.idle.validate()
    }
}

/// Labels from `k=v,k=v`.
///
/// # Errors
/// The text names the pair that is none.
pub fn parse_labels(text: &str) -> Result<Labels, String> {
    let mut pairs = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
        pairs.insert(key.to_owned(), value.to_owned());
    }
    Labels::new(pairs).map_err(|error| error.to_string())
}

/// Labels as messages carry them.
pub fn label_pairs(labels: &Labels) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_policy_is_a_table() {
        let when = |max_load_per_core, hours_utc| IdlePolicy::When {
            max_load_per_core,
            hours_utc,
        };
        let cases = [
            (IdlePolicy::Always, 9.0, 12, true),
            (when(Some(0.5), None), 0.4, 12, true),
            (when(Some(0.5), None), 0.6, 12, false),
            (when(None, Some((1, 5))), 0.0, 1, true),
            (when(None, Some((1, 5))), 0.0, 5, false),
            (when(None, Some((22, 6))), 0.0, 23, true),
            (when(None, Some((22, 6))), 0.0, 5, true),
            (when(None, Some((22, 6))), 0.0, 6, false),
            (when(Some(0.5), Some((22, 6))), 0.6, 23, false),
        ];
        for (policy, load_per_core, hour_utc, expected) in cases {
            assert_eq!(
                policy.allows(Moment {
                    load_per_core,
                    hour_utc
                }),
                expected,
                "{policy:?} at {hour_utc}"
            );
        }
    }

    #[test]
    fn impossible_settings_are_refused_and_the_field_named() {
        let settings = Settings::new(Consent::Given, ByteSize::from_mib(64));
        assert_eq!(settings.validate(), Ok(()));
        let mut open = settings.clone();
        open.api_listen = "0.0.0.0:80".parse().unwrap();
        assert!(open.validate().unwrap_err().contains("`api_listen`"));
        let mut hours = settings;
        hours.idle = IdlePolicy::When {
            max_load_per_core: None,
            hours_utc: Some((3, 3)),
        };
        assert!(hours.validate().unwrap_err().contains("hours_utc"));
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(parse_labels("site=north,tier=edge").unwrap().get("tier"), Some("edge"));
        assert!(parse_labels("").unwrap().is_empty());
        assert!(parse_labels("site").unwrap_err().contains("KEY=VALUE"));
    }
}
