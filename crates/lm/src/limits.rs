//! Every bound of this crate on what foreign bytes may ask for, each with its reason.

/// Longest prefix of a GGUF file that may be needed before its tensor data begin. Vocabularies of 256,000 tokens with
/// merges take about 15 MiB; four times the largest header seen in public files leaves room.
pub const MAX_GGUF_HEADER_BYTES: u64 = 64 << 20;

/// Metadata entries in one GGUF file. Public files have 20 to 60.
pub const MAX_METADATA_ENTRIES: u64 = 4_096;

/// Tensors in one GGUF file. An 80-layer dense decoder has about 730; mixtures of experts a few thousand.
pub const MAX_TENSORS: u64 = 65_536;

/// Bytes of one metadata key; the GGUF specification says 65,535, and none in use is longer than 100.
pub const MAX_KEY_BYTES: u64 = 1_024;

/// Bytes of one tensor name; GGML itself stops at 64.
pub const MAX_TENSOR_NAME_BYTES: u64 = 256;

/// Bytes of one metadata string. Chat templates are the longest and reach about 30 KiB.
pub const MAX_STRING_BYTES: u64 = 1 << 20;

/// Elements of one metadata array. The largest vocabulary in use has 262,144 tokens and 514,906 merges.
pub const MAX_ARRAY_ELEMENTS: u64 = 4 << 20;

/// How deep metadata arrays may be nested. Nothing in use nests them at all.
pub const MAX_ARRAY_NESTING: u32 = 2;

/// Dimensions of one tensor; GGML's own limit.
pub const MAX_TENSOR_DIMENSIONS: u32 = 4;

/// Size of one tensor dimension. Keeps every product of two in a `u64`.
pub const MAX_DIMENSION: u64 = 1 << 31;

/// Length that a GGUF file may claim: 16 TiB, ten times the largest published. Keeps sums over its tensors in a `u64`.
pub const MAX_FILE_BYTES: u64 = 1 << 44;

/// Any width of a decoder: of the residual stream, of all heads together, of a feed-forward block. Llama 3.1 405B has 53,248.
/// With [`MAX_LAYERS`] and [`MAX_CONTEXT`] it keeps every count of parameters, operations and bytes in a `u64`.
pub const MAX_WIDTH: u64 = 1 << 20;

/// Tokens of context that a decoder may claim. The longest published context has 10 million.
pub const MAX_CONTEXT: u64 = 16 << 20;

/// Largest tensor alignment accepted; files in use say 32, a page is 4,096.
pub const MAX_ALIGNMENT: u64 = 1 << 16;

/// Layers of a decoder. The largest dense decoder in use has 126.
pub const MAX_LAYERS: u64 = 1_024;

/// Attention heads of a decoder.
pub const MAX_HEADS: u64 = 1_024;

/// Tokens in a vocabulary.
pub const MAX_VOCABULARY: usize = 1 << 20;

/// Bytes of text that one call of the tokenizer accepts: over 100,000 tokens, more than any context served here.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Steps that rendering one chat template may take, and the same again for each 64 bytes of the strings that they make: 64 MB. A
/// loop over a long conversation takes some ten thousand, and some copies of its text.
pub const MAX_TEMPLATE_FUEL: u64 = 1_000_000;

/// Bytes of one adapter file. Rank 64 on all projections of a 7-billion-parameter decoder is 640 MB in F32.
pub const MAX_ADAPTER_BYTES: usize = 1 << 30;

/// Bytes of one `adapter_config.json`.
pub const MAX_ADAPTER_CONFIG_BYTES: usize = 64 << 10;

/// Rank of an adapter: 256 is the largest that published adapters use.
pub const MAX_RANK: usize = 256;

/// Tokens that prefill computes at once: bounds the activation buffers and is how often a prompt can be cancelled.
pub const PREFILL_CHUNK: usize = 64;

/// Stop strings of one generation; OpenAI's API accepts four.
pub const MAX_STOP_STRINGS: usize = 16;

/// Tokens that an answer may be longer than the expected one before it counts as another: other tokens can write the same text.
pub const ANSWER_SLACK_TOKENS: usize = 4;

// A cache of the longest context at the greatest width, and the operations of its last token.
const _: () = assert!((2 * MAX_LAYERS * MAX_WIDTH * 4).checked_mul(MAX_CONTEXT).is_some());
const _: () = assert!(
    (8 * MAX_LAYERS * MAX_WIDTH)
        .checked_mul(MAX_WIDTH + MAX_CONTEXT)
        .is_some()
);

/// Messages in one conversation.
pub const MAX_MESSAGES: usize = 256;
