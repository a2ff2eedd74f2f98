"""Statistics of evaluation results."""

from smacv2.stats import wilson_interval

__all__ = ["wilson_interval"]
