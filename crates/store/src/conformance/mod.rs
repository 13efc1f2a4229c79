//! The contract as tests, for every implementation to pass.
//!
//! Each case is an async function of `open`, which opens one and the same store whenever it is called: empty at the
//! first call, and with what the earlier ones left at each later one. A case panics where the contract is broken. Nobody else may use the
//! store meanwhile, but the revisions may have gaps.
//! [`conformance_tests!`](crate::conformance_tests) makes one test of each case. Cases wait by the clock of tokio: with
//! paused time they take no time, against a real server they take a few seconds.
#![expect(clippy::unwrap_used, reason = "a suite of tests: the panic is the verdict")]

mod commits;
mod leases;
mod listings;
mod watches;

use bytes::Bytes;

use crate::{Change, Commit, Key, Prefix, Revision, Store};

pub use commits::{
    a_commit_at_all_limits_at_once_is_one_commit, a_commit_happens_as_a_whole_or_not_at_all,
    a_racing_writer_never_overwrites_what_it_has_not_read, an_acknowledged_commit_is_there_after_reopening,
    commits_at_the_limits_succeed_and_past_them_are_refused, each_condition_holds_when_it_says,
    entries_tell_their_history,
};
pub use leases::{
    a_commit_conditioned_on_a_dead_lease_is_refused, a_key_leaves_its_lease_when_it_is_put_without,
    an_expired_lease_deletes_its_keys_and_tells_watchers,
};
pub use listings::{
    a_continuation_is_refused_with_another_prefix, all_pages_of_a_listing_show_one_revision_while_writers_go_on,
    large_values_come_in_short_pages_and_whole,
};
pub use watches::{
    a_cancelled_wait_loses_nothing, a_closed_store_ends_its_clones_and_watches,
    a_compacted_deletion_is_answered_and_not_left_out, a_watch_ahead_of_the_store_is_refused,
    a_watch_from_an_old_revision_misses_nothing_and_repeats_nothing, a_watch_sees_past_changes_elsewhere,
    a_watch_tells_the_largest_revisions_whole, a_watch_tells_whole_revisions_below_its_prefix_only,
    compaction_answers_compacted_and_never_skips,
};

/// Makes one `#[test]` of each case, in the module where it is called.
///
/// The attributes in brackets are what runs an async test; the expression is called in each test and gives that test's `open`, an
/// async closure. It may return anything else to keep alive in a tuple's second place.
#[macro_export]
macro_rules! conformance_tests {
    (@cases $attributes:tt $subject:expr; $($case:ident)*) => {
        $($crate::conformance_tests! { @case $attributes $subject; $case })*
    };
    (@case [$(#[$attribute:meta])*] $subject:expr; $case:ident) => {
        $(#[$attribute])*
        async fn $case() {
            let (open, _kept) = $subject;
            $crate::conformance::$case(open).await;
        }
    };
    ([$(#[$attribute:meta])*] $subject:expr) => {
        $crate::conformance_tests! { @cases [$(#[$attribute])*] $subject;
            a_commit_at_all_limits_at_once_is_one_commit
            a_commit_happens_as_a_whole_or_not_at_all
            a_racing_writer_never_overwrites_what_it_has_not_read
            an_acknowledged_commit_is_there_after_reopening
            commits_at_the_limits_succeed_and_past_them_are_refused
            each_condition_holds_when_it_says
            entries_tell_their_history
            a_commit_conditioned_on_a_dead_lease_is_refused
            a_key_leaves_its_lease_when_it_is_put_without
            an_expired_lease_deletes_its_keys_and_tells_watchers
            a_continuation_is_refused_with_another_prefix
            all_pages_of_a_listing_show_one_revision_while_writers_go_on
            large_values_come_in_short_pages_and_whole
            a_cancelled_wait_loses_nothing
            a_compacted_deletion_is_answered_and_not_left_out
            a_watch_sees_past_changes_elsewhere
            a_watch_tells_the_largest_revisions_whole
            a_closed_store_ends_its_clones_and_watches
            a_watch_ahead_of_the_store_is_refused
            a_watch_from_an_old_revision_misses_nothing_and_repeats_nothing
            a_watch_tells_whole_revisions_below_its_prefix_only
            compaction_answers_compacted_and_never_skips
        }
    };
}

fn key(text: impl AsRef<str>) -> Key {
    Key::new(text).unwrap()
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).unwrap()
}

async fn put(store: &Store, name: &str, value: impl Into<Bytes>) -> Revision {
    store
        .commit(Commit::new().put(key(name), value))
        .await
        .unwrap()
        .committed()
        .unwrap()
}

async fn value(store: &Store, name: &str) -> Option<Bytes> {
    store.get(&key(name)).await.unwrap().map(|entry| entry.value)
}

/// The keys that changes deleted; panics at a put.
fn deleted(changes: &[Change]) -> Vec<&str> {
    let names = changes.iter().map(|change| match change {
        Change::Deleted(key) => key.as_str(),
        Change::Put(entry) => panic!("{} was put, not deleted", entry.key),
    });
    names.collect()
}
