"""Learning rates that fall, and the log of the losses, for all learners."""

from collections.abc import Sequence

import torch
from torch import Tensor


def anneal(optimizer: torch.optim.Optimizer, left: float) -> None:
    """Lower the learning rate to a share `left` (1 at the start, 0 at the end) of the first one."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * left


def share_left(global_step: int, total_steps: int) -> float:
    """Return the share of a run's environment steps that is still to be done."""
    return max(0.0, 1.0 - global_step / total_steps)


def mean_losses(names: Sequence[str], losses: Sequence[Tensor]) -> dict[str, float]:
    """Return the means over gradient steps, in one transfer for all losses.

    Args:
        names: of the losses.
        losses: of each gradient step, (len(names),).
    """
    return dict(zip(names, torch.stack(list(losses)).mean(0).tolist(), strict=True))
