//! `fieldfare-agent doctor`: looks at everything that a device needs, and says what to do about what it finds.
//!
//! It changes nothing, takes no lock that an agent needs, and works whether an agent runs in the folder or not. What a running agent
//! has to itself (its ledger, the release that serves) it is asked for.

mod credentials;
mod kept;
mod network;
mod place;
mod presence;
mod release;

use fieldfare_fleet::Timestamp;
use fieldfare_member::diagnosis::{Diagnosis, problem};
use fieldfare_tls::Identity;

use crate::clock;
use crate::config::{AgentConfig, Settings};
use crate::folder::Folder;
use crate::process::{self, Binary};
use network::Reached;
use presence::Presence;

/// An enrolled device, and what is known of it before anything is judged.
struct Patient<'a> {
    folder: &'a Folder,
    binary: &'a Binary,
    settings: Settings,
    /// Nothing where it cannot be used, which has been said.
    identity: Option<Identity>,
    presence: Presence,
    reached: Reached,
    /// By the clock of this machine.
    now: Timestamp,
}

impl Patient<'_> {
    /// The best that is known of the time: the controller's, or this machine's where it is not behind what is proven.
    fn probable_time(&self) -> Timestamp {
        self.reached.server_time().unwrap_or(self.now)
    }
}

/// Looks at the device of a folder.
pub async fn examine(folder: &Folder, binary: &Binary) -> Diagnosis {
    let (config, settings) = match (AgentConfig::load(folder), Settings::load(folder)) {
        (Ok(config), Ok(settings)) => (config, settings),
        (Err(error), _) | (_, Err(error)) => {
            let advice = "is this the folder of an enrolled device? A file that was damaged comes back from a backup alone; without \
                one enrol this device anew in another folder";
            return Diagnosis::of(vec![problem("enrolment", process::chain(&error), advice)]);
        }
    };
    let now = clock::now();
    let (identity, mut checks) = credentials::identity(folder);
    let presence = presence::look(folder).await;
    let reached = match &identity {
        Some(identity) => network::reach(folder, &config, identity, now).await,
        None => Reached::default(),
    };
    let patient = Patient {
        folder,
        binary,
        settings,
        identity,
        presence,
        reached,
        now,
    };
    checks.insert(0, credentials::clock(&patient));
    checks.extend(credentials::certificate(&patient));
    checks.push(place::disk(&patient));
    checks.push(place::api(&patient).await);
    checks.extend(network::metadata(&patient));
    checks.push(release::installed(&patient).await);
    checks.push(kept::ledger(&patient).await);
    checks.push(kept::audit(&patient).await);
    checks.extend(network::controllers(&patient));
    Diagnosis::of(checks)
}
