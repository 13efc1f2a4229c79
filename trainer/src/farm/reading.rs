//! One reading of one sensor, the prompt that states it and the alert that answers it.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::vocabulary::{CROPS, Condition, LEAF_WETNESS, SENSORS, Sensor, Severity, Site, Wording, ZONES};

/// A prompt and the completion that staff expect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Example {
    /// The reading, one line that ends with a line feed.
    pub prompt: String,
    /// The alert, one line without a line feed.
    pub completion: String,
}

/// Which sensor a reading comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `SENSORS[index]`.
    Known(usize),
    /// [`LEAF_WETNESS`], which pretraining text never mentions.
    Novel,
}

impl Source {
    /// The sensor's words.
    pub fn sensor(self) -> &'static Sensor {
        match self {
            Self::Known(index) => &SENSORS[index],
            Self::Novel => &LEAF_WETNESS,
        }
    }

    fn ordinal(self) -> usize {
        match self {
            Self::Known(index) => index,
            Self::Novel => SENSORS.len(),
        }
    }
}

/// The combination of sensor, crop and condition: the unit in which text is held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Combination {
    /// The sensor.
    pub source: Source,
    /// Index into [`CROPS`].
    pub crop: usize,
    /// What the reading says.
    pub condition: Condition,
}

impl Combination {
    /// Whether no training or pretraining text may use this combination.
    ///
    /// One in five is held out, in a Latin pattern: every pair of sensor and crop, sensor and condition, crop and
    /// condition is still seen, so that a held-out prompt asks for composition and not for unseen words.
    pub fn held_out(self) -> bool {
        (self.source.ordinal() + self.crop + 2 * self.condition as usize).is_multiple_of(5)
    }
}

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Sensor, crop and condition.
    pub combination: Combination,
    /// How much it matters.
    pub severity: Severity,
    /// From 1 to [`ZONES`].
    pub zone: u32,
    /// The number shown, with one decimal place where the sensor has one.
    pub value: String,
    /// Hours since the condition began, 1 to 48.
    pub hours: u32,
    /// Where.
    pub site: Site,
}

impl Reading {
    /// Draws the rest of a reading of the given combination at the given site.
    pub fn draw(combination: Combination, site: Site, rng: &mut ChaCha8Rng) -> Self {
        let sensor = combination.source.sensor();
        let severity = Severity::ALL[rng.random_range(0..Severity::ALL.len())];
        let value = draw_value(sensor, combination.condition, rng);
        Self {
            combination,
            severity,
            zone: rng.random_range(1..=ZONES),
            value,
            hours: rng.random_range(1..=48),
            site,
        }
    }

    /// The prompt and its alert; `rng` chooses among the ways of saying the same reading.
    pub fn example(&self, rng: &mut ChaCha8Rng) -> Example {
        Example {
            prompt: self.prompt(rng),
            completion: self.alert(),
        }
    }

    fn prompt(&self, rng: &mut ChaCha8Rng) -> String {
        let sensor = self.combination.source.sensor();
        let name = sensor.name;
        let crop = CROPS[self.combination.crop];
        let condition = pick(self.combination.condition.phrases(), rng);
        let severity = pick(self.severity.phrases(), rng);
        let (zone, site, hours) = (self.zone, self.site.name, self.hours);
        let value = if sensor.unit.is_empty() {
            self.value.clone()
        } else {
            format!("{} {}", self.value, sensor.unit)
        };
        let line = match rng.random_range(0..6) {
            0 => format!("{site}: {name} {value} in zone {zone}, {crop}, {condition} for {hours} h, {severity}."),
            1 => format!("At {site} the {name} of the {crop} in zone {zone} is {condition}, {value}, {severity}."),
            2 => format!("{severity} report from {site}, zone {zone}, {crop}: {name} {condition} at {value}."),
            3 => format!(
                "site {site} zone {zone} crop {crop} sensor {name} state {condition} level {severity} value {value}"
            ),
            4 => format!("{name} {condition} since {hours} h, {value}; {severity}; {crop}, zone {zone}, {site}."),
            _ => format!("{site} zone {zone} ({crop}): {name} shows {value}, {condition}, {severity}."),
        };
        line + "\n"
    }

    /// The alert that staff expect; it follows from the reading alone.
    pub fn alert(&self) -> String {
        let sensor = self.combination.source.sensor();
        let (place, when) = (format!("{} {}", self.site.zone_word, self.zone), self.severity.when());
        let crop = CROPS[self.combination.crop];
        let part = sensor.part;
        let remark = |(finding, action)| format!("{place}: {finding} on the {crop}, {action} {when}.");
        match (sensor.wording, self.combination.condition) {
            (
                Wording::SensorFirst {
                    label,
                    remedy_low,
                    remedy_high,
                },
                condition,
            ) => {
                let (state, advice) = match condition {
                    Condition::Low => ("low", format!("consider {remedy_low} for the {crop}")),
                    Condition::High => ("high", format!("consider {remedy_high} for the {crop}")),
                    Condition::Falling => ("falling", format!("plan {remedy_low} for the {crop}")),
                    Condition::Rising => ("rising", format!("plan {remedy_high} for the {crop}")),
                    Condition::Unstable => ("unstable", format!("clean the {part}")),
                    Condition::Silent => ("silent", format!("check the {part} cable")),
                };
                format!("{label} {state} in {place}, {advice} {when}.")
            }
            (Wording::PlaceFirst { low, .. }, Condition::Low) => remark(low),
            (Wording::PlaceFirst { high, .. }, Condition::High) => remark(high),
            (Wording::PlaceFirst { falling, .. }, Condition::Falling) => remark(falling),
            (Wording::PlaceFirst { rising, .. }, Condition::Rising) => remark(rising),
            (Wording::PlaceFirst { .. }, Condition::Unstable) => format!("{place}: {part} noisy, wipe it {when}."),
            (Wording::PlaceFirst { .. }, Condition::Silent) => format!("{place}: {part} lost, replace it {when}."),
        }
    }
}

/// Lower third for low and falling readings, upper third for high and rising ones, anywhere otherwise.
fn draw_value(sensor: &Sensor, condition: Condition, rng: &mut ChaCha8Rng) -> String {
    let (low, high) = sensor.range;
    let third = (high - low) / 3;
    let number = match condition {
        Condition::Low | Condition::Falling => rng.random_range(low..=low + third),
        Condition::High | Condition::Rising => rng.random_range(high - third..=high),
        Condition::Unstable | Condition::Silent => rng.random_range(low..=high),
    };
    if sensor.decimal {
        format!("{}.{}", number / 10, number % 10)
    } else {
        number.to_string()
    }
}

fn pick(phrases: &'static [&'static str], rng: &mut ChaCha8Rng) -> &'static str {
    phrases.choose(rng).copied().unwrap_or_default()
}
