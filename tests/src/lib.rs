//! What the end-to-end tests share: the real binaries, a folder of their own, and the data they run on.

pub mod binaries;
pub mod data;
pub mod environment;
pub mod fates;
pub mod miniature;
pub mod network;
pub mod plan;
pub mod power;
pub mod quickstart;
pub mod supervised;
