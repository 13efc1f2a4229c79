//! The main job with the real binaries: everything that `fieldfare quickstart` promises, and what it refuses.

mod interruption;
mod main_job;
mod own_model;
mod refusals;
