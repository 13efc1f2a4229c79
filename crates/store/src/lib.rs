//! The state store: one contract, redb behind it.
