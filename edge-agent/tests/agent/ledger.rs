//! `kill -9` in the midst of payments: the ledger never says less than what left the device.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use fieldfare_agent::private::{Contribution, Offered, PayError, PrivateStore};
use fieldfare_fleet::Digest;
use fieldfare_release::Sha256Digest;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::private_store::{budgets, key, mechanism, text};

/// Names the store to the child process; without it the victim below does nothing.
const VICTIM: &str = "FIELDFARE_TEST_LEDGER_VICTIM";

/// Says on standard output that a contribution leaves the device.
const LEAVES: &str = "leaves ";

const CONFIGURATION: Digest = Digest::from_bytes([1; 32]);

/// What round `n` contributes in one process: no two processes train to the same bytes.
fn trained(n: u32, process: u32) -> Vec<u8> {
    format!("round {n} of process {process} ")
        .repeat(500 + n as usize % 7 * 400)
        .into_bytes()
}

fn pay(store: &PrivateStore, n: u32, bytes: &[u8]) -> Result<Contribution, PayError> {
    store.pay(
        &key("gain", n, 1),
        mechanism(20.0),
        budgets(1e4, 1e4),
        5,
        Offered {
            configuration: CONFIGURATION,
            removals: 0,
            bytes,
        },
    )
}

/// Contributions that the store has, from round 1 on.
fn contributions(store: &PrivateStore) -> u32 {
    let has = |n: &u32| store.contribution(&key("gain", *n, 1)).unwrap().is_some();
    (1..).take_while(has).count() as u32
}

/// The child process: it pays for one round after the other and says what leaves, until it is killed.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let store = PrivateStore::open(Path::new(&path)).unwrap();
    let mut out = std::io::stdout();
    for n in contributions(&store).max(1).. {
        // The last round of the process before is trained for again, and must leave with the bytes of then.
        let paid = pay(&store, n, &trained(n, std::process::id())).unwrap();
        writeln!(out, "{LEAVES}{n} {}", Sha256Digest::of(&paid.bytes)).unwrap();
        out.flush().unwrap();
        store.acknowledge(&key("gain", n, 1)).unwrap();
        store.add(&[text("an example that came meanwhile")]).unwrap().unwrap();
    }
}

/// Lets a child work until it has said `count` things, and `spins` longer, and kills it. Gives what left.
fn kill_after(path: &Path, count: usize, spins: u32) -> Vec<(u32, Sha256Digest)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["ledger::victim", "--exact", "--nocapture"])
        .env(VICTIM, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut left = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // The first line begins with the harness's own words; the last may be torn.
        let line = line.unwrap();
        let said = line.split_once(LEAVES).and_then(|(_, said)| said.split_once(' '));
        let Some((n, sha256)) = said.and_then(|(n, sha256)| Some((n.parse().ok()?, sha256.parse().ok()?))) else {
            continue;
        };
        left.push((n, sha256));
        if left.len() == count {
            (0..spins).for_each(|_| std::hint::spin_loop());
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child ended by itself");
    left
}

#[test]
fn kill_minus_nine_never_makes_the_ledger_forget_what_left() {
    let seed = 7;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("private.redb");
    let mut left: std::collections::BTreeMap<u32, Sha256Digest> = std::collections::BTreeMap::new();
    for _ in 0..12 {
        // A payment takes some hundred microseconds to some milliseconds: the kill falls anywhere in it or beside it.
        for (n, sha256) in kill_after(&path, random.random_range(1..12), random.random_range(0..2_000_000)) {
            let before = left.insert(n, sha256);
            assert!(
                before.is_none_or(|before| before == sha256),
                "round {n} left twice, with other bytes"
            );
        }
        let store = PrivateStore::open(&path).unwrap();
        let kept = contributions(&store);
        for (n, sha256) in &left {
            let contribution = store.contribution(&key("gain", *n, 1)).unwrap();
            let bytes = contribution
                .unwrap_or_else(|| panic!("round {n} left and is forgotten"))
                .bytes;
            assert_eq!(Sha256Digest::of(&bytes), *sha256, "round {n}");
        }
        let spent = store.spending(budgets(1e4, 1e4).device.delta()).unwrap();
        assert_eq!(
            spent.charges, kept as usize,
            "a charge and its contribution were torn apart"
        );
        assert!(u64::from(kept) >= left.len() as u64);
        // Another attempt at an old round costs nothing and changes nothing.
        let again = pay(&store, 1, b"other bytes").unwrap();
        assert_eq!(Sha256Digest::of(&again.bytes), left[&1]);
        assert_eq!(store.spending(budgets(1e4, 1e4).device.delta()).unwrap(), spent);
    }
    assert!(left.len() > 12, "the children hardly worked: {left:?}");
}
