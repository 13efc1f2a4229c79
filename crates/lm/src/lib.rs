//! Language models: GGUF, tokenizers, a candle engine, burn LoRA training, adapters, quantisation.
//!
//! [`gguf`], [`config`], [`example`], [`tokenizer`], [`adapter`] and [`memory`] need neither candle nor burn: a program that only looks at
//! models links them alone. Feature `engine` adds inference, quantisation and speed probes; feature `train` adds training.

pub mod adapter;
pub mod config;
#[cfg(feature = "engine")]
pub mod engine;
pub mod example;
pub mod gguf;
pub mod limits;
pub mod memory;
#[cfg(feature = "engine")]
pub mod quantize;
#[cfg(feature = "engine")]
pub mod speed;
pub mod tokenizer;

#[cfg(test)]
mod test_data;

#[cfg(feature = "train")]
pub mod train;
