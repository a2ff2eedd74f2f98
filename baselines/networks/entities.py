"""The columns of observation and state that belong to each unit."""

import dataclasses
from typing import Any

from baselines.errors import UsageError
from smacv2.layout import Block, Layout
from smacv2.scenario import load_unit_types

ColumnIndices = tuple[int, ...]
RowColumns = tuple[ColumnIndices, ...]
"""ColumnIndices of each row, all of one length."""


@dataclasses.dataclass(frozen=True)
class Aims:
    """Per-unit values that refer to a target: an enemy, or an ally if the unit is a healer."""

    slots: RowColumns
    """ColumnIndices of each unit's values, one per target slot."""
    healer: RowColumns
    """ColumnIndices that are 1 if the unit is a healer; empty if no unit type heals."""


@dataclasses.dataclass(frozen=True)
class Entities:
    """The columns of the entities in one input of a network."""

    own: ColumnIndices
    """ColumnIndices that belong to no entity."""
    enemies: RowColumns
    """Features of each enemy; all 0 if it is not seen."""
    allies: RowColumns
    """Features of each ally, ordered by index; the agent itself may be left out."""
    aims: tuple[Aims, ...]
    """Per-unit values that refer to targets; they become features of the targets."""
    agent_id: ColumnIndices
    """One-hot of the agent's index; empty if all allies have a row."""


def obs_entities(layout: Layout, last_action: bool = False) -> Entities:
    """Return the entities' columns in [obs, last action's one-hot if asked, agent's one-hot].

    Raises:
        UsageError: the observation has no entity rows.
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
    """Return the entities' columns in the state.

    Raises:
        UsageError: the state has no entity rows.
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
        UsageError: the environment has no layout.
    """
    layout = getattr(sizes, "layout", None)
    if layout is None:
        spec = getattr(sizes, "spec", None)
        name = spec.id if spec else type(sizes).__name__
        raise UsageError(f"--encoder attention needs entity rows: {name} has no layout")
    return layout


def _columns(block: Block) -> ColumnIndices:
    return tuple(range(block.offset, block.end))


def _rows(block: Block, part: str = "", but: str = "\n") -> RowColumns:
    """Return the columns of each row whose names contain `part`, but not `but`."""
    places = [at for at, name in enumerate(block.row) if part in name and but not in name]
    starts = range(block.offset, block.end, block.width)
    return tuple(tuple(start + at for at in places) for start in starts)


def _healers(layout: Layout, block: Block) -> RowColumns:
    """Return the columns of each row that mark the unit types that heal."""
    types, bits = load_unit_types(), _rows(block, "unit_type")
    heals = [at for at, name in enumerate(layout.unit_types) if types[name].heal is not None]
    return tuple(tuple(row[at] for at in heals) for row in bits)
