//! Vocabulary and deciders of a fleet: placement, rollout, round, install. Pure.
