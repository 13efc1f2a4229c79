//! Sums over what is kept: exact in any order, and never over bytes that changed.

use fieldfare_privacy::ExactSum;
use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Real encoded contributions, kept and summed by the service's own code: the sum is that of the levels, whatever the order
    /// in which they arrived and the devices they came from.
    #[test]
    fn the_sum_over_the_accepted_set_is_exact_in_any_order(
        updates in prop::collection::vec(prop::collection::vec(-0.6f32..0.6, ENTRIES), 1..12),
        rotation in 0usize..12,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = ContributionStore::open(folder.path(), &round_id(1)).unwrap();
        let encoded: Vec<Vec<u8>> = updates.iter().map(|update| codec().encode(update).unwrap().bytes).collect();
        let mut accepted = BTreeMap::new();
        for index in 0..encoded.len() {
            let at = (index + rotation) % encoded.len();
            store.put(&device_id(at as u8), &encoded[at]).unwrap();
            accepted.insert(device_id(at as u8), sha256(&encoded[at]));
        }
        // One more is on disk and not accepted: it does not count.
        store.put(&device_id(200), &encoded[0]).unwrap();
        let found = sum(&store, codec(), &accepted, &Stop::new()).unwrap();
        let mut backwards = ExactSum::new(codec());
        for bytes in encoded.iter().rev() {
            backwards.add(bytes).unwrap();
        }
        prop_assert_eq!(found.levels(), backwards.levels());
        prop_assert_eq!(found.count() as usize, encoded.len());
        let expected: Vec<i64> = (0..ENTRIES)
            .map(|entry| encoded.iter().map(|bytes| level(&bytes[3 * entry..3 * entry + 3])).sum())
            .collect();
        prop_assert_eq!(found.levels(), expected.as_slice());
    }
}

#[test]
fn a_contribution_that_changed_on_disk_is_never_summed() {
    let folder = tempfile::tempdir().unwrap();
    let store = ContributionStore::open(folder.path(), &round_id(1)).unwrap();
    let bytes = update(1);
    store.put(&device_id(1), &bytes).unwrap();
    let accepted = BTreeMap::from([(device_id(1), sha256(&bytes))]);
    let path = folder
        .path()
        .join("contributions/round-1.attempt-1")
        .join(device_id(1).to_string());
    std::fs::write(path, update(2)).unwrap();
    let error = sum(&store, codec(), &accepted, &Stop::new()).unwrap_err();
    assert!(error.to_string().contains("on disk is"), "{error}");
}
