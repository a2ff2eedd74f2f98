"""Attention over entities: what networks know of the units that an observation lists.

The order in which enemies and allies are listed does not matter, and the value of attacking an
enemy comes from that enemy's own row. docs/encoders.md has the formulas.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.errors import UsageError
from smacv2.layout import Block, Layout
from smacv2.scenario import load_unit_types

HEADS = 4  # fewer where the hidden size is no multiple of it
KEY_SIZE = 16  # numbers of a key, of all heads together
CHUNK = 1024  # rows whose entities fit the processor's cache together

Columns = tuple[int, ...]
Rows = tuple[Columns, ...]
"""Columns of each row, all of one length."""


@dataclasses.dataclass(frozen=True)
class Aims:
    """Numbers that units have for each target slot: an enemy's, or for a healer an ally's."""

    slots: Rows
    """Columns of each unit's slots."""
    healer: Rows
    """Columns that are 1 where the unit is a healer; none where no unit type heals."""


@dataclasses.dataclass(frozen=True)
class Entities:
    """Where everything stands in one input of a network."""

    own: Columns
    """What belongs to no entity."""
    enemies: Rows
    """Features of each enemy; all 0 where it is not seen."""
    allies: Rows
    """The same of each ally: by index, or by index without the agent's own."""
    aims: tuple[Aims, ...]
    """Numbers of units by target; they become features of the targets."""
    agent_id: Columns
    """One-hot of the agent's index; empty where all allies have a row."""


def obs_entities(layout: Layout, last_action: bool = False) -> Entities:
    """Return where entities stand in [obs, last action's one-hot if asked, agent's one-hot].

    Raises:
        UsageError: the observation has no rows.
    """
    if not layout.obs_enemies.rows:
        raise UsageError("--encoder attention needs entity rows: obs_starcraft=false leaves none")
    basic = layout.num_actions_no_attack
    allies = _rows(layout.obs_allies)
    width = layout.obs_allies.width
    has_actions = any("last_action" in name for name in layout.obs_allies.row)
    features = width - layout.num_actions * has_actions
    own_healer = _healers(layout, [_columns(layout.obs_own)])
    aims = [Aims((tuple(row[0] for row in _rows(layout.obs_enemies)),), own_healer)]
    own = [
        *(_columns(layout.obs_move) + _columns(layout.obs_own) + _columns(layout.obs_timestep)),
        *(range(layout.obs_size, layout.obs_size + basic) if last_action else ()),
    ]
    end = layout.obs_size + layout.num_actions * last_action
    if last_action:
        aims.append(Aims((tuple(range(layout.obs_size + basic, end)),), own_healer))
    if has_actions and allies:
        slots = tuple(row[features + basic :] for row in allies)
        aims.append(Aims(slots, _healers(layout, [row[:features] for row in allies])))
        allies = tuple(row[: features + basic] for row in allies)
    return Entities(
        own=tuple(own),
        enemies=tuple(row[1:] for row in _rows(layout.obs_enemies)),
        allies=allies,
        aims=tuple(aims),
        agent_id=tuple(range(end, end + layout.num_agents)),
    )


def state_entities(layout: Layout) -> Entities:
    """Return where entities stand in the state.

    Raises:
        UsageError: the state has no rows.
    """
    if not layout.state_allies.rows:
        raise UsageError(
            "--encoder attention needs entity rows: obs_instead_of_state=true leaves none"
        )
    allies, aims = _rows(layout.state_allies), ()
    if layout.state_last_actions.rows:
        actions, basic = _rows(layout.state_last_actions), layout.num_actions_no_attack
        aims = (Aims(tuple(row[basic:] for row in actions), _healers(layout, allies)),)
        allies = tuple(row + action[:basic] for row, action in zip(allies, actions, strict=True))
    return Entities(
        own=_columns(layout.state_timestep),
        enemies=_rows(layout.state_enemies),
        allies=allies,
        aims=aims,
        agent_id=(),
    )


def layout_of(sizes: Any) -> Layout:
    """Return an environment's layout.

    Raises:
        UsageError: it has none.
    """
    layout = getattr(sizes, "layout", None)
    if layout is None:
        spec = getattr(sizes, "spec", None)
        name = spec.id if spec else type(sizes).__name__
        raise UsageError(f"--encoder attention needs entity rows: {name} has no layout")
    return layout


def _columns(block: Block) -> Columns:
    return tuple(range(block.offset, block.end))


def _rows(block: Block) -> Rows:
    starts = range(block.offset, block.end, block.width)
    return tuple(tuple(range(start, start + block.width)) for start in starts)


def _healers(layout: Layout, rows: Iterable[Columns]) -> Rows:
    """Return the columns of healers' types in rows that end with the unit type's one-hot."""
    types, count = load_unit_types(), len(layout.unit_types)
    heals = [at for at, name in enumerate(layout.unit_types) if types[name].heal is not None]
    return tuple(tuple(row[len(row) - count + at] for at in heals) for row in rows)


class EntityAttention(nn.Module):
    """Pool entities into the features of the agent that looks at them.

    An entity's embedding is one linear layer with ReLU of its row; enemies and allies have weights
    of their own. Features are the embedding of what is the agent's own, plus the sum of the
    entities' embeddings, each weighted, in each of `HEADS` parts of it, by
    sigmoid(key · query / √size). The key is linear in the embedding, the query in what is own.
    Entities that are not seen have weight 0.

    Its parameters are no `nn.Linear`: rows of entities are no rows of a batch.

    Args:
        entities: where they stand in an input.
        hidden_size: width of embeddings and features.
        num_targets: how many target actions to make keys for.
    """

    def __init__(self, entities: Entities, hidden_size: int, num_targets: int = 0) -> None:
        super().__init__()
        self.entities, self.num_targets = entities, num_targets
        self.heads = math.gcd(hidden_size, HEADS)
        self.has_healers = any(aims.healer[0] for aims in entities.aims)
        own, marks = len(entities.own), len(entities.aims)
        enemy = len(entities.enemies[0]) + marks
        ally = len(entities.allies[0]) + marks * self.has_healers if entities.allies else 0
        names_allies = num_targets > 0 and self.has_healers
        self.own_weight, self.own_bias = _weights(own, hidden_size)
        self.query_weight, self.query_bias = _weights(own, 2 * KEY_SIZE)
        self.enemy_weight, self.enemy_bias = _weights(enemy, hidden_size)
        self.ally_weight, self.ally_bias = _weights(ally, hidden_size)
        self.enemy_keys, _ = _weights(hidden_size, KEY_SIZE * (1 + (num_targets > 0)))
        self.ally_keys, _ = _weights(hidden_size, KEY_SIZE * (1 + names_allies))
        self._keep_columns()
        self.reset_parameters()

    def _keep_columns(self) -> None:
        """Keep tables of indices as buffers, so that they follow the module to its device."""

        def keep(name: str, table: Any) -> None:
            self.register_buffer(name, torch.tensor(table, dtype=torch.long), persistent=False)

        entities, targets = self.entities, range(self.num_targets)
        keep("own", entities.own)
        keep("enemies", entities.enemies)
        keep("allies", entities.allies)
        keep("agent_id", entities.agent_id)
        for at, aims in enumerate(entities.aims):
            keep(f"slots_{at}", aims.slots)
            keep(f"healer_{at}", aims.healer)
        # An observation leaves its agent out: which ally has a row, and which row an ally has.
        agents, rows = range(len(entities.agent_id)), len(entities.allies)
        keep("ally_of_row", [[row + (row >= agent) for row in range(rows)] for agent in agents])
        others = [{row + (row >= agent): row for row in range(rows)} for agent in agents]
        keep("row_of_ally", [[other.get(ally, rows) for ally in targets] for other in others])

    def reset_parameters(self) -> None:
        """Draw orthogonal weights, and queries that differ from head to head."""
        for weight in (self.own_weight, self.enemy_weight, self.ally_weight):
            nn.init.orthogonal_(weight, math.sqrt(2))
        for weight in (self.query_weight, self.enemy_keys, self.ally_keys):
            nn.init.orthogonal_(weight)
        for bias in (self.own_bias, self.enemy_bias, self.ally_bias):
            nn.init.zeros_(bias)
        nn.init.normal_(self.query_bias)
        if not self.entities.own:  # a constant, against which the sum of entities is large or small
            nn.init.uniform_(self.own_bias)

    @property
    def num_queries(self) -> int:
        """Numbers that `logits` takes for all targets together."""
        return 1 + KEY_SIZE if self.num_targets else 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features (num_rows, hidden_size) of inputs (num_rows, input_size)."""
        return self.read(inputs)[0]

    def read(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (num_rows, hidden_size) and keys (num_rows, num_targets, KEY_SIZE).

        Keys are those of enemies, or of allies where the agent is a healer, and 0 where a target
        is no unit.
        """
        parts = [self._read(chunk) for chunk in inputs.split(CHUNK)]
        features, keys = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(keys)

    def logits(self, outputs: Tensor, keys: Tensor) -> Tensor:
        """Turn what a linear head says of all targets into one number for each.

        Args:
            outputs: (num_rows, basic actions + num_queries): of the latter the first goes to all
                targets alike, the rest is multiplied with their keys.
            keys: (num_rows, num_targets, KEY_SIZE) from `read`.

        Returns:
            (num_rows, basic actions + num_targets).
        """
        if not self.num_targets:
            return outputs
        basic, common, query = outputs.tensor_split((-1 - KEY_SIZE, -KEY_SIZE), 1)
        matches = (keys * query.unsqueeze(1)).sum(2) / math.sqrt(KEY_SIZE)
        return torch.cat([basic, common + matches], 1)

    def _read(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        own = inputs.index_select(1, self.own)
        queries = torch.addmm(self.query_bias, own, self.query_weight).split(KEY_SIZE, 1)
        agent = inputs.index_select(1, self.agent_id).argmax(1) if len(self.agent_id) else None
        enemy_marks, ally_marks = self._marks(inputs, agent)
        weights = (self.enemy_weight, self.enemy_bias, self.enemy_keys)
        enemies = _take(inputs, self.enemies)
        enemy_sum, enemy_keys = self._pool(enemies, enemy_marks, queries[0], *weights)
        weights = (self.ally_weight, self.ally_bias, self.ally_keys)
        allies = _take(inputs, self.allies)
        ally_sum, ally_keys = self._pool(allies, ally_marks, queries[1], *weights)
        features = torch.addmm(self.own_bias, own, self.own_weight).relu() + enemy_sum + ally_sum
        return features, self._target_keys(inputs, agent, enemy_keys, ally_keys)

    def _marks(self, inputs: Tensor, agent: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return what units aim at, as features of enemies and of allies: (num_rows, units, 1)."""
        enemies, allies = [], []
        num_agents = len(self.agent_id) or len(self.allies)
        for at in range(len(self.entities.aims)):
            slots = _take(inputs, getattr(self, f"slots_{at}"))
            fights = slots.sum(1)
            if self.has_healers:
                heals = _take(inputs, getattr(self, f"healer_{at}")).sum(2, keepdim=True)
                helps = (slots * heals).sum(1)
                fights = fights - helps
                helps = functional.pad(helps, (0, num_agents - helps.shape[1]))
                if agent is not None:
                    helps = helps.gather(1, self.ally_of_row[agent])
                allies.append(helps.unsqueeze(2))
            fights = functional.pad(fights, (0, len(self.enemies) - fights.shape[1]))
            enemies.append(fights.unsqueeze(2))
        return enemies, allies

    def _pool(
        self, rows: Tensor, marks: list[Tensor], query: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of embeddings (num_rows, hidden_size), and targets' keys."""
        shape, (weight, bias, to_keys) = rows.shape[:2], weights
        features = torch.cat([rows, *marks], 2).flatten(0, 1)
        embeddings = torch.addmm(bias, features, weight).relu_()
        keys = (embeddings @ to_keys).view(*shape, -1)
        matches = keys[..., :KEY_SIZE] * query.unsqueeze(1)
        scores = matches.view(*shape, self.heads, -1).sum(3) / math.sqrt(KEY_SIZE / self.heads)
        shares = scores.sigmoid() * rows.any(2, keepdim=True)
        parts = embeddings.view(*shape, self.heads, -1) * shares.unsqueeze(3)
        return parts.sum(1).flatten(1), keys[..., KEY_SIZE:]

    def _target_keys(
        self, inputs: Tensor, agent: Tensor | None, enemies: Tensor, allies: Tensor
    ) -> Tensor:
        """Return keys by target (num_rows, num_targets, KEY_SIZE) from keys by row."""
        if not self.num_targets:
            return enemies
        keys = functional.pad(enemies, (0, 0, 0, self.num_targets - enemies.shape[1]))
        if not self.has_healers:
            return keys
        heals = _take(inputs, self.healer_0).sum(2, keepdim=True)
        rows = self.row_of_ally[agent].unsqueeze(2).expand_as(keys)
        return torch.where(heals > 0, functional.pad(allies, (0, 0, 0, 1)).gather(1, rows), keys)


def _weights(inputs: int, outputs: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return weights (inputs, outputs), and biases.

    This way round the gradient of a narrow layer's weights takes a quarter of the time.
    """
    return nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))


def _take(inputs: Tensor, columns: Tensor) -> Tensor:
    """Return columns (rows, width) of inputs (num_rows, input_size): (num_rows, rows, width)."""
    return inputs.index_select(1, columns.flatten()).view(len(inputs), *columns.shape)
