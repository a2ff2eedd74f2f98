"""Checks of phases that need uncompiled rules: lanes at once, units and items in any order.

    NUMBA_DISABLE_JIT=1 python -m tests.smacv2.uncompiled lanes terran_5_vs_5

Each check plays the same battle twice, once in the plain way, and compares the bytes.
"""

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from smacv2.battle import BattleState, Outputs, set_seeds
from smacv2.engine import loop
from smacv2.engine.observe import count_items, write_item
from smacv2.engine.orders import write_mask
from smacv2.engine.tables import Tables
from smacv2.layout import Layout
from smacv2.scenario import load_scenario
from tests.smacv2.lanes import play_by_lanes

STEPS = 30
LANES = (2, 3, 7)
"""Any two of at most 42 units have different lanes in one of these divisions."""


class Battle:
    """One battle of a scenario with random actions, played by ``lanes`` lanes."""

    def __init__(self, name: str, lanes: int = 1, seed: int = 3):
        scenario = load_scenario(name)
        layout = Layout.of(scenario, scenario.options)
        self.tables = Tables.build(scenario, scenario.options, layout)
        for table in vars(self.tables).values():
            table.setflags(write=False)
        self.lanes = lanes
        self._batch = BattleState.empty(1, scenario.num_agents, scenario.num_enemies)
        set_seeds(self._batch.world, np.ones(1, bool), np.array([seed]))
        self.unit, self.world, self.sights = (
            block[0] for block in (self._batch.units, self._batch.world, self._batch.sights)
        )
        outputs = Outputs.empty(1, layout)
        self.obs, self.state, self.mask = outputs.obs[0], outputs.state[0], outputs.action_mask[0]
        self._rng = np.random.default_rng(seed)

    def play(self) -> Iterator[bytes]:
        """Yield the battle's bytes after the reset and after each step."""
        tables = self.tables
        self._run(
            loop.start_episode, self.unit, self.world, self.sights, tables.kinds, tables.rules,
            tables.teams, tables.points, tables.spiral, tables.pathing,
        )  # fmt: skip
        yield self._bytes()
        for _ in range(STEPS):
            write_mask(
                self.unit, tables.kinds, tables.rules, tables.cone, tables.pathing, self.mask
            )
            actions = (self._rng.random(self.mask.shape) * self.mask).argmax(-1).astype(np.int32)
            self._run(
                loop.play_step, self.unit, self.world, tables.kinds, tables.rules, tables.cone,
                self.mask, actions,
            )  # fmt: skip
            yield self._bytes()

    def _run(self, rule: Any, *args: Any) -> None:
        if self.lanes == 1:
            rule(*args, 0, 1)
        else:
            play_by_lanes(rule, args, self.lanes)

    def _bytes(self) -> bytes:
        return b"".join(block.tobytes() for block in (self.unit, self.world, self.sights))


def check_lanes(name: str) -> None:
    """Check that several lanes give the bytes of one lane; ``play_by_lanes`` finds races."""
    alone = list(Battle(name).play())
    for lanes in LANES:
        for step, after in enumerate(Battle(name, lanes).play()):
            assert after == alone[step], (lanes, step)


def check_order(name: str) -> None:
    """Check that the order of units within a phase does not matter."""
    plain = list(Battle(name).play())
    for seed in range(2):
        with units_in_random_order(np.random.default_rng(seed)):
            for step, after in enumerate(Battle(name).play()):
                assert after == plain[step], (seed, step)


@contextmanager
def units_in_random_order(rng: np.random.Generator) -> Iterator[None]:
    """Shuffle the loops over units of a phase: those of ``loop.py`` with three bounds."""

    def shuffled(*bounds: int) -> Any:
        numbers = builtins.range(*bounds)
        return rng.permutation(numbers).tolist() if len(bounds) == 3 else numbers

    module: Any = loop
    module.range = shuffled
    try:
        yield
    finally:
        del module.range


class Claimed:
    """An array whose numbers belong to the first item that writes them, and to no other."""

    NOBODY = -1

    def __init__(self, array: np.ndarray, owners: np.ndarray, item: int):
        self.shape = array.shape
        self._array, self._owners, self._item = array, owners, item

    def __getitem__(self, row: int) -> "Claimed":
        """Return a row, claimed too; items read nothing of what they write."""
        return Claimed(self._array[row], self._owners[row], self._item)

    def __setitem__(self, index: int, value: Any) -> None:
        """Write a number."""
        assert self._owners[index] in (self.NOBODY, self._item)
        self._owners[index] = self._item
        self._array[index] = value


def check_items(name: str) -> None:
    """Check that items in any order write the bytes of ``show``, one item per column."""
    battle = Battle(name)
    tables = battle.tables
    rng = np.random.default_rng(0)
    for _ in battle.play():
        seen = (battle.unit, battle.world, battle.sights, tables.kinds, tables.rules, tables.cone)
        loop.show(*seen, tables.pathing, battle.obs, battle.state, battle.mask)
        arrays = [np.full_like(array, np.nan) for array in (battle.obs, battle.state)]
        owners = [np.full(array.shape, Claimed.NOBODY) for array in arrays]
        for item in rng.permutation(count_items(tables.rules)).tolist():
            obs, state = (Claimed(*pair, item) for pair in zip(arrays, owners, strict=True))
            write_item(*seen, tables.pathing, battle.mask, obs, state, item)
        assert all((owner != Claimed.NOBODY).all() for owner in owners)
        assert arrays[0].tobytes() == battle.obs.tobytes()
        assert arrays[1].tobytes() == battle.state.tobytes()


CHECKS = {"lanes": check_lanes, "order": check_order, "items": check_items}

if __name__ == "__main__":
    for check in sys.argv[1].split(","):
        CHECKS[check](sys.argv[2])
