//! What processes say to each other, and what they mean to do by themselves.

use std::rc::Rc;

use fieldfare_fleet::install::{Installed, Stage};
use fieldfare_fleet::rollout::{Entry, Observation};
use fieldfare_fleet::round::Decline;
use fieldfare_fleet::{CapabilityProfile, Generation, RoundId, VariantName};

use crate::round::Ticket;

/// The whole of what a device shall run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) generation: Generation,
    /// Nothing where nothing can be said yet.
    pub(crate) entry: Option<Entry<VariantName>>,
}

/// Whether a device could train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) consent: bool,
    pub(crate) busy: bool,
}

/// From a device to the controller, on its session.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello {
        profile: Rc<CapabilityProfile>,
        observed: Option<Rc<Observation>>,
        ready: Readiness,
    },
    Heartbeat(Readiness),
    Observed(Rc<Observation>),
    /// It will not contribute to a round.
    Declined {
        round: Rc<RoundId>,
        reason: Decline,
    },
}

/// From the controller to a device, on its session.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome { fence: u64 },
    Desired(Rc<Desired>),
    Invitation(Rc<Ticket>),
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
    /// Training ends.
    Trained {
        number: u64,
    },
    /// The trainer has not answered, or is to be asked again.
    KnockAgain {
        number: u64,
    },
    /// The round is over.
    RoundOver {
        round: Rc<RoundId>,
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

/// What a trainer means to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// It starts again.
    Boot,
    /// It asks for work.
    Claim,
    /// It renews its claim.
    Renew,
    /// It asks again what was not answered.
    Repeat { number: u64 },
    /// A deadline of the round may be due.
    Tick,
    /// It asks again for a cohort.
    Reopen { number: u64 },
    /// A sum or an evaluation is done.
    Computed { number: u64 },
}

/// What goes wrong, or right again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    DeviceCrashes,
    PowerFails,
    NetworkParts,
    ControllerCrashes,
    BytesChange,
    TrainerCrashes,
    /// The owner of a device takes examples back, or consent.
    OwnerChanges,
    /// Somebody who can sign tickets lies to a device.
    ServerLies,
    /// The operator starts a federated job.
    StartJob,
    /// The operator has an idea.
    Whim,
    /// The operator rolls the next release out.
    Deploy,
    /// From now on nothing goes wrong.
    Quiet,
    /// The operator ends what has not ended.
    LastOrder,
}
