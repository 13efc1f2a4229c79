//! The words of the farm-gateway task: sensors, conditions, severities, crops, sites and what is said about them.

/// One kind of sensor and the words its alerts use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sensor {
    /// Name in a reading, lower case.
    pub name: &'static str,
    /// Name in an alert.
    pub label: &'static str,
    /// Unit of its numbers; empty for dimensionless ones.
    pub unit: &'static str,
    /// Lowest and highest number it shows, in tenths of the unit when `decimal`.
    pub range: (u32, u32),
    /// Whether its numbers carry one decimal place.
    pub decimal: bool,
    /// What helps when the reading is low.
    pub remedy_low: &'static str,
    /// What helps when the reading is high.
    pub remedy_high: &'static str,
    /// The part that is looked after when the sensor itself misbehaves.
    pub part: &'static str,
}

const fn sensor(
    name: &'static str,
    label: &'static str,
    unit: &'static str,
    range: (u32, u32),
    remedies: (&'static str, &'static str),
    part: &'static str,
) -> Sensor {
    Sensor { name, label, unit, range, decimal: false, remedy_low: remedies.0, remedy_high: remedies.1, part }
}

const fn decimal(sensor: Sensor) -> Sensor {
    Sensor { decimal: true, ..sensor }
}

/// The sensors that pretraining text speaks of.
pub const SENSORS: [Sensor; 12] = [
    sensor("soil moisture", "Moisture", "%", (4, 96), ("irrigation", "drainage"), "probe"),
    sensor("soil temperature", "Soil temperature", "C", (2, 41), ("mulch", "shade cloth"), "probe"),
    decimal(sensor("soil ph", "Soil pH", "", (41, 92), ("lime", "sulphur"), "electrode")),
    decimal(sensor("salinity", "Salinity", "dS/m", (3, 88), ("less leaching", "more leaching"), "electrode")),
    sensor("nitrogen", "Nitrogen", "mg/kg", (3, 240), ("fertiliser", "a feeding pause"), "strip"),
    sensor("potassium", "Potassium", "mg/kg", (10, 420), ("potash", "a feeding pause"), "strip"),
    sensor("air humidity", "Humidity", "%", (9, 99), ("misting", "venting"), "filter"),
    sensor("air temperature", "Air temperature", "C", (1, 46), ("heating", "cooling"), "fan"),
    sensor("light", "Light", "klx", (1, 110), ("lamps", "screens"), "lens"),
    sensor("wind", "Wind", "m/s", (1, 29), ("open vents", "windbreaks"), "mast"),
    sensor("tank level", "Tank level", "%", (2, 99), ("refilling", "a valve check"), "float"),
    sensor("carbon dioxide", "Carbon dioxide", "ppm", (210, 1900), ("enrichment", "airflow"), "cell"),
];

/// The sensor that every device has seen and the pretraining text has not.
pub const LEAF_WETNESS: Sensor =
    sensor("leaf wetness", "Leaf wetness", "min", (0, 720), ("dry leaves", "wet leaves"), "plate");

/// What a reading says about its sensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Below the range that the crop needs.
    Low,
    /// Above the range that the crop needs.
    High,
    /// Inside the range and going down.
    Falling,
    /// Inside the range and going up.
    Rising,
    /// Numbers that jump about.
    Unstable,
    /// No numbers for a while.
    Silent,
}

impl Condition {
    /// All conditions, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::Low, Self::High, Self::Falling, Self::Rising, Self::Unstable, Self::Silent];

    /// The ways in which readings say this condition.
    pub fn phrases(self) -> &'static [&'static str] {
        match self {
            Self::Low => &["low", "too low", "below range"],
            Self::High => &["high", "too high", "above range"],
            Self::Falling => &["falling", "dropping"],
            Self::Rising => &["rising", "climbing"],
            Self::Unstable => &["unstable", "jumping"],
            Self::Silent => &["silent", "not reporting"],
        }
    }
}

/// How much a reading matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It can wait for days.
    Minor,
    /// It can wait for hours.
    Moderate,
    /// It cannot wait.
    Severe,
}

impl Severity {
    /// All severities, least first.
    pub const ALL: [Self; 3] = [Self::Minor, Self::Moderate, Self::Severe];

    /// The ways in which readings say this severity.
    pub fn phrases(self) -> &'static [&'static str] {
        match self {
            Self::Minor => &["minor", "slight"],
            Self::Moderate => &["moderate", "notable"],
            Self::Severe => &["severe", "critical"],
        }
    }

    /// When an alert of this severity asks to act.
    pub fn when(self) -> &'static str {
        match self {
            Self::Minor => "this week",
            Self::Moderate => "today",
            Self::Severe => "now",
        }
    }
}

/// The crops, in text order.
pub const CROPS: [&str; 24] = [
    "maize", "wheat", "barley", "oats", "beans", "peas", "onions", "garlic", "carrots", "beetroot", "tomatoes",
    "peppers", "lettuce", "spinach", "cabbage", "leeks", "potatoes", "squash", "melons", "apples", "pears", "plums",
    "grapes", "hops",
];

/// A place with a gateway, and the word its staff use for a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Name in a reading: lower case, words joined by hyphens.
    pub name: &'static str,
    /// What the staff call a zone.
    pub zone_word: &'static str,
}

const fn site(name: &'static str, zone_word: &'static str) -> Site {
    Site { name, zone_word }
}

/// The sites that pretraining text speaks of.
pub const SITES: [Site; 20] = [
    site("north-orchard", "Row"),
    site("south-orchard", "Row"),
    site("mill-lane", "Zone"),
    site("river-farm", "Field"),
    site("hill-farm", "Field"),
    site("west-gate", "Zone"),
    site("east-gate", "Zone"),
    site("glass-house", "Bed"),
    site("old-barn", "Plot"),
    site("long-acre", "Plot"),
    site("church-field", "Field"),
    site("stone-bridge", "Zone"),
    site("pond-side", "Bed"),
    site("wood-edge", "Row"),
    site("lower-meadow", "Field"),
    site("upper-meadow", "Field"),
    site("station-yard", "Bay"),
    site("market-garden", "Bed"),
    site("red-house", "Bay"),
    site("white-house", "Plot"),
];

/// The five sites whose gateways are the demonstration's devices, named after them.
pub const DEVICE_SITES: [Site; 5] = [
    site("raspberry-pi-5", "Bed"),
    site("jetson-orin-nx", "Row"),
    site("m2-pro-laptop", "Field"),
    site("snapdragon-phone", "Plot"),
    site("intel-npu", "Bay"),
];

/// Highest zone number; zones start at 1.
pub const ZONES: u32 = 12;
