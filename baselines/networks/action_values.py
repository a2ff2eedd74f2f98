"""Action values: the network that all agents share, and the mixers that give the team's value."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.algorithms import VALUES
from baselines.config import ValueConfig
from baselines.networks.entities import layout_of, obs_entities
from baselines.networks.network import MASKED_LOGIT, Forward, Network, agent_ids

(NETWORK,) = VALUES  # name of the agents' network in flags and metrics


class ValueAgent(nn.Module):
    """Action values of every agent from its own observations.

    An agent's memory between steps is the hidden state followed by the one-hot of the last action.
    Both are zero at the start of an episode.

    Args:
        config: settings of the network and of its input.
        sizes: an environment's sizes, and its `layout` if the encoder reads entities.
    """

    samples = False  # it has no action probabilities

    def __init__(self, config: ValueConfig, sizes: Any) -> None:
        super().__init__()
        self.num_agents, self.num_actions = sizes.num_agents, sizes.num_actions
        self.last_action, self.agent_id = config.shows_last_action, config.shows_agent_id
        self.network: Network = make_agent_network(
            sizes,
            hidden_size=config.hidden_size,
            recurrent=config.network == "gru",
            encoder=config.encoder,
            last_action=self.last_action,
            agent_id=self.agent_id,
        )

    @property
    def networks(self) -> dict[str, Network]:
        """The network by the name that plasticity flags use."""
        return {NETWORK: self.network}

    @property
    def memory_size(self) -> int:
        """Size of the memory that each agent carries from step to step."""
        return self.network.memory_size + self.num_actions * self.last_action

    def initial_hidden(self, num_envs: int) -> Tensor:
        """Return the memory at the start of episodes: zeros (num_envs, num_agents, memory_size)."""
        weight = next(self.network.parameters())
        return weight.new_zeros(num_envs, self.num_agents, self.memory_size)

    def one_hot(self, actions: Tensor) -> Tensor:
        """Return one-hot int64 actions (..., num_actions) float32; zeros for action -1."""
        return functional.one_hot(actions + 1, self.num_actions + 1)[..., 1:].float()

    def inputs(self, obs: Tensor, last_actions: Tensor) -> Tensor:
        """Return the network's input.

        Args:
            obs: (..., num_agents, obs_size).
            last_actions: (..., num_agents, num_actions) one-hot; ignored without `last_action`.

        Returns:
            (..., num_agents, obs_size [+ num_actions] [+ num_agents]).
        """
        parts = [obs, last_actions] if self.last_action else [obs]
        parts += [agent_ids(obs)] if self.agent_id else []
        return torch.cat(parts, -1)  # (..., num_agents, input_size)

    def act(
        self,
        obs: Tensor,
        action_mask: Tensor,
        memory: Tensor,
        noise: Tensor | None = None,
        network: Forward | None = None,
    ) -> tuple[Tensor, None, Tensor]:
        """Choose actions for one step.

        Args:
            obs: (num_envs, num_agents, obs_size).
            action_mask: (num_envs, num_agents, num_actions) bool, True = allowed.
            memory: (num_envs, num_agents, memory_size).
            noise: (num_envs, num_agents, num_actions) from `exploration`; None is greedy.
            network: network to run instead of the agent's own. With the networks of several seeds
                (`NetworkStack`), all tensors begin with a seed axis.

        Returns:
            Actions int64 (num_envs, num_agents), no log-probabilities, the next memory.
        """
        size = self.network.memory_size
        inputs = self.inputs(obs, memory[..., size:]).flatten(-3, -2)  # (envs * agents, input_size)
        hidden = memory[..., :size].flatten(-3, -2)  # (num_envs * num_agents, size)
        values, hidden = (network or self.network).step(inputs, hidden)
        values = values.view(action_mask.shape)  # (num_envs, num_agents, num_actions)
        scores = values if noise is None else torch.where(noise >= 0, noise, values)
        actions = mask_values(scores, action_mask).argmax(-1)
        parts = [hidden.view(*obs.shape[:-1], size)]  # (num_envs, num_agents, size)
        parts += [self.one_hot(actions)] if self.last_action else []
        return actions, None, torch.cat(parts, -1)  # memory (num_envs, num_agents, memory_size)


class TeamValues(nn.Module):
    """The agents' network, and the mixer that gives the team's value.

    Args:
        config: settings of the network and of the mixer.
        sizes: an environment's sizes.
    """

    def __init__(self, config: ValueConfig, sizes: Any) -> None:
        super().__init__()
        self.agent = ValueAgent(config, sizes)
        widths = (config.mixer_size, config.hypernet_size)
        self.mixer = make_mixer(config.mixer, sizes.num_agents, sizes.state_size, *widths)


def make_agent_network(
    sizes: Any,
    *,
    hidden_size: int,
    recurrent: bool,
    encoder: str,
    last_action: bool,
    agent_id: bool,
) -> Network:
    """Return the network of action values that agents share.

    Args:
        sizes: an environment's sizes.
        hidden_size: width of all hidden layers.
        recurrent: put a GRU before the head.
        encoder: see `Network`.
        last_action: its input has the one-hot of the last action after the observation.
        agent_id: its input ends with the agent's one-hot index, as `"attention"` needs it.

    Raises:
        UsageError: the encoder needs entities, and the environment lists none.
    """
    input_size = sizes.obs_size + sizes.num_actions * last_action + sizes.num_agents * agent_id
    entities, num_targets = None, 0
    if encoder == "attention":
        layout = layout_of(sizes)
        entities, num_targets = (
            obs_entities(layout, last_action=last_action),
            layout.num_actions - layout.num_actions_no_attack,
        )
    return Network(
        input_size,
        hidden_size,
        sizes.num_actions,
        output_gain=0.01,
        recurrent=recurrent,
        encoder=encoder,
        entities=entities,
        num_targets=num_targets,
    )


def mask_values(values: Tensor, action_mask: Tensor) -> Tensor:
    """Return values in which forbidden actions have a value too low for any maximum."""
    return values.masked_fill(~action_mask, MASKED_LOGIT)


class MonotonicMixer(nn.Module):
    """QMIX's mixer (Rashid et al. 2018, fig. 2): increasing in each agent's value, in every state.

    Its weights are absolute outputs of networks of the state:
    Q_tot = w2 · elu(w1 q + b1) + b2, with w1, w2 >= 0.

    Args:
        num_agents: values to mix.
        state_size: features of the state.
        mixer_size: width of the hidden layer.
        hypernet_size: width of the hidden layers of the networks that compute w1 and w2.
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
        """Mix the agents' values into the team's.

        Args:
            values: (rows, num_agents) value of each agent's action.
            state: (rows, state_size).

        Returns:
            (rows, 1) value of the joint action.
        """
        w1 = self.w1(state).abs().view(-1, self.num_agents, self.mixer_size)  # (rows, agents, size)
        mixed = torch.bmm(values.unsqueeze(1), w1).squeeze(1) + self.b1(state)  # (rows, mixer_size)
        hidden = functional.elu(mixed)
        return (hidden * self.w2(state).abs()).sum(-1, keepdim=True) + self.b2(state)


class SumMixer(nn.Module):
    """VDN (Sunehag et al. 2018): the sum of the agents' values."""

    def forward(self, values: Tensor, _state: Tensor) -> Tensor:
        """Return the sum (rows, 1) of values (rows, num_agents)."""
        return values.sum(-1, keepdim=True)


class NoMixer(nn.Module):
    """Independent learners (Tan 1993): each agent's value is trained towards the team's return."""

    def forward(self, values: Tensor, _state: Tensor) -> Tensor:
        """Return the values (rows, num_agents) unchanged."""
        return values


def make_mixer(
    kind: str, num_agents: int, state_size: int, mixer_size: int, hypernet_size: int
) -> nn.Module:
    """Return the mixer that `--mixer` names."""
    if kind == "monotonic":
        return MonotonicMixer(num_agents, state_size, mixer_size, hypernet_size)
    return {"sum": SumMixer, "none": NoMixer}[kind]()
