//! The supervisor's end of sd_notify(3).

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use fieldfare_tests::miniature::PROCESS;

/// How often a supervisor wants to hear from a process.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(2);

/// How long anything that a process says may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines, by the name of who said them.
type Said = BTreeMap<String, Vec<String>>;

/// What each process has said so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notified {
    folder: PathBuf,
    said: Arc<(Mutex<Said>, Condvar)>,
}

impl Notified {
    /// Listens to processes of these names, in a folder whose path is short.
    pub(crate) fn listen<'a>(folder: &Path, names: impl IntoIterator<Item = &'a str>) -> Self {
        let notified = Self {
            folder: folder.to_owned(),
            ..Self::default()
        };
        for name in names {
            let socket = UnixDatagram::bind(notified.socket(name)).unwrap();
            let (said, name) = (Arc::clone(&notified.said), name.to_owned());
            // It ends with the test.
            std::thread::spawn(move || {
                let mut datagram = [0; 4096];
                while let Ok(length) = socket.recv(&mut datagram) {
                    let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                    let lines = text.lines().map(str::to_owned);
                    said.0.lock().unwrap().entry(name.clone()).or_default().extend(lines);
                    said.1.notify_all();
                }
            });
        }
        notified
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What systemd tells the processes in their environment.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        vec![
            ("NOTIFY_SOCKET".to_owned(), self.socket(PROCESS).display().to_string()),
            ("WATCHDOG_USEC".to_owned(), WATCHDOG.as_micros().to_string()),
        ]
    }

    /// How often a process has said something that begins so.
    pub(crate) fn count(&self, name: &str, beginning: &str) -> usize {
        let said = self.said.0.lock().unwrap();
        count(&said, name, beginning)
    }

    /// Waits until a process has said something that begins so this often.
    pub(crate) fn until(&self, name: &str, beginning: &str, times: usize) {
        let said = self.said.0.lock().unwrap();
        let (said, late) = self
            .said
            .1
            .wait_timeout_while(said, PATIENCE, |said| count(said, name, beginning) < times)
            .unwrap();
        assert!(
            !late.timed_out(),
            "{name} said {beginning} less than {times} times: {said:?}"
        );
    }
}

fn count(said: &Said, name: &str, beginning: &str) -> usize {
    let said = said.get(name).into_iter().flatten();
    said.filter(|line| line.starts_with(beginning)).count()
}
