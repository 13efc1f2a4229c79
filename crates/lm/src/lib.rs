//! Language models: GGUF, tokenizers, a candle engine, burn LoRA training, adapters, quantisation.
//!
//! [`gguf`], [`config`], [`tokenizer`], [`adapter`] and [`memory`] need neither candle nor burn: a program that only looks at
//! models links them alone. Feature `engine` adds [`engine`], [`quantize`] and [`speed`]; feature `train` adds [`train`].

pub mod adapter;
pub mod config;
pub mod gguf;
pub mod limits;
pub mod tokenizer;

#[cfg(feature = "train")]
pub mod train;
