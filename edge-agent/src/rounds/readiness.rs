//! Whether the device could train now: what it tells the controller, and what it asks itself at an invitation.

use fieldfare_fleet::ByteSize;
use fieldfare_proto::v1::TrainingReadiness;
use tokio::sync::watch;

use crate::clock;
use crate::config::{Consent, Moment, Settings};
use crate::measure;

/// Looks at the owner's settings and at the machine.
#[derive(Debug)]
pub struct Readiness {
    settings: watch::Receiver<Settings>,
    /// Memory of the machine, or of the one that it pretends to be.
    memory: ByteSize,
    said: watch::Sender<TrainingReadiness>,
}

fn hour_utc() -> u8 {
    u8::try_from(clock::now().unix_ms() / 3_600_000 % 24).unwrap_or(0)
}

fn moment() -> Moment {
    Moment {
        load_per_core: measure::load_per_core(),
        hour_utc: hour_utc(),
    }
}

/// Whether two sayings differ in what anybody acts on.
fn is_news(known: &TrainingReadiness, now: &TrainingReadiness) -> bool {
    let flags = |said: &TrainingReadiness| (said.consent, said.idle, said.busy);
    let (a, b) = (known.available_memory_bytes, now.available_memory_bytes);
    flags(known) != flags(now) || a.abs_diff(b) > a.max(b) / 8
}

impl Readiness {
    /// Readiness under these settings, on a machine with this memory.
    pub fn new(settings: watch::Receiver<Settings>, memory: ByteSize) -> Self {
        let readiness = Self {
            settings,
            memory,
            said: watch::Sender::new(TrainingReadiness::default()),
        };
        readiness.look(false);
        readiness
    }

    /// What is said, as it changes.
    pub fn subscribe(&self) -> watch::Receiver<TrainingReadiness> {
        self.said.subscribe()
    }

    /// The owner's settings now.
    pub fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    /// Memory that a training process could have now.
    pub fn memory(&self) -> ByteSize {
        measure::available_memory().min(self.memory)
    }

    /// Whether the owner's policy calls the device idle now.
    pub fn is_idle(&self) -> bool {
        self.settings().idle.allows(moment())
    }

    /// Looks anew, and says so where something changed.
    pub fn look(&self, busy: bool) {
        // Looked at once: whoever looks again while the owner's change waits would wait for it, and it for them.
        let settings = self.settings();
        let now = TrainingReadiness {
            consent: settings.consent == Consent::Given,
            idle: settings.idle.allows(moment()),
            available_memory_bytes: self.memory().get(),
            busy,
        };
        self.said.send_if_modified(|known| {
            let news = is_news(known, &now);
            if news {
                *known = now;
            }
            news
        });
    }

    /// Waits until the owner changed something.
    pub async fn settings_changed(&mut self) {
        if self.settings.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_of_memory_are_no_news() {
        let said = |busy, available_memory_bytes| TrainingReadiness {
            consent: true,
            idle: true,
            available_memory_bytes,
            busy,
        };
        for (now, news) in [
            (said(false, 1000), false),
            (said(false, 950), false),
            (said(false, 800), true),
            (said(true, 1000), true),
        ] {
            assert_eq!(is_news(&said(false, 1000), &now), news, "{now:?}");
        }
    }

    #[test]
    fn looking_and_changing_settings_do_not_wait_for_each_other() {
        let (owner, settings) = watch::channel(Settings::new(Consent::Given, ByteSize::new(1 << 30)));
        let readiness = Readiness::new(settings, ByteSize::new(1 << 30));
        let (done, both) = std::sync::mpsc::sync_channel(2);
        let looked = done.clone();
        std::thread::spawn(move || {
            (0..5_000).for_each(|turn| readiness.look(turn % 2 == 0));
            looked.send(()).unwrap();
        });
        std::thread::spawn(move || {
            (0..50_000).for_each(|_| owner.send_modify(|_| ()));
            done.send(()).unwrap();
        });
        for _ in 0..2 {
            let in_time = both.recv_timeout(std::time::Duration::from_secs(60));
            in_time.expect("neither waits for the other");
        }
    }
}
