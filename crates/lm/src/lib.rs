//! Language models: GGUF, tokenizers, a candle engine, burn LoRA training, adapters, quantisation.
