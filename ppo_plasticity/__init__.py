"""Instruments for plasticity and trust regions of policy-gradient networks, for any module.

The package needs PyTorch and NumPy only, and imports them with the first public name. Every metric
is a pure function from tensors to tensors; `Probe` applies the metrics to any `torch.nn.Module`.
docs/metrics.md defines each metric, docs/interventions.md lists the remedies.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the names of _NAMES, for type checkers; `ranks` is a module here
    from ppo_plasticity.capacity import (  # noqa: I001 (it would write a statement per alias)
        CapacityProbe as CapacityProbe,
        capacity_loss as capacity_loss,
    )
    from ppo_plasticity.interventions import (
        INTERVENTIONS as INTERVENTIONS,
        Intervention as Intervention,
        Interventions as Interventions,
        ModuleHandle as ModuleHandle,
        parse as parse,
    )
    from ppo_plasticity.pfo import pfo_keep as pfo_keep, pfo_loss as pfo_loss
    from ppo_plasticity.probe import (
        Probe as Probe,
        Record as Record,
        capture_preactivations as capture_preactivations,
        feature_metrics as feature_metrics,
    )
    from ppo_plasticity.ranks import (
        approximate_rank as approximate_rank,
        effective_rank as effective_rank,
        feature_rank as feature_rank,
        matrix_rank as matrix_rank,
        singular_values as singular_values,
        srank as srank,
    )
    from ppo_plasticity.trust_region import (
        ExcessRatio as ExcessRatio,
        clipped_fraction as clipped_fraction,
        ratio_statistics as ratio_statistics,
    )

_NAMES = {
    "capacity": ("CapacityProbe", "capacity_loss"),
    "interventions": ("INTERVENTIONS", "Intervention", "Interventions", "ModuleHandle", "parse"),
    "pfo": ("pfo_keep", "pfo_loss"),
    "probe": ("Probe", "Record", "capture_preactivations", "feature_metrics"),
    "ranks": (
        *("approximate_rank", "effective_rank", "feature_rank", "matrix_rank"),
        *("singular_values", "srank"),
    ),
    "trust_region": ("ExcessRatio", "clipped_fraction", "ratio_statistics"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Return a public name, imported when it is first used so that `--help` is quick."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
