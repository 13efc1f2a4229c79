//! What a GGUF file says about a tensor: its name, type, shape and place.

/// How the elements of a tensor are stored: GGML's types, of which the engine computes with a part.
///
/// Types are listed with GGML's numbers so that a header can be sized even where its weights cannot be computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are GGML's own")]
#[allow(non_camel_case_types, reason = "the names are GGML's own")]
pub enum TensorType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
}

/// GGML's number, the elements of a block, the bytes of a block and the name of each type
/// (ggml.h and ggml-common.h of ggml 0.25).
const LAYOUTS: [(TensorType, u32, u64, u64, &str); 32] = {
    use TensorType::*;
    [
        (F32, 0, 1, 4, "F32"),
        (F16, 1, 1, 2, "F16"),
        (Q4_0, 2, 32, 18, "Q4_0"),
        (Q4_1, 3, 32, 20, "Q4_1"),
        (Q5_0, 6, 32, 22, "Q5_0"),
        (Q5_1, 7, 32, 24, "Q5_1"),
        (Q8_0, 8, 32, 34, "Q8_0"),
        (Q8_1, 9, 32, 36, "Q8_1"),
        (Q2_K, 10, 256, 84, "Q2_K"),
        (Q3_K, 11, 256, 110, "Q3_K"),
        (Q4_K, 12, 256, 144, "Q4_K"),
        (Q5_K, 13, 256, 176, "Q5_K"),
        (Q6_K, 14, 256, 210, "Q6_K"),
        (Q8_K, 15, 256, 292, "Q8_K"),
        (IQ2_XXS, 16, 256, 66, "IQ2_XXS"),
        (IQ2_XS, 17, 256, 74, "IQ2_XS"),
        (IQ3_XXS, 18, 256, 98, "IQ3_XXS"),
        (IQ1_S, 19, 256, 50, "IQ1_S"),
        (IQ4_NL, 20, 32, 18, "IQ4_NL"),
        (IQ3_S, 21, 256, 110, "IQ3_S"),
        (IQ2_S, 22, 256, 82, "IQ2_S"),
        (IQ4_XS, 23, 256, 136, "IQ4_XS"),
        (I8, 24, 1, 1, "I8"),
        (I16, 25, 1, 2, "I16"),
        (I32, 26, 1, 4, "I32"),
        (I64, 27, 1, 8, "I64"),
        (F64, 28, 1, 8, "F64"),
        (IQ1_M, 29, 256, 56, "IQ1_M"),
        (BF16, 30, 1, 2, "BF16"),
        (TQ1_0, 34, 256, 54, "TQ1_0"),
        (TQ2_0, 35, 256, 66, "TQ2_0"),
        (MXFP4, 39, 32, 17, "MXFP4"),
    ]
};

impl TensorType {
    /// The type with GGML's number `id`, if there is one.
    pub fn from_id(id: u32) -> Option<Self> {
        LAYOUTS.iter().find(|layout| layout.1 == id).map(|layout| layout.0)
    }

    fn layout(self) -> &'static (TensorType, u32, u64, u64, &'static str) {
        &LAYOUTS[self as usize]
    }

    /// GGML's number for this type.
    pub fn id(self) -> u32 {
        self.layout().1
    }

    /// Elements that are stored together in one block; 1 for the plain types.
    pub fn block_elements(self) -> u64 {
        self.layout().2
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        self.layout().3
    }

    /// Whether the engine of this build computes with it.
    pub fn is_computable(self) -> bool {
        use TensorType::*;
        matches!(
            self,
            F32 | F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q2_K | Q3_K | Q4_K | Q5_K | Q6_K
        )
    }

    /// GGML's name, such as `Q4_0`.
    pub fn name(self) -> &'static str {
        self.layout().4
    }

    /// Bytes of `elements` elements, or `None` where they are no whole number of blocks or do not fit a `u64`.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One tensor as the header lists it. Its sizes have been checked: they are positive, whole blocks, and fit a `u64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// GGML's order: the first is the contiguous one. A matrix from `d_in` to `d_out` is `[d_in, d_out]`.
    pub dimensions: Vec<u64>,
    /// How the elements are stored.
    pub tensor_type: TensorType,
    /// Bytes from the beginning of the tensor data; a multiple of the file's alignment.
    pub offset: u64,
    /// Bytes of the tensor.
    pub bytes: u64,
}

impl TensorInfo {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.dimensions.iter().product()
    }

    /// Elements of one row: the first dimension.
    pub fn row_elements(&self) -> u64 {
        self.dimensions.first().copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_layouts_is_in_the_order_of_the_enum() {
        for layout in &LAYOUTS {
            assert_eq!(layout.0.layout().1, layout.1, "{}", layout.4);
            assert_eq!(TensorType::from_id(layout.1), Some(layout.0));
        }
        assert_eq!(TensorType::from_id(4), None, "Q4_2 was removed from GGML");
    }

    #[test]
    fn bytes_are_whole_blocks_only() {
        assert_eq!(TensorType::Q4_0.bytes(64), Some(36));
        assert_eq!(TensorType::Q4_0.bytes(65), None);
        assert_eq!(TensorType::F64.bytes(u64::MAX), None);
    }
}
