"""What makes the team's value of the agents' values: QMIX's network, VDN's sum, or nothing."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class MonotonicMixer(nn.Module):
    """QMIX's mixer (Rashid et al. 2018, fig. 2): rises with each agent's value, in every state.

    Its weights are absolute outputs of networks of the state:
    Q_tot = w2 · elu(w1 q + b1) + b2, with w1, w2 >= 0.

    Args:
        num_agents: values to mix.
        state_size: features of the state.
        mixer_size: width of the hidden layer.
        hypernet_size: width of the hidden layers of the networks that make w1 and w2.
    """

    def __init__(
        self, num_agents: int, state_size: int, mixer_size: int = 32, hypernet_size: int = 64
    ) -> None:
        super().__init__()
        self.num_agents, self.mixer_size = num_agents, mixer_size

        def network(hidden_size: int, output_size: int) -> nn.Sequential:
            first = nn.Linear(state_size, hidden_size)
            return nn.Sequential(first, nn.ReLU(), nn.Linear(hidden_size, output_size))

        self.w1 = network(hypernet_size, num_agents * mixer_size)
        self.b1 = nn.Linear(state_size, mixer_size)
        self.w2 = network(hypernet_size, mixer_size)
        self.b2 = network(mixer_size, 1)

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Mix.

        Args:
            values: (rows, num_agents) value of each agent's action.
            state: (rows, state_size).

        Returns:
            (rows, 1) value of the joint action.
        """
        w1 = self.w1(state).abs().view(-1, self.num_agents, self.mixer_size)
        mixed = torch.bmm(values.unsqueeze(1), w1).squeeze(1) + self.b1(state)
        hidden = functional.elu(mixed)
        return (hidden * self.w2(state).abs()).sum(-1, keepdim=True) + self.b2(state)


class SumMixer(nn.Module):
    """VDN (Sunehag et al. 2018): the sum of the agents' values."""

    def forward(self, values: Tensor, _state: Tensor) -> Tensor:
        """Return (rows, 1) of (rows, num_agents)."""
        return values.sum(-1, keepdim=True)


class NoMixer(nn.Module):
    """Independent learners (Tan 1993): each agent's value is drawn to the team's return."""

    def forward(self, values: Tensor, _state: Tensor) -> Tensor:
        """Return the values (rows, num_agents) as they are."""
        return values


def make_mixer(
    kind: str, num_agents: int, state_size: int, mixer_size: int, hypernet_size: int
) -> nn.Module:
    """Return the mixer that `--mixer` names."""
    if kind == "monotonic":
        return MonotonicMixer(num_agents, state_size, mixer_size, hypernet_size)
    return {"sum": SumMixer, "none": NoMixer}[kind]()
