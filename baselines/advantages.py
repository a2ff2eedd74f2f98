"""Generalised advantage estimation over rollouts that contain reset rows."""

import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Return advantages (Schulman et al. 2016, eq. 16), time first.

    The row after a done row holds the true last observation, so its value is V(s_T): used where the
    episode was truncated, dropped where it was terminated. That row's own advantage is meaningless
    (it is no transition) and must be masked by the caller.

    Args:
        rewards: (num_steps, ...) reward of each step.
        values: (num_steps + 1, ...) values in reward units, the bootstrap value last.
        terminated: (num_steps, ...) bool, no value follows this step.
        done: (num_steps, ...) bool, the episode ends with this step; includes `terminated`.
        gamma: discount factor.
        gae_lambda: lambda, 0 (one-step) to 1 (Monte Carlo).

    Returns:
        (num_steps, ...) advantages; add `values[:-1]` for the returns.
    """
    deltas = torch.addcmul(rewards, values[1:], (~terminated).to(values.dtype), value=gamma)
    deltas -= values[:-1]
    weights = (~done).to(values.dtype) * (gamma * gae_lambda)
    advantages = torch.empty_like(deltas)
    carried = torch.zeros_like(deltas[0])
    for step in range(len(deltas) - 1, -1, -1):
        carried = torch.addcmul(deltas[step], weights[step], carried, out=advantages[step])
    return advantages
