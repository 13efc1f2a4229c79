//! The two orders of query and key rows.
//!
//! Converting a Llama from Hugging Face to GGUF permutes the rows of the query and key projections within each head, so that
//! elements which rotate together lie side by side: row `2i + j` of a head in GGUF is row `j * n/2 + i` in Hugging Face's file
//! (`LlamaModel.permute` in llama.cpp's `convert_hf_to_gguf.py`). Factor `B` of an adapter has the projection's rows.

use super::Projection;
use crate::config::{DecoderConfig, RopePairing};

/// The GGUF row that holds row `row` of Hugging Face's projection, with heads of `head_width` rows.
pub fn gguf_row_of(row: usize, head_width: usize) -> usize {
    let (head, within) = (row / head_width, row % head_width);
    let half = head_width / 2;
    head * head_width + 2 * (within % half) + within / half
}

/// Whether GGUF stores this projection's rows in another order than Hugging Face.
fn is_permuted(projection: Projection, config: &DecoderConfig) -> bool {
    matches!(projection, Projection::Query | Projection::Key) && config.rope.pairing == RopePairing::Interleaved
}

/// Rows of `columns` elements in Hugging Face's order, brought to GGUF's order.
pub fn permute_rows_from_hf(rows: &[f32], columns: usize, projection: Projection, config: &DecoderConfig) -> Vec<f32> {
    let mut permuted = rows.to_vec();
    if is_permuted(projection, config) {
        for (row, elements) in rows.chunks_exact(columns).enumerate() {
            let at = gguf_row_of(row, config.head_width) * columns;
            permuted[at..at + columns].copy_from_slice(elements);
        }
    }
    permuted
}

/// Rows of `columns` elements in GGUF's order, brought to Hugging Face's order.
pub fn permute_rows_to_hf(rows: &[f32], columns: usize, projection: Projection, config: &DecoderConfig) -> Vec<f32> {
    if !is_permuted(projection, config) {
        return rows.to_vec();
    }
    (0..rows.len() / columns)
        .flat_map(|row| {
            let at = gguf_row_of(row, config.head_width) * columns;
            rows[at..at + columns].iter().copied()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_move_as_in_llama_cpp() {
        // numpy 2.1: np.arange(12).reshape(2, 2, 3).swapaxes(1, 2).ravel(), two heads of six rows.
        let gguf_holds = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];
        for (gguf_row, hf_row) in gguf_holds.into_iter().enumerate() {
            assert_eq!(gguf_row_of(hf_row, 6), gguf_row);
        }
    }
}
