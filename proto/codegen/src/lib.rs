//! Generates the code of `fieldfare-proto`: see `tests/fresh.rs`.
