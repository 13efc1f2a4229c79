//! The words of the farm-gateway task: sensors, conditions, severities, crops, sites and what is said about them.

/// One kind of sensor and the words its alerts use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sensor {
    /// Name in a reading, lower case.
    pub name: &'static str,
    /// Unit of its numbers; empty for dimensionless ones.
    pub unit: &'static str,
    /// Lowest and highest number it shows, in tenths of the unit when `decimal`.
    pub range: (u32, u32),
    /// Whether its numbers carry one decimal place.
    pub decimal: bool,
    /// The part that is looked after when the sensor itself misbehaves.
    pub part: &'static str,
    /// How alerts about the crop are worded.
    pub wording: Wording,
}

/// The two ways in which alerts are worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wording {
    /// The sensor first: "Moisture low in Zone 3, consider irrigation for the maize today."
    SensorFirst {
        /// Name in an alert.
        label: &'static str,
        /// What helps when the reading is low.
        remedy_low: &'static str,
        /// What helps when the reading is high.
        remedy_high: &'static str,
    },
    /// The place first: "Zone 3: weak drip on the maize, check the pump today."
    PlaceFirst {
        /// What is found and what is to be done when the reading is low.
        low: Remark,
        /// The same when it is high.
        high: Remark,
        /// The same when it is falling.
        falling: Remark,
        /// The same when it is rising.
        rising: Remark,
    },
}

/// A finding and an action.
pub type Remark = (&'static str, &'static str);

const fn sensor_first(
    name: &'static str,
    label: &'static str,
    unit: &'static str,
    range: (u32, u32),
    (remedy_low, remedy_high): (&'static str, &'static str),
    part: &'static str,
) -> Sensor {
    let wording = Wording::SensorFirst {
        label,
        remedy_low,
        remedy_high,
    };
    Sensor {
        name,
        unit,
        range,
        decimal: false,
        part,
        wording,
    }
}

const fn place_first(
    name: &'static str,
    unit: &'static str,
    range: (u32, u32),
    [low, high, falling, rising]: [Remark; 4],
    part: &'static str,
) -> Sensor {
    let wording = Wording::PlaceFirst {
        low,
        high,
        falling,
        rising,
    };
    Sensor {
        name,
        unit,
        range,
        decimal: false,
        part,
        wording,
    }
}

const fn decimal(sensor: Sensor) -> Sensor {
    Sensor {
        decimal: true,
        ..sensor
    }
}

/// The sensors that pretraining text speaks of.
pub const SENSORS: [Sensor; 18] = [
    sensor_first(
        "soil moisture",
        "Moisture",
        "%",
        (4, 96),
        ("irrigation", "drainage"),
        "probe",
    ),
    sensor_first(
        "soil temperature",
        "Soil temperature",
        "C",
        (2, 41),
        ("mulch", "shade cloth"),
        "probe",
    ),
    decimal(sensor_first(
        "soil ph",
        "Soil pH",
        "",
        (41, 92),
        ("lime", "sulphur"),
        "electrode",
    )),
    decimal(sensor_first(
        "salinity",
        "Salinity",
        "dS/m",
        (3, 88),
        ("less leaching", "more leaching"),
        "electrode",
    )),
    sensor_first(
        "nitrogen",
        "Nitrogen",
        "mg/kg",
        (3, 240),
        ("fertiliser", "a feeding pause"),
        "strip",
    ),
    sensor_first(
        "potassium",
        "Potassium",
        "mg/kg",
        (10, 420),
        ("potash", "a feeding pause"),
        "strip",
    ),
    sensor_first(
        "air humidity",
        "Humidity",
        "%",
        (9, 99),
        ("misting", "venting"),
        "filter",
    ),
    sensor_first(
        "air temperature",
        "Air temperature",
        "C",
        (1, 46),
        ("heating", "cooling"),
        "fan",
    ),
    sensor_first("light", "Light", "klx", (1, 110), ("lamps", "screens"), "lens"),
    sensor_first("wind", "Wind", "m/s", (1, 29), ("open vents", "windbreaks"), "mast"),
    sensor_first(
        "tank level",
        "Tank level",
        "%",
        (2, 99),
        ("refilling", "a valve check"),
        "float",
    ),
    sensor_first(
        "carbon dioxide",
        "Carbon dioxide",
        "ppm",
        (210, 1900),
        ("enrichment", "airflow"),
        "cell",
    ),
    place_first(
        "drip pressure",
        "kPa",
        (20, 260),
        [
            ("weak drip", "check the pump"),
            ("strong drip", "open the valve"),
            ("fading drip", "look for leaks"),
            ("building drip", "stop the pump"),
        ],
        "gauge",
    ),
    place_first(
        "trap count",
        "moths",
        (0, 90),
        [
            ("few moths", "move the traps"),
            ("many moths", "scout for eggs"),
            ("leaving moths", "delay the spray"),
            ("new moths", "prepare the spray"),
        ],
        "camera",
    ),
    place_first(
        "frost depth",
        "mm",
        (1, 140),
        [
            ("thin frost", "lift the fleece"),
            ("deep frost", "add the fleece"),
            ("thawing frost", "stop the heaters"),
            ("spreading frost", "start the heaters"),
        ],
        "stake",
    ),
    place_first(
        "root oxygen",
        "%",
        (2, 21),
        [
            ("starved roots", "stop the water"),
            ("airy roots", "resume the water"),
            ("choking roots", "loosen the soil"),
            ("recovering roots", "wait for growth"),
        ],
        "membrane",
    ),
    place_first(
        "stem flow",
        "g/h",
        (1, 190),
        [
            ("thirsty stems", "start the drip"),
            ("busy stems", "resume the feed"),
            ("slowing stems", "look for rot"),
            ("waking stems", "prepare the feed"),
        ],
        "collar",
    ),
    place_first(
        "canopy cover",
        "%",
        (5, 98),
        [
            ("bare canopy", "fill the gaps"),
            ("dense canopy", "prune the shoots"),
            ("thinning canopy", "scout for mites"),
            ("closing canopy", "thin the fruit"),
        ],
        "drone",
    ),
];

/// The sensor that every device has seen and the pretraining text has not.
pub const LEAF_WETNESS: Sensor = place_first(
    "leaf wetness",
    "min",
    (0, 720),
    [
        ("dry leaves", "start the misters"),
        ("wet leaves", "scout for mildew"),
        ("drying leaves", "stop the fans"),
        ("dripping leaves", "start the fans"),
    ],
    "plate",
);

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
    pub const ALL: [Self; 6] = [
        Self::Low,
        Self::High,
        Self::Falling,
        Self::Rising,
        Self::Unstable,
        Self::Silent,
    ];

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

/// The five sites whose gateways are the demonstration's devices, named after them.
pub const DEVICE_SITES: [Site; 5] = [
    site("raspberry-pi-5", "Bed"),
    site("jetson-orin-nx", "Row"),
    site("m2-pro-laptop", "Field"),
    site("snapdragon-phone", "Plot"),
    site("intel-npu", "Bay"),
];

/// Other sites of the same farm group; pretraining text speaks of these and of [`DEVICE_SITES`].
pub const OTHER_SITES: [Site; 20] = [
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

/// Highest zone number; zones start at 1.
pub const ZONES: u32 = 12;
