//! Imports models and runs federated rounds for a controller.

pub mod farm;
pub mod pretrain;
