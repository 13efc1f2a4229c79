//! The farm-gateway task: soil-sensor readings in, a one-line alert for field staff out.
//!
//! Everything here is a function of a seed. [`corpus`] writes what the base model is pretrained on; [`datasets`] writes
//! what the five devices hold: readings of a sensor that the base has never seen, whose alerts are worded in a way of their
//! own, each device with its site's word for a zone, which follows from the site's name in the prompt. A combination of sensor, crop and condition belongs either to training or to held-out text, never to both.

pub mod corpus;
pub mod datasets;
mod diary;
mod reading;
pub mod vocabulary;

pub use reading::{Combination, Example, Reading, Source};

#[cfg(test)]
mod tests;
