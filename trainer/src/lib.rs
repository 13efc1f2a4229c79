//! Imports models and runs federated rounds for a controller.
