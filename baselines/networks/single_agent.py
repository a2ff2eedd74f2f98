"""Actor and critic of a single agent, on vectors or pixels."""

import itertools
import math

import torch
from torch import Tensor, nn


class ActorCritic(nn.Module):
    """The networks of a single agent, each a sequence of layers that ends in its head.

    Args:
        actor: maps observations to the inputs of the action distribution.
        critic: maps observations to values (rows, 1); it may share first layers with the actor.
    """

    def __init__(self, actor: nn.Sequential, critic: nn.Sequential) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic


class ScalePixels(nn.Module):
    """Scale bytes 0 to 255 to numbers 0 to 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 of the same shape."""
        return pixels.float() / 255.0


class AppendLogStd(nn.Module):
    """Append log standard deviations that do not depend on the observation, initially 0.

    Args:
        num_actions: size of an action.
    """

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(num_actions))

    def reset_parameters(self) -> None:
        """Reset the deviations to 1."""
        nn.init.zeros_(self.log_std)

    def forward(self, mean: Tensor) -> Tensor:
        """Return (rows, 2 * num_actions) from means (rows, num_actions)."""
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)  # (rows, 2 * num_actions)

    @staticmethod
    def stacked(mean: Tensor, log_std: Tensor) -> Tensor:
        """Return outputs for means (seeds, rows, num_actions), log_std (seeds, num_actions)."""
        log_std = log_std.unsqueeze(1).expand_as(mean)  # (seeds, rows, num_actions)
        return torch.cat([mean, log_std], -1)  # (seeds, rows, 2 * num_actions)


ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU}


def hidden_layers(obs_shape: tuple[int, ...], hidden_size: int, activation: str) -> list[nn.Module]:
    """Return the hidden layers: two linear ones for vectors, NatureCNN for pixels.

    NatureCNN (Mnih et al. 2015): 32 filters 8x8/4, 64 filters 4x4/2, 64 filters 3x3/1, then a
    linear layer of `hidden_size` (published: 512).
    """
    nonlinearity = ACTIVATIONS[activation]
    if len(obs_shape) == 1:
        sizes = (obs_shape[0], hidden_size, hidden_size)
        pairs = [(nn.Linear(*pair), nonlinearity()) for pair in itertools.pairwise(sizes)]
        return [layer for pair in pairs for layer in pair]
    channels, *sides = obs_shape
    for kernel, stride in ((8, 4), (4, 2), (3, 1)):
        sides = [(side - kernel) // stride + 1 for side in sides]
    return [
        *(ScalePixels(), nn.Conv2d(channels, 32, 8, stride=4), nonlinearity()),
        *(nn.Conv2d(32, 64, 4, stride=2), nonlinearity()),
        *(nn.Conv2d(64, 64, 3, stride=1), nonlinearity(), nn.Flatten()),
        *(nn.Linear(64 * math.prod(sides), hidden_size), nonlinearity()),
    ]
