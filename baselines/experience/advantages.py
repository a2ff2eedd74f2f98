"""Advantages and returns over rollouts that contain reset rows."""

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

    The row after a done row holds the true last observation, so its value is V(s_T). This value is
    used if the episode was truncated, and dropped if it was terminated. The advantage of that row
    itself is meaningless, since the row is not a transition: the caller must mask it.

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


def lambda_returns(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    td_lambda: float,
) -> Tensor:
    """Return TD(lambda) targets (Sutton and Barto 2018, eq. 12.18), time first.

    G_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda G_{t+1}), with V_{t+1} in place of G_{t+1}
    if the episode was truncated or the rollout ends, and nothing after a terminated step.

    Args:
        rewards: (num_steps, ...) reward of each step.
        next_values: (num_steps, ...) value of the row after each step, in reward units.
        terminated: (num_steps, ...) bool, no value follows this step.
        done: (num_steps, ...) bool, the episode ends with this step; includes `terminated`.
        gamma: discount factor.
        td_lambda: lambda, 0 (one step) to 1 (the rest of the episode).

    Returns:
        (num_steps, ...) targets, meaningless in rows that are not transitions.
    """
    discounts = (~terminated).to(next_values.dtype) * gamma
    carried_share = (~done).to(next_values.dtype) * td_lambda
    returns = torch.empty_like(next_values)
    carried = next_values[-1]
    for step in range(len(next_values) - 1, -1, -1):
        value = torch.lerp(next_values[step], carried, carried_share[step])
        carried = torch.addcmul(rewards[step], discounts[step], value, out=returns[step])
    return returns
