//! The control plane: API, registry, rollouts, job scheduling.
