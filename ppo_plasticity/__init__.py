"""Instruments for plasticity and trust regions of policy-gradient networks, on anyone's modules.

Imports PyTorch and NumPy only. Every metric is a pure function from tensors to tensors; `Probe`
applies them to any `torch.nn.Module`. docs/metrics.md defines each one.
"""

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

__all__ = [
    "ExcessRatio",
    "Probe",
    "Record",
    "approximate_rank",
    "capture_preactivations",
    "clipped_fraction",
    "effective_rank",
    "feature_metrics",
    "feature_rank",
    "matrix_rank",
    "pfo_keep",
    "pfo_loss",
    "ratio_statistics",
    "singular_values",
    "srank",
]
