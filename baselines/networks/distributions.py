"""Distributions over actions, as functions of a policy network's outputs.

Every class takes any leading dimensions. The buffer holds `raw` actions: for squashed normals the
value before tanh, so that a log-probability never inverts tanh.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from baselines.networks.actor_critic import gumbel_noise
from ppo_plasticity.capacity import categorical_kl

LOG_2PI = math.log(2 * math.pi)
MIN_STD = 1e-4
LOG_RATIO_RANGE = (math.log(1e-7), math.log(1e9))  # the published bounds
STD_BIAS = math.log(math.e - 1)  # softplus(STD_BIAS) is 1


class Categorical:
    """A distribution over discrete actions; outputs are logits.

    Args:
        num_actions: number of actions.
    """

    raw_size = 1

    def __init__(self, num_actions: int) -> None:
        self.num_actions = self.num_outputs = num_actions

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return Gumbel noise (*shape, num_actions)."""
        return gumbel_noise((*shape, self.num_actions), generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return actions (..., 1) by the Gumbel-max trick."""
        return (outputs + noise).argmax(-1, keepdim=True).float()  # (..., 1)

    def mode(self, outputs: Tensor) -> Tensor:
        """Return the most likely actions (..., 1)."""
        return outputs.argmax(-1, keepdim=True).float()

    def log_prob(self, outputs: Tensor, raw: Tensor) -> Tensor:
        """Return log-probabilities (...)."""
        return torch.log_softmax(outputs, -1).gather(-1, raw.long()).squeeze(-1)  # (...)

    def entropy(self, outputs: Tensor, raw: Tensor) -> Tensor:
        """Return exact entropies (...)."""
        log_probs = torch.log_softmax(outputs, -1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return KL(old || new) (...)."""
        return categorical_kl(old, new)

    def parameters(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities (..., num_actions)."""
        return (torch.softmax(outputs, -1),)

    def to_env(self, raw: Tensor) -> Tensor:
        """Return action numbers (...)."""
        return raw.squeeze(-1).long()


class Normal:
    """A diagonal normal; outputs are means, then log standard deviations.

    Args:
        low: (num_actions,) smallest actions; actions are clipped to the bounds for the environment.
        high: (num_actions,) largest actions.
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        self.raw_size = len(low)
        self.num_outputs = 2 * len(low)

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Return normal noise (*shape, num_actions)."""
        return torch.randn(*shape, self.raw_size, generator=generator, device=generator.device)

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations, each (..., num_actions)."""
        mean, log_std = outputs.chunk(2, -1)
        return mean, log_std.exp()

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return actions (..., num_actions): mean + std * noise."""
        mean, std = self.split(outputs)
        return mean + std * noise

    def mode(self, outputs: Tensor) -> Tensor:
        """Return the means (..., num_actions)."""
        return self.split(outputs)[0]

    def log_prob(self, outputs: Tensor, raw: Tensor) -> Tensor:
        """Return log-densities (...)."""
        mean, std = self.split(outputs)
        scores = ((raw - mean) / std).square() + 2 * std.log() + LOG_2PI
        return -0.5 * scores.sum(-1)

    def entropy(self, outputs: Tensor, raw: Tensor) -> Tensor:
        """Return exact entropies (...)."""
        _, std = self.split(outputs)
        return (std.log() + 0.5 * (1 + LOG_2PI)).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return KL(old || new) (...)."""
        (old_mean, old_std), (mean, std) = self.split(old), self.split(new)
        ratio = (old_std / std).square()
        return 0.5 * (ratio + ((mean - old_mean) / std).square() - 1 - ratio.log()).sum(-1)

    def parameters(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Return means and standard deviations, each (..., num_actions)."""
        return self.split(outputs)

    def to_env(self, raw: Tensor) -> Tensor:
        """Return actions within the bounds."""
        return raw.clamp(self.low, self.high)


class TanhNormal(Normal):
    """A diagonal normal squashed by tanh and stretched to the bounds of the actions.

    Outputs are means and x. The standard deviation is softplus(x + ln(e - 1)), at least 1e-4, and 1
    at x = 0, as in TorchRL. The KL divergence is that of the normals, since tanh is invertible.
    """

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations before tanh, each (..., num_actions)."""
        mean, x = outputs.chunk(2, -1)
        return mean, seed_by_seed(functional.softplus, x + STD_BIAS).clamp(min=MIN_STD)

    def log_prob(self, outputs: Tensor, raw: Tensor) -> Tensor:
        """Return log-densities (...) of the squashed actions, computed from the raw ones."""
        return super().log_prob(outputs, raw) - self.log_jacobian(raw)

    def log_jacobian(self, raw: Tensor) -> Tensor:
        """Return log |d action / d raw| (...)."""
        log_slope = 2 * (math.log(2) - raw - seed_by_seed(functional.softplus, -2 * raw))
        return (log_slope + ((self.high - self.low) / 2).log()).sum(-1)

    def entropy(self, outputs: Tensor, raw: Tensor) -> Tensor:
        """Return an estimate (...) of the entropy: -log pi of one sample, the raw actions.

        No gradient passes through sampling, so the expected gradient is zero. The estimate serves
        for logging, not as a bonus.
        """
        return -self.log_prob(outputs, raw)

    def to_env(self, raw: Tensor) -> Tensor:
        """Return actions within the bounds."""
        centre, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return centre + half * raw.tanh()


class AtanhNormal(TanhNormal):
    """`TanhNormal` as published: log-probabilities are computed from the squashed action.

    The action is clamped to 1 - 1e-6 and inverted, so that a raw action beyond 7.25 counts as 7.25.
    If a policy's mean has moved beyond that, log-ratios are huge.
    """

    LIMIT = math.atanh(1 - 1e-6)

    def log_prob(self, outputs: Tensor, raw: Tensor) -> Tensor:
        """Return log-densities (...) of the raw actions that survive tanh in float32."""
        squashed = raw.tanh().clamp(-1 + 1e-6, 1 - 1e-6)
        return super().log_prob(outputs, seed_by_seed(torch.atanh, squashed))


def seed_by_seed(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Return an elementwise function of values (seeds, rows, size), computed per seed.

    Vectorised kernels may round the last few elements of a tensor differently. Seeds that are
    computed together would then differ from their single-seed runs. Values of fewer than three axes
    have no seed axis.
    """
    if values.dim() < 3 or len(values) == 1:
        return function(values)
    return torch.stack([function(own) for own in values])  # (seeds, rows, size)


def make_distribution(
    policy: str, num_actions: int, bounds: tuple[Tensor, Tensor] | None
) -> "Distribution":
    """Return the distribution for a space of actions.

    Args:
        policy: `"normal"`, `"tanh_normal"` or `"tanh_normal_atanh"`; discrete actions ignore it.
        num_actions: number of discrete actions, or size of a continuous action.
        bounds: smallest and largest actions; None for discrete actions.
    """
    if bounds is None:
        return Categorical(num_actions)
    return POLICIES[policy](*bounds)


Distribution = Categorical | Normal
POLICIES = {"normal": Normal, "tanh_normal": TanhNormal, "tanh_normal_atanh": AtanhNormal}
