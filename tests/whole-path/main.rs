//! The main job with the real binaries: everything that `fieldfare quickstart` promises, and what it refuses.

mod interruption;
mod main_job;
mod on_etcd;
mod own_model;
mod refusals;
