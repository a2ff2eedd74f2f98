"""Instruments for plasticity and trust regions of policy-gradient networks, on anyone's modules.

Imports PyTorch and NumPy only. Every metric is a pure function from tensors to tensors; `Probe`
applies them to any `torch.nn.Module`. docs/metrics.md defines each one. Two functions have their
module's name and are imported from it: `ppo_plasticity.ranks.ranks`, `ppo_plasticity.drift.drift`.
"""

from ppo_plasticity.drift import (
    categorical_churn,
    gaussian_churn,
    spectral_norm,
    stable_rank,
    value_churn,
    weight_distance,
)
from ppo_plasticity.gradients import (
    empirical_ntk,
    gradient_collinearity,
    gradient_cosine,
    gradient_covariance,
    gradient_covariance_rank,
    gradient_noise_scale,
    gradient_norm,
    layer_norms,
    named_gradients,
    ntk_rank,
    per_sample_gradients,
)
from ppo_plasticity.norms import (
    feature_mean,
    feature_norm,
    feature_norm_spread,
    feature_std,
    global_norm,
    policy_variance,
    value_statistics,
)
from ppo_plasticity.pfo import pfo_keep, pfo_loss
from ppo_plasticity.probe import Probe, Record, capture_preactivations, feature_metrics
from ppo_plasticity.ranks import (
    approximate_rank,
    effective_rank,
    feature_rank,
    matrix_rank,
    singular_values,
    srank,
)
from ppo_plasticity.trust_region import ExcessRatio, clipped_fraction, ratio_statistics
from ppo_plasticity.units import (
    active_fraction,
    dead_units,
    dormant_fraction,
    saturated_fraction,
    unit_scores,
)

__all__ = [
    "ExcessRatio",
    "Probe",
    "Record",
    "active_fraction",
    "approximate_rank",
    "capture_preactivations",
    "categorical_churn",
    "clipped_fraction",
    "dead_units",
    "dormant_fraction",
    "effective_rank",
    "empirical_ntk",
    "feature_mean",
    "feature_metrics",
    "feature_norm",
    "feature_norm_spread",
    "feature_rank",
    "feature_std",
    "gaussian_churn",
    "global_norm",
    "gradient_collinearity",
    "gradient_cosine",
    "gradient_covariance",
    "gradient_covariance_rank",
    "gradient_noise_scale",
    "gradient_norm",
    "layer_norms",
    "matrix_rank",
    "named_gradients",
    "ntk_rank",
    "per_sample_gradients",
    "pfo_keep",
    "pfo_loss",
    "policy_variance",
    "ratio_statistics",
    "saturated_fraction",
    "singular_values",
    "spectral_norm",
    "srank",
    "stable_rank",
    "unit_scores",
    "value_churn",
    "value_statistics",
    "weight_distance",
]
