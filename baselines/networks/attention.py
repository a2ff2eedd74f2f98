"""Attention over entities: what networks know of the units that an observation lists.

The order in which enemies and allies are listed does not matter, and the value of attacking an
enemy comes from that enemy's own row. docs/encoders.md has the formulas.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.errors import UsageError
from smacv2.layout import Block, Layout
from smacv2.scenario import load_unit_types

HEADS = 2  # 1 where the hidden size is odd
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
    own_healer = _healers(layout, layout.obs_own)
    shootable = _rows(layout.obs_enemies, "shootable")
    aims = [Aims((tuple(column for row in shootable for column in row),), own_healer)]
    own = [
        *(_columns(layout.obs_move) + _columns(layout.obs_own) + _columns(layout.obs_timestep)),
        *(range(layout.obs_size, layout.obs_size + basic) if last_action else ()),
    ]
    end = layout.obs_size + layout.num_actions * last_action
    if last_action:
        aims.append(Aims((tuple(range(layout.obs_size + basic, end)),), own_healer))
    allies = _rows(layout.obs_allies, but="last_action")
    actions = _rows(layout.obs_allies, "last_action")
    if actions and actions[0]:
        slots = tuple(row[basic:] for row in actions)
        aims.append(Aims(slots, _healers(layout, layout.obs_allies)))
        allies = tuple(row + more[:basic] for row, more in zip(allies, actions, strict=True))
    return Entities(
        own=tuple(own),
        enemies=_rows(layout.obs_enemies, but="shootable"),
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
        healers = _healers(layout, layout.state_allies)
        aims = (Aims(tuple(row[basic:] for row in actions), healers),)
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


def _rows(block: Block, part: str = "", but: str = "\n") -> Rows:
    """Return the columns of each row: those whose names contain `part`, but not `but`."""
    places = [at for at, name in enumerate(block.row) if part in name and but not in name]
    starts = range(block.offset, block.end, block.width)
    return tuple(tuple(start + at for at in places) for start in starts)


def _healers(layout: Layout, block: Block) -> Rows:
    """Return the columns of each row that say that the unit's type is one that heals."""
    types, bits = load_unit_types(), _rows(block, "unit_type")
    heals = [at for at, name in enumerate(layout.unit_types) if types[name].heal is not None]
    return tuple(tuple(row[at] for at in heals) for row in bits)


class Targets(NamedTuple):
    """What the units tell that target actions name."""

    enemies: Tensor | None  # (num_rows, num_enemies, KEY_SIZE) keys; None without targets
    allies: Tensor | None  # (num_rows, allies with a row, KEY_SIZE) keys; None where no unit heals
    heals: Tensor | None  # (num_rows, 1) bool, its targets are allies; None where no unit heals
    rows: Tensor | None  # (num_rows, num_targets) int64 row of each ally, past the last for none


class Team(nn.Module):
    """Embed the units of a team and sum them up, each weighted by how well it fits a query.

    Weights are (inputs, outputs): so the gradient of a narrow layer takes a quarter of the time.

    Args:
        width: features of a unit, the last of which is 1.
        size: width of its embedding.
        are_targets: whether actions may name its units.
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
            units: (num_rows, num_units, width); all 0 where a unit is not seen, so that its
                embedding and its keys are 0 as well.
            query: (num_rows, KEY_SIZE).

        Returns:
            (num_rows, size) and (num_rows, num_units, KEY_SIZE).
        """
        num_rows, num_units, _ = units.shape
        rows, heads = units.flatten(0, 1), (num_rows, num_units, self.heads)
        keys = (rows @ self.key_weight).view(num_rows, num_units, KEY_SIZE)
        query = query / math.sqrt(KEY_SIZE / self.heads)
        scores = (keys * query.unsqueeze(1)).view(*heads, KEY_SIZE // self.heads).sum(3)
        embeddings = (rows @ self.weight).relu_().view(*heads, self.weight.shape[1] // self.heads)
        summed = (embeddings * scores.sigmoid().unsqueeze(3)).sum(1).flatten(1)
        if self.target_weight is None:
            return summed, None
        return summed, (rows @ self.target_weight).relu_().view(num_rows, num_units, KEY_SIZE)


class EntityAttention(nn.Module):
    """Sum up the units that an agent sees into features, whatever their order.

    Features are the embedding of what is the agent's own plus those of the units. An embedding is
    one linear layer with ReLU; own features, enemies and allies each have theirs. A unit's counts,
    in each of `HEADS` parts of the features, by sigmoid(key · query / √size), where the key is
    linear in the unit's row and the query in what is own. Units that are not seen count nothing.

    A target action has a key too, one more linear layer with ReLU of the row of the unit it names,
    which `logits` multiplies with a query that the whole network makes.

    Its parameters are in no `nn.Linear`, since rows of units are no rows of a batch.

    Args:
        entities: where they stand in an input.
        hidden_size: width of the features.
        num_targets: how many target actions there are; 0 for a network that chooses none.
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
        self._keep_columns()
        self.reset_parameters()

    def _keep_columns(self) -> None:
        """Keep tables of indices as buffers, so that they follow the module to its device."""

        def keep(name: str, table: Any) -> None:
            self.register_buffer(name, torch.as_tensor(table, dtype=torch.long), persistent=False)

        entities, targets = self.entities, range(self.num_targets)
        keep("own_columns", entities.own)
        keep("id_columns", entities.agent_id)
        keep("enemy_columns", entities.enemies)
        keep("ally_columns", entities.allies or torch.empty(0, 0))
        for at, aims in enumerate(entities.aims):
            keep(f"slot_columns_{at}", aims.slots)
            keep(f"healer_columns_{at}", aims.healer)
        # An observation leaves its agent out: which ally has a row, and which row an ally has.
        agents, rows = range(len(entities.agent_id)), len(entities.allies)
        keep("ally_of_row", [[row + (row >= agent) for row in range(rows)] for agent in agents])
        others = [{row + (row >= agent): row for row in range(rows)} for agent in agents]
        keep("row_of_ally", [[other.get(ally, rows) for ally in targets] for other in others])

    def reset_parameters(self) -> None:
        """Draw orthogonal weights, and queries that differ from the start."""
        nn.init.orthogonal_(self.own_weight, math.sqrt(2))
        nn.init.zeros_(self.own_bias)
        nn.init.orthogonal_(self.query_weight)
        nn.init.normal_(self.query_bias)
        if not self.entities.own:  # a constant, against which the sum of units is large or small
            nn.init.uniform_(self.own_bias)

    @property
    def num_queries(self) -> int:
        """Numbers that `logits` takes for all targets together."""
        return 1 + KEY_SIZE if self.num_targets else 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return features (num_rows, hidden_size) of inputs (num_rows, input_size)."""
        return self.read(inputs)[0]

    def read(self, inputs: Tensor) -> tuple[Tensor, list[Targets]]:
        """Return features (num_rows, hidden_size), and what `logits` takes of the same rows."""
        parts = [self._read(chunk) for chunk in inputs.split(CHUNK)]
        return torch.cat([features for features, _ in parts]), [targets for _, targets in parts]

    def logits(self, outputs: Tensor, targets: list[Targets]) -> Tensor:
        """Turn what a linear head says of all targets into one number for each.

        Args:
            outputs: (num_rows, basic actions + num_queries): of the latter the first goes to all
                targets alike, the rest is the query.
            targets: from `read`.

        Returns:
            (num_rows, basic actions + num_targets); a target that is not seen, or is no unit, gets
            what goes to all.
        """
        if not self.num_targets:
            return outputs
        parts = zip(outputs.split(CHUNK), targets, strict=True)
        return torch.cat([self._logits(*part) for part in parts])

    def _logits(self, outputs: Tensor, targets: Targets) -> Tensor:
        basic, common, query = outputs.tensor_split((-1 - KEY_SIZE, -KEY_SIZE), 1)
        query = query.unsqueeze(1) / math.sqrt(KEY_SIZE)
        matches = _fit((targets.enemies * query).sum(2), self.num_targets)
        if targets.heals is not None:
            helps = _fit((targets.allies * query).sum(2), targets.allies.shape[1] + 1)
            matches = torch.where(targets.heals, helps.gather(1, targets.rows), matches)
        return torch.cat([basic, common + matches], 1)

    def _read(self, inputs: Tensor) -> tuple[Tensor, Targets]:
        own = inputs.index_select(1, self.own_columns)
        queries = torch.addmm(self.query_bias, own, self.query_weight)
        agent = (
            inputs.index_select(1, self.id_columns).argmax(1) if self.entities.agent_id else None
        )
        enemy_marks, ally_marks = self._marks(inputs, agent)
        enemies = _units(_take(inputs, self.enemy_columns), enemy_marks)
        allies = _units(_take(inputs, self.ally_columns), ally_marks)
        enemy_sum, enemy_keys = self.enemies(enemies, queries[:, :KEY_SIZE])
        ally_sum, ally_keys = self.allies(allies, queries[:, KEY_SIZE:])
        features = torch.addmm(self.own_bias, own, self.own_weight).relu() + enemy_sum + ally_sum
        heals, rows = None, None
        if self.has_healers and self.num_targets:
            heals = _take(inputs, self.healer_columns_0).sum(2) > 0
            rows = self.row_of_ally[agent]
        return features, Targets(enemy_keys, ally_keys, heals, rows)

    def _marks(self, inputs: Tensor, agent: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return what is aimed at enemies, and at allies: (num_rows, units) for each of `aims`."""
        enemies, allies = [], []
        for at in range(len(self.entities.aims)):
            slots = _take(inputs, getattr(self, f"slot_columns_{at}"))
            heals = _take(inputs, getattr(self, f"healer_columns_{at}")).sum(2, keepdim=True)
            helps = (slots * heals).sum(1)
            enemies.append(_fit(slots.sum(1) - helps, len(self.entities.enemies)))
            helps = _fit(helps, self.num_agents)
            allies.append(helps if agent is None else helps.gather(1, self.ally_of_row[agent]))
        return enemies, allies


def _take(inputs: Tensor, columns: Tensor) -> Tensor:
    """Return columns (rows, width) of inputs (num_rows, input_size): (num_rows, rows, width)."""
    return inputs.index_select(1, columns.flatten()).view(len(inputs), *columns.shape)


def _fit(numbers: Tensor, width: int) -> Tensor:
    """Return (num_rows, width): numbers (num_rows, any) without the last ones, or with zeros."""
    return functional.pad(numbers, (0, width - numbers.shape[1]))


def _units(rows: Tensor, marks: list[Tensor]) -> Tensor:
    """Append marks, and 1, to the rows of units that are seen: (num_rows, units, width)."""
    seen = rows.any(2)
    return torch.cat([rows, torch.stack([*(mark * seen for mark in marks), seen], 2)], 2)
