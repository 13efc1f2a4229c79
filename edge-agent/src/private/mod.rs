//! What never leaves the device: its examples, and the ledger of what they have paid. One file, so that no crash can part them.

mod contributions;
mod examples;
mod overlay;
mod store;

pub use contributions::{Budgets, Contribution, Offered, PayError, RoundKey};
pub use examples::{Page, StoredExample, TrainingSet};
pub use store::{PrivateStore, StoreError};
