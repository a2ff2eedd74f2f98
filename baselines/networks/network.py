"""Actor and critic."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import UsageError
from baselines.networks.attention import (
    Entities,
    EntityAttention,
    layout_of,
    obs_entities,
    state_entities,
)
from baselines.networks.gru import Gru
from baselines.networks.normalise import ValueNorm
from smacv2.layout import Layout

MASKED_LOGIT = -1e10  # its probability is exactly 0 in float32


class Forward:
    """How inputs run through the layers of a `Network`, or of several networks at once.

    Tensors of several networks begin with one more axis, as their layers want it (`NetworkStack`).
    """

    attention: Any  # None where nothing attends to entities
    trunk: Callable[[Tensor], Tensor]
    gru: Any  # None where nothing is recurrent
    gru_norm: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]

    def step(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one step.

        Args:
            inputs: (batch, input_size).
            hidden: (batch, memory_size).

        Returns:
            Outputs (batch, output_size) and the next hidden state (batch, memory_size).
        """
        features, keys = self._read(inputs)
        if self.gru is not None:
            hidden = self.gru.step(self.gru.input(features), hidden)
            features = self.gru_norm(hidden)
        return self._outputs(features, keys), hidden

    def sequence(
        self, inputs: Tensor, hidden: Tensor, keep: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute all rows of whole sequences, or chosen ones.

        Rows that are not chosen are skipped: they must lie after the last chosen row of their
        episode, as the rows of a dead agent and reset rows do.

        Args:
            inputs: (num_steps, batch, input_size).
            hidden: (batch, memory_size) before the first step.
            keep: (num_steps, batch, 1) 0.0 where the hidden state is zeroed on entering a step.
            rows: (num_rows,) int64 indices into the flattened `num_steps * batch`; None: all, as it
                must be for several networks.

        Returns:
            Outputs (num_rows, output_size), and the hidden states after each step
            (num_steps, batch, memory_size), which mean nothing in skipped rows.
        """
        num_steps, batch = inputs.shape[-3:-1]
        memory = hidden.unsqueeze(-3).expand(*inputs.shape[:-1], -1)
        flat = inputs.flatten(-3, -2)
        features, keys = self._read(flat if rows is None else flat.index_select(0, rows))
        if self.gru is not None:
            gates = self.gru.input(features)
            if rows is not None:
                everywhere = gates.new_zeros(num_steps * batch, gates.shape[-1])
                gates = everywhere.index_copy(0, rows, gates)
            memory = self.gru(gates.unflatten(-2, (num_steps, batch)), hidden, keep)
            flat = memory.flatten(-3, -2)
            features = self.gru_norm(flat if rows is None else flat.index_select(0, rows))
        return self._outputs(features, keys), memory

    def _read(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features (num_rows, hidden_size), and the keys of targets that attention found."""
        if self.attention is None:
            return self.trunk(inputs), None
        pooled, keys = self.attention.read(inputs)
        return self.trunk(pooled), keys

    def _outputs(self, features: Tensor, keys: Tensor | None) -> Tensor:
        outputs = self.head(features)
        return outputs if keys is None else self.attention.logits(outputs, keys)


class Network(Forward, nn.Module):
    """A trunk, an optional GRU, a head.

    The encoder `"mlp"` has a trunk of LayerNorm and two linear layers with ReLU and LayerNorm, and
    LayerNorm after the GRU. Orthogonal weights with gain sqrt(2) in the trunk and `output_gain` in
    the head, zero biases. `"plain"` is PyMARL's agent: one linear layer with ReLU, nothing
    normalised, weights and biases uniform within 1/sqrt(inputs), as PyTorch draws them.
    `"attention"` is `"mlp"` with `EntityAttention` in place of the trunk's first layer, and with
    outputs of target actions that come from the targets' own rows.

    Args:
        input_size: features of one input.
        hidden_size: width of all hidden layers.
        output_size: outputs of the head.
        output_gain: gain of the head's weights; not read by `"plain"`.
        recurrent: put a GRU between trunk and head.
        encoder: `"mlp"`, `"plain"` or `"attention"`.
        entities: where they stand in an input, for `"attention"`.
        num_targets: how many of the outputs, the last ones, belong to targets, for `"attention"`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        output_gain: float,
        recurrent: bool,
        encoder: str = "mlp",
        entities: Entities | None = None,
        num_targets: int = 0,
    ) -> None:
        super().__init__()
        self.is_plain = encoder == "plain"
        self.attention = None
        if self.is_plain:
            self.trunk = nn.Sequential(nn.Linear(input_size, hidden_size), nn.ReLU(inplace=True))
        elif encoder == "attention":
            self.attention = EntityAttention(entities, hidden_size, num_targets)
            self.trunk = nn.Sequential(nn.LayerNorm(hidden_size), *_layer(hidden_size, hidden_size))
            output_size += self.attention.num_queries - num_targets
        else:
            self.trunk = nn.Sequential(
                nn.LayerNorm(input_size),
                *_layer(input_size, hidden_size),
                *_layer(hidden_size, hidden_size),
            )
        self.gru = Gru(hidden_size, hidden_size) if recurrent else None
        self.gru_norm = nn.Identity()
        if recurrent and not self.is_plain:
            self.gru_norm = nn.LayerNorm(hidden_size)
        self.head = _linear(hidden_size, output_size, output_gain)
        self.memory_size = hidden_size if recurrent else 0
        self.output_gain = output_gain
        if self.is_plain:
            self.reset_plain()

    @property
    def chain(self) -> nn.Sequential:
        """The feed-forward layers in a row: the trunk, and the linear layer that reads it.

        That is the head, or with a GRU the GRU's input gates. Attention over entities, where there
        is one, comes first. Layers are shared, not copied.
        """
        first = [self.attention] if self.attention else []
        reader = self.head if self.gru is None else self.gru.input
        return nn.Sequential(*first, *self.trunk, reader)

    def change_layers(self, change: Callable[[nn.Sequential], nn.Sequential]) -> None:
        """Replace the feed-forward layers by what `change` makes of them, weights drawn anew."""
        changed = change(self.chain)
        if not self.is_plain:
            initialise_orthogonal(changed, self.output_gain if self.gru is None else 1.0)
        *trunk, reader = changed[1:] if self.attention else changed
        self.trunk = nn.Sequential(*trunk)
        if self.gru is None:
            self.head = reader
        else:
            self.gru.input = reader

    def reset_plain(self) -> None:
        """Draw all weights and biases as PyTorch does for its linear layers and its GRU."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
            elif isinstance(layer, Gru):
                bound = 1 / math.sqrt(layer.hidden_size)
                for parameter in layer.parameters():
                    nn.init.uniform_(parameter, -bound, bound)

    def initial_hidden(self, *batch: int) -> Tensor:
        """Return the hidden state at the start of an episode: zeros (*batch, memory_size)."""
        return self.head.weight.new_zeros(*batch, self.memory_size)

    def packed(self, inputs: Tensor, sizes: list[int]) -> Tensor:
        """Compute all rows of whole episodes, which begin with a hidden state of zeros.

        Args:
            inputs: (num_rows, input_size), ordered by time; step t has `sizes[t]` rows.
            sizes: sequences that are still there at each step, never more than at the one before.

        Returns:
            Outputs (num_rows, output_size).
        """
        features, keys = self._read(inputs)
        if self.gru is not None:
            hidden = self.initial_hidden(sizes[0])
            features = self.gru_norm(self.gru(self.gru.input(features), hidden, None, sizes))
        return self._outputs(features, keys)


def _layer(input_size: int, output_size: int) -> tuple[nn.Module, ...]:
    linear = _linear(input_size, output_size, math.sqrt(2))
    return linear, nn.ReLU(inplace=True), nn.LayerNorm(output_size)


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
        UsageError: attention over entities in an environment that lists none.
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


class Agent(nn.Module):
    """A shared actor, a critic, and the statistics of the critic's targets.

    Args:
        obs_size: features of one agent's observation.
        state_size: features of the global state.
        num_agents: agents that share the actor.
        num_actions: actions of each.
        hidden_size: width of all hidden layers.
        recurrent: GRU in actor and critic.
        critic_input: `"state"` or `"obs"`.
        agent_id: append the agent's one-hot index to its observation; attention always does.
        value_norm: normalise the critic's targets.
        encoder: see `Network`.
        layout: where entities stand in observations and state, for attention.
    """

    def __init__(
        self,
        *,
        obs_size: int,
        state_size: int,
        num_agents: int,
        num_actions: int,
        hidden_size: int,
        recurrent: bool,
        critic_input: str,
        agent_id: bool,
        value_norm: bool,
        encoder: str = "mlp",
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.num_agents, self.num_actions = num_agents, num_actions
        self.critic_input, self.agent_id = critic_input, agent_id or encoder == "attention"
        sees_state = critic_input == "state"
        actor_size = obs_size + num_agents * self.agent_id
        critic_size = state_size if sees_state else actor_size
        options = {"recurrent": recurrent, "encoder": encoder}
        seen: dict[str, Any] = {"actor": {}, "critic": {}}
        if encoder == "attention":
            entities = obs_entities(layout)
            seen["actor"] = {
                "entities": entities,
                "num_targets": layout.num_actions - layout.num_actions_no_attack,
            }
            seen["critic"] = {"entities": state_entities(layout) if sees_state else entities}
        self.actor = Network(
            actor_size, hidden_size, num_actions, output_gain=0.01, **options, **seen["actor"]
        )
        self.critic = Network(
            critic_size, hidden_size, 1, output_gain=1.0, **options, **seen["critic"]
        )
        self.value_norm = ValueNorm(enabled=value_norm)

    @property
    def networks(self) -> dict[str, Network]:
        """Actor and critic by name."""
        return {"actor": self.actor, "critic": self.critic}

    samples = True  # it has probabilities

    def initial_hidden(self, num_envs: int) -> Tensor:
        """Return the actor's hidden state at the start of episodes."""
        return self.actor.initial_hidden(num_envs, self.num_agents)

    @property
    def num_values(self) -> int:
        """Values the critic predicts for one env: 1 (state) or num_agents (obs)."""
        return 1 if self.critic_input == "state" else self.num_agents

    def actor_inputs(self, obs: Tensor) -> Tensor:
        """Return what the actor sees.

        Args:
            obs: (..., num_agents, obs_size).

        Returns:
            (..., num_agents, obs_size [+ num_agents]).
        """
        return torch.cat([obs, agent_ids(obs)], -1) if self.agent_id else obs

    def critic_inputs(self, obs: Tensor, state: Tensor, alive: Tensor) -> Tensor:
        """Return what the critic sees; the dead see zeros (and their id), as they must not matter.

        Args:
            obs: (..., num_agents, obs_size).
            state: (..., state_size).
            alive: (..., num_agents) bool.

        Returns:
            (..., num_values, critic_size).
        """
        if self.critic_input == "state":
            return state.unsqueeze(-2)
        return self.actor_inputs(obs * alive.unsqueeze(-1))

    def act(
        self, obs: Tensor, action_mask: Tensor, hidden: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose actions for one step.

        Args:
            obs: (num_envs, num_agents, obs_size).
            action_mask: (num_envs, num_agents, num_actions) bool, True = allowed.
            hidden: (num_envs, num_agents, memory_size).
            noise: (num_envs, num_agents, num_actions) standard Gumbel noise to sample with (see
                `gumbel_noise`); None takes the most likely action.

        Returns:
            Actions int64 (num_envs, num_agents), their log-probabilities, the next hidden state.
        """
        inputs = self.actor_inputs(obs).flatten(0, 1)
        logits, after = self.actor.step(inputs, hidden.flatten(0, 1))
        log_probs = masked_log_probs(logits.view(action_mask.shape), action_mask)
        scores = log_probs if noise is None else log_probs + noise  # the Gumbel-max trick
        actions = scores.argmax(-1)
        chosen = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        return actions, chosen, after.view(hidden.shape)


def agent_ids(obs: Tensor) -> Tensor:
    """Return agents' one-hot indices (..., num_agents, num_agents) for (..., num_agents, size)."""
    identity = torch.eye(obs.shape[-2], dtype=obs.dtype, device=obs.device)
    return identity.expand(*obs.shape[:-1], -1)


def load_weights(network: nn.Module, weights: dict[str, Tensor], env_id: str) -> None:
    """Put a policy's weights into a network that was built for an environment.

    Raises:
        UsageError: the environment has other sizes than the one it was trained on.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"the policy does not fit {env_id}: its sizes differ") from error


def masked_log_probs(logits: Tensor, action_mask: Tensor) -> Tensor:
    """Return log-probabilities over the last axis; forbidden actions get probability 0."""
    return torch.log_softmax(logits.masked_fill(~action_mask, MASKED_LOGIT), -1)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise: the argmax of log p + noise is a draw from p."""
    noise = torch.empty(shape, device=generator.device)
    tiny = torch.finfo(noise.dtype).tiny
    return noise.exponential_(generator=generator).clamp_(min=tiny).log_().neg_()


def _linear(input_size: int, output_size: int, gain: float) -> nn.Linear:
    linear = nn.Linear(input_size, output_size)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class ActorCritic(nn.Module):
    """The networks of a single agent, each a sequence of layers that ends in its head.

    Args:
        actor: observations to what the action distribution takes.
        critic: observations to values (rows, 1); it may share its first layers with the actor.
    """

    def __init__(self, actor: nn.Sequential, critic: nn.Sequential) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic


class ScalePixels(nn.Module):
    """Bytes 0 to 255 as numbers 0 to 1."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 of the same shape."""
        return pixels.float() / 255.0


class AppendLogStd(nn.Module):
    """Append log standard deviations that do not depend on the observation, initially 0.

    Args:
        num_actions: numbers in an action.
    """

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(num_actions))

    def reset_parameters(self) -> None:
        """Put the deviations back to 1."""
        nn.init.zeros_(self.log_std)

    def forward(self, mean: Tensor) -> Tensor:
        """Return (rows, 2 * num_actions) from means (rows, num_actions)."""
        return torch.cat([mean, self.log_std.expand_as(mean)], -1)

    @staticmethod
    def stacked(mean: Tensor, log_std: Tensor) -> Tensor:
        """Do the same for all seeds: means (seeds, rows, num_actions), log_std (seeds, ...)."""
        return torch.cat([mean, log_std.unsqueeze(1).expand_as(mean)], -1)


ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "leaky_relu": nn.LeakyReLU}


def hidden_layers(obs_shape: tuple[int, ...], hidden_size: int, activation: str) -> list[nn.Module]:
    """Return the hidden layers: two linear ones for vectors, NatureCNN for pixels.

    NatureCNN (Mnih et al. 2015): 32 filters 8x8/4, 64 filters 4x4/2, 64 filters 3x3/1, then a
    linear layer of `hidden_size` (published: 512).
    """
    nonlinearity = ACTIVATIONS[activation]
    if len(obs_shape) == 1:
        sizes = (obs_shape[0], hidden_size, hidden_size)
        pairs = [(nn.Linear(i, o), nonlinearity()) for i, o in itertools.pairwise(sizes)]
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


def initialise_orthogonal(network: nn.Sequential, head_gain: float) -> None:
    """Make weights orthogonal (gain sqrt 2, the last linear layer's `head_gain`), biases zero."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, head_gain if layer is layers[-1] else math.sqrt(2))
        nn.init.zeros_(layer.bias)
