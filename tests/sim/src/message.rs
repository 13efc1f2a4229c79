//! What processes say to each other, and what they mean to do by themselves.

use std::rc::Rc;

use fieldfare_fleet::install::{Installed, Stage};
use fieldfare_fleet::rollout::Observation;
use fieldfare_fleet::{CapabilityProfile, Generation, ReleaseId, VariantName};

/// What desired state says of the deployment to one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) assignment: Generation,
    /// Nothing where the deployment has no release for the device.
    pub(crate) named: Option<(ReleaseId, VariantName)>,
}

/// The whole of what a device shall run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) generation: Generation,
    /// Nothing where nothing can be said yet.
    pub(crate) entry: Option<Entry>,
}

/// From a device to the controller, on its session.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello {
        profile: Rc<CapabilityProfile>,
        observed: Option<Rc<Observation>>,
    },
    Heartbeat,
    Observed(Rc<Observation>),
}

/// From the controller to a device, on its session.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome { fence: u64 },
    Desired(Rc<Desired>),
    Refused,
}

/// What a device means to do.
#[derive(Clone, Debug)]
pub(crate) enum Doing {
    /// The agent starts.
    Boot,
    Connect,
    /// The controller has not answered hello.
    WelcomeDue {
        link: u64,
    },
    Beat {
        link: u64,
    },
    /// The signed metadata say what a release is, or cannot be reached.
    Resolved {
        number: u64,
    },
    /// The release is looked up again.
    LookUp {
        number: u64,
    },
    /// A step of the installation ends.
    StepEnds {
        number: u64,
        stage: Stage,
        install: Rc<Installed>,
    },
    /// A retry or a confirmation may be due.
    Tick,
    /// A process for what serves has started, or not.
    Started {
        number: u64,
        install: Rc<Installed>,
    },
    /// The process that serves dies.
    ServingDies {
        number: u64,
    },
}

/// What the controller means to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Look {
    /// It looks at what is new.
    News,
    /// It starts again.
    Boot,
}

/// What goes wrong, or right again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    DeviceCrashes,
    PowerFails,
    NetworkParts,
    ControllerCrashes,
    BytesChange,
    /// The operator has an idea.
    Whim,
    /// The operator rolls the next release out.
    Deploy,
    /// From now on nothing goes wrong.
    Quiet,
    /// The operator ends what has not ended.
    LastOrder,
}
