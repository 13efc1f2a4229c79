//! Adam with decoupled weight decay, on flat vectors.

/// The constants of Adam.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Decay of the mean of the gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the mean square.
    pub epsilon: f32,
    /// Fraction of a decaying parameter that a step of learning rate 1 removes.
    pub weight_decay: f32,
}

impl Default for AdamConfig {
    /// The constants of Adam's authors (arXiv 1412.6980), without decay.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// The state of Adam for one vector of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Adam {
    config: AdamConfig,
    mean: Vec<f32>,
    mean_square: Vec<f32>,
    steps: i32,
}

impl Adam {
    /// A fresh state for `parameters` numbers.
    pub fn new(config: AdamConfig, parameters: usize) -> Self {
        Self {
            config,
            mean: vec![0.0; parameters],
            mean_square: vec![0.0; parameters],
            steps: 0,
        }
    }

    /// One step down `gradient`. `decays` says for each index whether its parameter decays.
    ///
    /// All three vectors have the length that the state was made for.
    pub fn step(&mut self, values: &mut [f32], gradient: &[f32], learning_rate: f32, decays: impl Fn(usize) -> bool) {
        let AdamConfig {
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = self.config;
        self.steps += 1;
        let (correction1, correction2) = (1.0 - beta1.powi(self.steps), 1.0 - beta2.powi(self.steps));
        for (index, (value, gradient)) in values.iter_mut().zip(gradient).enumerate() {
            let (mean, square) = (&mut self.mean[index], &mut self.mean_square[index]);
            *mean = beta1 * *mean + (1.0 - beta1) * gradient;
            *square = beta2 * *square + (1.0 - beta2) * gradient * gradient;
            if decays(index) {
                *value -= learning_rate * weight_decay * *value;
            }
            *value -= learning_rate * (*mean / correction1) / ((*square / correction2).sqrt() + epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_agree_with_the_published_formulas() {
        let config = AdamConfig {
            weight_decay: 0.1,
            ..AdamConfig::default()
        };
        let mut adam = Adam::new(config, 2);
        let mut values = [1.0, -2.0];
        adam.step(&mut values, &[0.5, -1.0], 0.1, |_| true);
        // After one step the direction is the gradient's sign: 1 * 0.99 - 0.1 and -2 * 0.99 + 0.1.
        assert!(
            (values[0] - 0.89).abs() < 1e-6 && (values[1] + 1.88).abs() < 1e-6,
            "{values:?}"
        );
        adam.step(&mut values, &[0.5, 2.0], 0.1, |_| false);
        // Means (0.095, 0.11) / 0.19 and squares (0.00049975, 0.004999) / 0.001999, without decay this time.
        let expected = [
            0.89 - 0.1 * 0.5 / 0.5,
            -1.88 - 0.1 * (0.11 / 0.19) / (0.004_999_f32 / 0.001_999).sqrt(),
        ];
        assert!(
            (values[0] - expected[0]).abs() < 1e-5 && (values[1] - expected[1]).abs() < 1e-5,
            "{values:?}"
        );
    }
}
