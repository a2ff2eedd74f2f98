"""Attention over entities: an encoder of the units that an observation lists.

The order in which enemies and allies are listed does not matter, and the value of attacking an
enemy comes from that enemy's own row. docs/encoders.md has the formulas.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.networks.entities import Entities

HEADS = 2  # 1 if the hidden size is odd
KEY_SIZE = 16  # size of a key, over all heads together
CHUNK = 1024  # rows whose entities fit the processor's cache together


class TargetKeys(NamedTuple):
    """Keys of the units that target actions refer to."""

    enemies: Tensor | None  # (num_rows, num_enemies, KEY_SIZE) keys; None without targets
    allies: Tensor | None  # (num_rows, allies with a row, KEY_SIZE) keys; None if no unit heals
    heals: Tensor | None  # (num_rows, 1) bool, its targets are allies; None if no unit heals
    rows: Tensor | None  # (num_rows, num_targets) int64 row of each ally, past the last if none


class Team(nn.Module):
    """Embed the units of a team and sum the embeddings, each weighted by its match with a query.

    Weights are (inputs, outputs), so that the gradient of a narrow layer takes a quarter of the
    time.

    Args:
        width: features of a unit, the last of which is 1.
        size: width of a unit's embedding.
        are_targets: actions may refer to the team's units.
    """

    def __init__(self, width: int, size: int, *, are_targets: bool) -> None:
        super().__init__()
        self.heads = math.gcd(size, HEADS)
        self.weight = nn.Parameter(torch.empty(width, size))
        self.key_weight = nn.Parameter(torch.empty(width, KEY_SIZE))
        target_weight = nn.Parameter(torch.empty(width, KEY_SIZE)) if are_targets else None
        self.register_parameter("target_weight", target_weight)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw orthogonal weights."""
        nn.init.orthogonal_(self.weight, math.sqrt(2))
        nn.init.orthogonal_(self.key_weight)
        if self.target_weight is not None:
            nn.init.orthogonal_(self.target_weight, math.sqrt(2))

    def forward(self, units: Tensor, query: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the weighted sum of embeddings, and the keys of target actions if there are any.

        Args:
            units: (num_rows, num_units, width); all 0 if a unit is not seen, so that its embedding
                and its keys are 0 as well.
            query: (num_rows, KEY_SIZE).

        Returns:
            (num_rows, size) and (num_rows, num_units, KEY_SIZE).
        """
        num_rows, num_units, _ = units.shape
        heads = (num_rows, num_units, self.heads)
        rows = units.flatten(0, 1)  # (num_rows * num_units, width)
        keys = (rows @ self.key_weight).view(num_rows, num_units, KEY_SIZE)
        query = query / math.sqrt(KEY_SIZE / self.heads)
        matches = keys * query.unsqueeze(1)  # (num_rows, num_units, KEY_SIZE)
        scores = matches.view(*heads, KEY_SIZE // self.heads).sum(3)  # (num_rows, num_units, heads)
        embeddings = (rows @ self.weight).relu_().view(*heads, self.weight.shape[1] // self.heads)
        summed = (embeddings * scores.sigmoid().unsqueeze(3)).sum(1).flatten(1)  # (num_rows, size)
        if self.target_weight is None:
            return summed, None
        return summed, (rows @ self.target_weight).relu_().view(num_rows, num_units, KEY_SIZE)


class EntityAttention(nn.Module):
    """Encode the units that an agent sees into features, independently of their order.

    Features are the embedding of the agent's own columns plus the embeddings of the units. An
    embedding is one linear layer with ReLU; own columns, enemies and allies have one each. In each
    of `HEADS` heads, a unit's embedding is weighted by sigmoid(key · query / √size). The key is
    linear in the unit's row, the query in the own columns. Units that are not seen contribute 0.

    A target action has a key too: one more linear layer with ReLU, applied to the row of the unit
    that it refers to. `logits` multiplies this key by a query from the end of the whole network.

    The parameters are not in an `nn.Linear`, because rows of units are not rows of a batch.

    Args:
        entities: columns of the entities in an input.
        hidden_size: width of the features.
        num_targets: number of target actions; 0 for a network that chooses none.
    """

    def __init__(self, entities: Entities, hidden_size: int, num_targets: int = 0) -> None:
        super().__init__()
        self.entities, self.num_targets = entities, num_targets
        self.num_agents = len(entities.agent_id) or len(entities.allies)
        self.has_healers = any(aims.healer[0] for aims in entities.aims)
        own, extra = len(entities.own), len(entities.aims) + 1
        enemy, ally = (len(rows[0]) if rows else 0 for rows in (entities.enemies, entities.allies))
        self.own_weight = nn.Parameter(torch.empty(own, hidden_size))
        self.own_bias = nn.Parameter(torch.empty(hidden_size))
        self.query_weight = nn.Parameter(torch.empty(own, 2 * KEY_SIZE))
        self.query_bias = nn.Parameter(torch.empty(2 * KEY_SIZE))
        are_targets = num_targets > 0
        self.enemies = Team(enemy + extra, hidden_size, are_targets=are_targets)
        heals = are_targets and self.has_healers
        self.allies = Team(ally + extra, hidden_size, are_targets=heals)
        self._register_columns()
        self.reset_parameters()

    def _register_columns(self) -> None:
        """Register tables of indices as buffers, so that they follow the module to its device."""

        def add(name: str, table: Any) -> None:
            self.register_buffer(name, torch.as_tensor(table, dtype=torch.long), persistent=False)

        entities, targets = self.entities, range(self.num_targets)
        add("own_columns", entities.own)  # (own,)
        add("id_columns", entities.agent_id)  # (num_agents,) or empty
        add("enemy_columns", entities.enemies)  # (enemies, width)
        add("ally_columns", entities.allies or torch.empty(0, 0))  # (allies with a row, width)
        for at, aims in enumerate(entities.aims):
            add(f"slot_columns_{at}", aims.slots)  # (units that aim, slots)
            add(f"healer_columns_{at}", aims.healer)  # (units that aim, types that heal)
        # An observation has no row for its own agent: the ally of each row, and the row of each
        # ally, depend on the agent.
        agents, rows = range(len(entities.agent_id)), len(entities.allies)
        add("ally_of_row", [[row + (row >= agent) for row in range(rows)] for agent in agents])
        others = [{row + (row >= agent): row for row in range(rows)} for agent in agents]
        add("row_of_ally", [[other.get(ally, rows) for ally in targets] for other in others])

    def reset_parameters(self) -> None:
        """Draw orthogonal weights, and queries that differ from the start."""
        nn.init.orthogonal_(self.own_weight, math.sqrt(2))
        nn.init.zeros_(self.own_bias)
        nn.init.orthogonal_(self.query_weight)
        nn.init.normal_(self.query_bias)
        if not self.entities.own:  # a constant offset, to which the sum of units is relative
            nn.init.uniform_(self.own_bias)

    @property
    def num_queries(self) -> int:
        """Number of head outputs that `logits` takes for all targets together."""
        return 1 + KEY_SIZE if self.num_targets else 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features (num_rows, hidden_size) of inputs (num_rows, input_size)."""
        return self.read(inputs)[0]

    def read(self, inputs: Tensor) -> tuple[Tensor, list[TargetKeys]]:
        """Return features (num_rows, hidden_size), and the rows' targets for `logits`."""
        parts = [self._read(chunk) for chunk in inputs.split(CHUNK)]  # each (<= CHUNK, ...)
        features = torch.cat([features for features, _ in parts])  # (num_rows, hidden_size)
        return features, [targets for _, targets in parts]

    def logits(self, outputs: Tensor, targets: list[TargetKeys]) -> Tensor:
        """Turn the outputs of a linear head into one logit per action, target actions included.

        Args:
            outputs: (num_rows, basic actions + num_queries). The first of the query outputs is
                common to all targets, the others are the query.
            targets: from `read`.

        Returns:
            (num_rows, basic actions + num_targets). A target that is not seen, or without a unit,
            gets the common output.
        """
        if not self.num_targets:
            return outputs
        parts = zip(outputs.split(CHUNK), targets, strict=True)
        return torch.cat([self._logits(*part) for part in parts])  # (num_rows, num_actions)

    def _logits(self, outputs: Tensor, targets: TargetKeys) -> Tensor:
        # (num_rows, basic actions), (num_rows, 1), (num_rows, KEY_SIZE)
        basic, common, query = outputs.tensor_split((-1 - KEY_SIZE, -KEY_SIZE), 1)
        query = query.unsqueeze(1) / math.sqrt(KEY_SIZE)  # (num_rows, 1, KEY_SIZE)
        matches = _fit((targets.enemies * query).sum(2), self.num_targets)
        if targets.heals is not None:
            helps = _fit((targets.allies * query).sum(2), targets.allies.shape[1] + 1)
            helps = helps.gather(1, targets.rows)  # (num_rows, num_targets)
            matches = torch.where(targets.heals, helps, matches)
        return torch.cat([basic, common + matches], 1)  # (num_rows, basic actions + num_targets)

    def _read(self, inputs: Tensor) -> tuple[Tensor, TargetKeys]:
        own = inputs.index_select(1, self.own_columns)  # (num_rows, own)
        queries = torch.addmm(self.query_bias, own, self.query_weight)  # (num_rows, 2 * KEY_SIZE)
        agent = None
        if self.entities.agent_id:
            agent = inputs.index_select(1, self.id_columns).argmax(1)  # (num_rows,)
        enemy_marks, ally_marks = self._marks(inputs, agent)
        enemies = _units(_take(inputs, self.enemy_columns), enemy_marks)
        allies = _units(_take(inputs, self.ally_columns), ally_marks)
        enemy_sum, enemy_keys = self.enemies(enemies, queries[:, :KEY_SIZE])
        ally_sum, ally_keys = self.allies(allies, queries[:, KEY_SIZE:])
        features = torch.addmm(self.own_bias, own, self.own_weight).relu() + enemy_sum + ally_sum
        heals, rows = None, None
        if self.has_healers and self.num_targets:
            heals = _take(inputs, self.healer_columns_0).sum(2) > 0  # (num_rows, 1)
            rows = self.row_of_ally[agent]  # (num_rows, num_targets)
        return features, TargetKeys(enemy_keys, ally_keys, heals, rows)

    def _marks(self, inputs: Tensor, agent: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return the marks of targeted enemies and allies: (num_rows, units) per item of `aims`."""
        enemies, allies = [], []
        for at in range(len(self.entities.aims)):
            slots = _take(inputs, getattr(self, f"slot_columns_{at}"))  # (num_rows, units, slots)
            heals = _take(inputs, getattr(self, f"healer_columns_{at}")).sum(2, keepdim=True)
            helps = (slots * heals).sum(1)  # (num_rows, slots)
            enemies.append(_fit(slots.sum(1) - helps, len(self.entities.enemies)))
            helps = _fit(helps, self.num_agents)
            if agent is not None:
                helps = helps.gather(1, self.ally_of_row[agent])  # (num_rows, allies with a row)
            allies.append(helps)
        return enemies, allies


def _take(inputs: Tensor, columns: Tensor) -> Tensor:
    """Return columns (rows, width) of inputs (num_rows, input_size): (num_rows, rows, width)."""
    taken = inputs.index_select(1, columns.flatten())  # (num_rows, rows * width)
    return taken.view(len(inputs), *columns.shape)  # (num_rows, rows, width)


def _fit(numbers: Tensor, width: int) -> Tensor:
    """Truncate or zero-pad numbers (num_rows, any) to (num_rows, width)."""
    return functional.pad(numbers, (0, width - numbers.shape[1]))


def _units(rows: Tensor, marks: list[Tensor]) -> Tensor:
    """Return rows of units with marks, and 1, appended if seen: (num_rows, units, width)."""
    seen = rows.any(2)  # (num_rows, units)
    appended = torch.stack([*(mark * seen for mark in marks), seen], 2)  # (num_rows, units, more)
    return torch.cat([rows, appended], 2)  # (num_rows, units, width)
