"""Types of one game's arrays: compilers make faster code of known lengths and known rules."""

import numpy as np

from smacv2.battle import BattleState, Outputs
from smacv2.engine.expressions import Array, Type
from smacv2.engine.tables import Tables
from smacv2.engine.translate import BATCH, TABLES


def battle_types(state: BattleState, tables: Tables, outputs: Outputs) -> dict[str, Type]:
    """Return types that can replace ``translate.BATTLE`` for the battles of a game."""
    batch = {
        "unit": state.units, "world": state.world, "sights": state.sights,
        "obs": outputs.obs, "state": outputs.state, "mask": outputs.action_mask,
    }  # fmt: skip
    num_agents = outputs.action_mask.shape[1]
    return {
        **{name: _type(getattr(tables, name)) for name in TABLES},
        **{name: _type(array[0]) for name, array in batch.items()},
        "actions": Array("int32", (num_agents,)),
        "rules": Array.baked(tables.rules),
    }


def batch_types(state: BattleState, tables: Tables, outputs: Outputs) -> dict[str, Type]:
    """Return types that can replace ``translate.BATCH`` for the battles of a game."""
    battle = battle_types(state, tables, outputs)
    types: dict[str, Type] = {**BATCH, **{name: battle[name] for name in TABLES}}
    for name, type_ in {**battle, "units": battle["unit"]}.items():
        if name not in TABLES and isinstance(type_, Array):
            types[name] = Array(type_.element, (None, *type_.extents))
    return types


def _type(array: np.ndarray) -> Array:
    return Array(array.dtype.name, array.shape)
