"""The network of a multi-agent learner: trunk, optional GRU, head."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from baselines.errors import UsageError
from baselines.networks.attention import EntityAttention
from baselines.networks.entities import Entities
from baselines.networks.gru import Gru

MASKED_LOGIT = -1e10  # its probability is exactly 0 in float32


class Forward:
    """The forward pass through the layers of a `Network`, or of several networks at once.

    Tensors of several networks begin with one more axis, as their layers take it (`NetworkStack`).
    """

    attention: Any  # None without attention to entities
    trunk: Callable[[Tensor], Tensor]
    gru: Any  # None in a feed-forward network
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
        """Compute all rows of whole sequences, or chosen rows.

        Rows that are not chosen are skipped: they must come after the last chosen row of their
        episode, as the rows of a dead agent and reset rows do.

        Args:
            inputs: (num_steps, batch, input_size).
            hidden: (batch, memory_size) before the first step.
            keep: (num_steps, batch, 1) 0.0 if the hidden state is zeroed on entering a step.
            rows: (num_rows,) int64 indices into the flattened `num_steps * batch`; None chooses all
                rows, and several networks take no other.

        Returns:
            Outputs (num_rows, output_size), and the hidden states after each step
            (num_steps, batch, memory_size), which are meaningless in skipped rows.
        """
        num_steps, batch = inputs.shape[-3:-1]
        memory = hidden.unsqueeze(-3).expand(*inputs.shape[:-1], -1)  # (num_steps, batch, size)
        flat = inputs.flatten(-3, -2)  # (num_steps * batch, input_size)
        features, keys = self._read(flat if rows is None else flat.index_select(0, rows))
        if self.gru is not None:
            gates = self.gru.input(features)
            if rows is not None:
                everywhere = gates.new_zeros(num_steps * batch, gates.shape[-1])
                gates = everywhere.index_copy(0, rows, gates)
            gates = gates.unflatten(-2, (num_steps, batch))  # (num_steps, batch, 3 * hidden_size)
            memory = self.gru(gates, hidden, keep)
            flat = memory.flatten(-3, -2)  # (num_steps * batch, memory_size)
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
    """A trunk, an optional GRU and a head.

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
        output_gain: gain of the head's weights; ignored by `"plain"`.
        recurrent: put a GRU between trunk and head.
        encoder: `"mlp"`, `"plain"` or `"attention"`.
        entities: columns of the entities in an input, for `"attention"`.
        num_targets: number of outputs, the last ones, that belong to targets, for `"attention"`.
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
        """The feed-forward layers in order: the trunk, and the linear layer after it.

        That linear layer is the head, or with a GRU the GRU's input gates. Attention over entities,
        if there is any, comes first. Layers are shared, not copied.
        """
        first = [self.attention] if self.attention else []
        reader = self.head if self.gru is None else self.gru.input
        return nn.Sequential(*first, *self.trunk, reader)

    def change_layers(self, change: Callable[[nn.Sequential], nn.Sequential]) -> None:
        """Replace the feed-forward layers by the result of `change`, with newly drawn weights."""
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
            sizes: sequences at each step, never more than at the step before.

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


def _linear(input_size: int, output_size: int, gain: float) -> nn.Linear:
    linear = nn.Linear(input_size, output_size)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def initialise_orthogonal(network: nn.Sequential, head_gain: float) -> None:
    """Make weights orthogonal (gain sqrt 2, the last linear layer's `head_gain`), biases zero."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, head_gain if layer is layers[-1] else math.sqrt(2))
        nn.init.zeros_(layer.bias)


def repeat_for_agents(carry: Tensor, width: int) -> Tensor:
    """Return flags (num_steps, num_envs) as (num_steps, num_envs * width, 1)."""
    carry = carry.unsqueeze(-1).expand(-1, -1, width)  # (num_steps, num_envs, width)
    return carry.reshape(len(carry), -1, 1)  # (num_steps, num_envs * width, 1)


def agent_ids(obs: Tensor) -> Tensor:
    """Return agents' one-hot indices (..., num_agents, num_agents) for (..., num_agents, size)."""
    identity = torch.eye(obs.shape[-2], dtype=obs.dtype, device=obs.device)
    return identity.expand(*obs.shape[:-1], -1)  # (..., num_agents, num_agents)


def masked_log_probs(logits: Tensor, action_mask: Tensor) -> Tensor:
    """Return log-probabilities over the last axis; forbidden actions get probability 0."""
    return torch.log_softmax(logits.masked_fill(~action_mask, MASKED_LOGIT), -1)


def load_weights(network: nn.Module, weights: dict[str, Tensor], env_id: str) -> None:
    """Load a policy's weights into a network that was built for an environment.

    Raises:
        UsageError: the environment has other sizes than the one in training.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"the policy does not fit {env_id}: its sizes differ") from error
