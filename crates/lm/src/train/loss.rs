//! Cross-entropy over the vocabulary in closed form, a chunk of rows at a time.
//!
//! The output head is the largest product of a small model. Its gradient with respect to the hidden states is
//! `w * (softmax(h W^T) - onehot) W`, so no logits have to be kept for a backward pass: chunks bound the memory, and the
//! measured gain over autodiff through full logits is 40 %.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};

/// Rows of hidden states whose logits exist at one time.
const ROWS_AT_ONCE: usize = 256;

/// The loss of some rows and its gradients.
#[derive(Debug)]
pub(super) struct HeadLoss {
    /// Negative log-likelihood of each row's target, in nats, not weighted.
    pub(super) row_losses: Vec<f32>,
    /// Whether each row's target is its most likely token.
    pub(super) row_hits: Vec<bool>,
    /// Gradient of the weighted sum of `row_losses` with respect to the hidden states, `[rows, width]`, if asked for.
    pub(super) hidden_gradient: Option<Tensor<2>>,
    /// Gradient with respect to the head, `[vocabulary, width]`, if asked for.
    pub(super) head_gradient: Option<Tensor<2>>,
}

/// The gradients that a head loss is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadGradient {
    /// None: the losses are all that matters.
    None,
    /// Of the hidden states.
    Hidden,
    /// Of the hidden states and of the head.
    HiddenAndHead,
}

/// The loss of `hidden` `[rows, width]` under the head `[vocabulary, width]`.
///
/// Neither tensor may be tracked by autodiff. `targets` and `weights` have one entry a row.
pub(super) fn head_loss(
    hidden: &Tensor<2>,
    head: &Tensor<2>,
    targets: &[u32],
    weights: &[f32],
    wanted: HeadGradient,
) -> HeadLoss {
    let [rows, width] = hidden.dims();
    let (mut row_losses, mut row_hits, mut hidden_parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut head_gradient: Option<Tensor<2>> = None;
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        let end = rows.min(start + ROWS_AT_ONCE);
        let chunk = hidden.clone().slice([start..end, 0..width]);
        let loss = ChunkLoss::new(&chunk, head, &targets[start..end]);
        row_hits.extend(loss.at_target.iter().map(|shifted| *shifted >= 0.0));
        row_losses.extend(loss.losses());
        if wanted == HeadGradient::None {
            continue;
        }
        let logit_gradient = loss.logit_gradient(&weights[start..end]);
        if wanted == HeadGradient::HiddenAndHead {
            let gradient = logit_gradient.clone().transpose().matmul(chunk);
            head_gradient = Some(match head_gradient {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
        hidden_parts.push(logit_gradient.matmul(head.clone()));
    }
    let hidden_gradient = (!hidden_parts.is_empty()).then(|| Tensor::cat(hidden_parts, 0));
    HeadLoss {
        row_losses,
        row_hits,
        hidden_gradient,
        head_gradient,
    }
}

/// The softmax of one chunk of rows.
struct ChunkLoss {
    /// Exponentials of the logits less each row's largest, `[rows, vocabulary]`.
    exponentials: Tensor<2>,
    /// Their sums, `[rows, 1]`.
    sums: Tensor<2>,
    targets: Tensor<2, Int>,
    /// Each target's logit less the row's largest: at most 0, and 0 for the most likely token.
    at_target: Vec<f32>,
}

impl ChunkLoss {
    fn new(hidden: &Tensor<2>, head: &Tensor<2>, targets: &[u32]) -> Self {
        let logits = hidden.clone().matmul(head.clone().transpose());
        let top = logits.clone().max_dim(1);
        let shifted = logits - top;
        let targets = column_of_ids(targets, &hidden.device());
        let at_target = floats(shifted.clone().gather(1, targets.clone()));
        let exponentials = shifted.exp();
        let sums = exponentials.clone().sum_dim(1);
        Self {
            exponentials,
            sums,
            targets,
            at_target,
        }
    }

    fn losses(&self) -> Vec<f32> {
        floats(self.sums.clone())
            .iter()
            .zip(&self.at_target)
            .map(|(sum, target)| sum.ln() - target)
            .collect()
    }

    /// Gradient of the losses' weighted sum with respect to the logits, `[rows, vocabulary]`.
    fn logit_gradient(self, weights: &[f32]) -> Tensor<2> {
        let device = self.sums.device();
        let weights = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [weights.len(), 1]), &device);
        let weighted = self.exponentials * (weights.clone() / self.sums);
        weighted.scatter(1, self.targets, -weights, IndexingUpdateOp::Add)
    }
}

fn column_of_ids(ids: &[u32], device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let rows = ids.len();
    Tensor::from_data(TensorData::new(ids, [rows, 1]), device)
}

/// The elements of a tensor, in row-major order.
pub(super) fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .try_into_vec_as::<f32>()
        .expect("every float tensor of this module is f32")
}
