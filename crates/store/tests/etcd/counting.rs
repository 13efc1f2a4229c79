//! Writers whose every answer counts: one counter that all of them increment, a line in a log for each increment, and a key of each
//! writer's own that it puts without any condition, so that nothing but the store keeps a repetition from happening.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fieldfare_store::{Change, Commit, Condition, Key, Prefix, Revision, Store, Watch};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{key, prefix};

/// Longer than anything here takes; a test that waits for more has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What a writer was told.
struct Writer {
    name: usize,
    /// Races that it lost.
    lost: u64,
    /// Puts without a condition.
    puts: u64,
}

/// Where the writers are.
pub(crate) struct Counting {
    acknowledged: watch::Sender<u64>,
    stop: Arc<AtomicBool>,
    writers: JoinSet<Writer>,
}

impl Counting {
    /// Each store's writer increments the counter; they lose races to one another all the time.
    pub(crate) fn start(stores: Vec<Store>) -> Counting {
        let acknowledged = watch::Sender::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for (name, store) in stores.into_iter().enumerate() {
            let (acknowledged, stop) = (acknowledged.clone(), Arc::clone(&stop));
            writers.spawn(async move {
                let mut writer = Writer { name, lost: 0, puts: 0 };
                while !stop.load(Ordering::Relaxed) {
                    if increment(&store, name).await {
                        acknowledged.send_modify(|count| *count += 1);
                    } else {
                        writer.lost += 1;
                    }
                    writer.puts += 1;
                    let put = Commit::new().put(own(name), writer.puts.to_string());
                    assert!(store.commit(put).await.unwrap().is_committed());
                }
                writer
            });
        }
        Counting {
            acknowledged,
            stop,
            writers,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until that many more increments are acknowledged.
    pub(crate) async fn more(&self, increments: u64) {
        let goal = self.count() + increments;
        let mut acknowledged = self.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|count| *count >= goal);
        tokio::time::timeout(PATIENCE, reached).await.unwrap().unwrap();
    }

    /// Stops the writers; what is in `store` must be what they were told. Gives back how often a race was lost.
    pub(crate) async fn finish(self, store: &Store) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let writers = self.writers.join_all().await;
        for writer in &writers {
            let own = store.get(&own(writer.name)).await.unwrap().unwrap();
            assert_eq!(own.value, writer.puts.to_string());
            assert_eq!(own.version, writer.puts, "a put happened twice");
        }
        let acknowledged = *self.acknowledged.borrow();
        let counter = store.get(&key("/count/counter")).await.unwrap().unwrap();
        assert_eq!(
            counter.value,
            acknowledged.to_string(),
            "the answers and the store disagree"
        );
        assert_eq!(counter.version, acknowledged);
        let log = store.list_all(&log()).await.unwrap().entries;
        assert_eq!(log.len() as u64, acknowledged);
        assert!(
            log.iter()
                .all(|line| line.version == 1 && line.created == line.modified)
        );
        writers.iter().map(|writer| writer.lost).sum()
    }
}

fn own(writer: usize) -> Key {
    key(format!("/count/own/{writer}"))
}

fn log() -> Prefix {
    prefix("/count/log/")
}

/// Whether this attempt won. The revision that the store tells is the one that the entry has.
async fn increment(store: &Store, writer: usize) -> bool {
    let name = key("/count/counter");
    let before = store.get(&name).await.unwrap();
    let at = before.as_ref().map_or(Revision::ZERO, |entry| entry.modified);
    let count: u64 = before.map_or(0, |entry| str::from_utf8(&entry.value).unwrap().parse().unwrap());
    let line = log().key(format!("{:06}", count + 1)).unwrap();
    let commit = Commit::new()
        .expect(Condition::ModRevision(name.clone(), at))
        .expect(Condition::Absent(line.clone()))
        .put(name, (count + 1).to_string())
        .put(line.clone(), writer.to_string());
    let Ok(revision) = store.commit(commit).await.unwrap().committed() else {
        return false;
    };
    let logged = store.get(&line).await.unwrap().unwrap();
    assert_eq!((logged.modified, logged.value), (revision, writer.to_string().into()));
    true
}

/// Follows the log from its first line to the line `count`: each is told once, and in order.
pub(crate) async fn follow(watch: &mut Watch, count: u64) {
    for expected in 1..=count {
        let changes = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        let told: Vec<_> = changes.changes.iter().map(Change::key).collect();
        assert_eq!(told, [&log().key(format!("{expected:06}")).unwrap()]);
    }
}

pub(crate) async fn watch_log(store: &Store) -> Watch {
    store.watch(&log(), Revision::ZERO).await.unwrap()
}
