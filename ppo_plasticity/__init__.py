"""Instruments for plasticity and trust regions of policy-gradient networks, on anyone's modules.

Imports PyTorch and NumPy only, and those with the first name that is asked for. Every metric is a
pure function from tensors to tensors; `Probe` applies them to any `torch.nn.Module`.
docs/metrics.md defines each one, docs/interventions.md what can be done about them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers
    from ppo_plasticity.capacity import *  # noqa: F403
    from ppo_plasticity.interventions import *  # noqa: F403
    from ppo_plasticity.pfo import *  # noqa: F403
    from ppo_plasticity.probe import *  # noqa: F403
    from ppo_plasticity.ranks import *  # noqa: F403
    from ppo_plasticity.trust_region import *  # noqa: F403

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
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that commands' `--help` is quick."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
