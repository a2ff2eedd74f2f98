"""Battles set up by hand: place units, give orders, play tick by tick.

battle = Sandbox([Unit("marine", 8, 16)], [Unit("marine", 13, 16, passive=True)], jitter=False)
battle.attack(0, 1)
battle.tick(2)
battle.health(1)  # 39.0: the first shot has landed
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smacv2.battle import (
    ORDER_ATTACK,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_MOVE,
    PHASE_READY,
    TICK,
    BattleState,
)
from smacv2.engine.backend import EngineBackend
from smacv2.engine.compile import entry_point
from smacv2.engine.cpu import compiled_loops
from smacv2.engine.fixed import ONE, to_fixed
from smacv2.engine.loop import play_tick
from smacv2.engine.tables import (
    K_HEALTH_REGEN,
    K_SHIELD_REGEN,
    K_WEAPONS,
    START_TICKS,
    TRIGGER_PERIOD,
    W_DAMAGE,
    W_JITTER_LOW,
    W_JITTER_SPAN,
)
from smacv2.scenario import load_unit_types, parse_scenario


@dataclass(frozen=True)
class Unit:
    """A unit to set up; None gives a field the initial value of the unit's type.

    ``passive`` None: allies are passive, as agents' units are, and enemies are not.
    ``facing`` None: towards the first unit of the other side.
    """

    kind: str
    x: float
    y: float
    health: float | None = None
    shield: float | None = None
    energy: float | None = None
    passive: bool | None = None
    facing: tuple[float, float] | None = None


@entry_point
def tick_range(first, last, units, world, kinds, rules):
    """Play one game loop of battles [first, last)."""
    for b in range(first, last):
        play_tick(units[b], world[b], kinds, rules, world[b, TICK] + 1, 0, 1)


class Sandbox:
    """Identical battles with chosen units, one per seed.

    Args:
        allies: Units 0, 1, ... in this order.
        enemies: The units after them.
        num_envs: Copies of the battle; copy i is seeded ``seed + i``.
        seed: Decides update order and cooldown delays.
        jitter: Whether cooldowns have their random delay.
        regeneration: Whether health and shields regenerate.
        trigger: Whether the map's trigger orders idle enemies every 8 ticks.
        **options: Any field of ``Options``.
    """

    def __init__(
        self,
        allies: Sequence[Unit],
        enemies: Sequence[Unit],
        *,
        num_envs: int = 1,
        seed: int = 0,
        jitter: bool = True,
        regeneration: bool = True,
        trigger: bool = False,
        **options: Any,
    ):
        self.units = [*allies, *enemies]
        scenario = _scenario(allies, enemies)
        self.backend = EngineBackend(
            scenario, scenario.options.replace(**options), num_envs, num_threads=1
        )
        _, loops = compiled_loops()  # of any game: the rules change here
        self.backend.driver.use(loops)
        tables = self.backend.tables
        tables.rules[START_TICKS] = 0
        if not trigger:
            tables.rules[TRIGGER_PERIOD] = 0
        if not jitter:
            _remove_jitter(tables.kinds)
        if not regeneration:
            tables.kinds[:, [K_HEALTH_REGEN, K_SHIELD_REGEN]] = 0
        seeds = np.arange(seed, seed + num_envs, dtype=np.uint64)
        self.backend.reset(np.ones(num_envs, np.bool_), seeds)
        for index, unit in enumerate(self.units):
            self._arrange(index, unit, (enemies if index < len(allies) else allies)[0])
        self.backend.driver.show()

    @property
    def state(self) -> BattleState:
        """The battles' state; all fields are readable and writable."""
        return self.backend.state

    def _arrange(self, index: int, unit: Unit, opponent: Unit) -> None:
        facing = unit.facing or (opponent.x - unit.x, opponent.y - unit.y)
        size = float(np.hypot(*facing)) or 1.0
        kind = load_unit_types()[unit.kind]
        values = {
            "x": unit.x,
            "y": unit.y,
            "face_x": facing[0] / size,
            "face_y": facing[1] / size,
            "radius": kind.radius,
            "collision": kind.collision_radius,
            "health": kind.health_max if unit.health is None else unit.health,
            "shield": kind.shield_max if unit.shield is None else unit.shield,
            "energy": kind.energy_start if unit.energy is None else unit.energy,
        }
        for name, value in values.items():
            getattr(self.state, name)[:, index] = to_fixed(value)
        self.state.unit_type[:, index] = kind.index
        if unit.passive is not None:
            self.state.passive[:, index] = unit.passive
        self.state.seen_health[:, index] = self.state.health[:, index]
        self.state.seen_shield[:, index] = self.state.shield[:, index]

    def attack(self, unit: int, target: int) -> None:
        """Order a unit to attack another, without the checks of an agent's action."""
        self._order(unit, ORDER_ATTACK, target)

    def heal(self, unit: int, target: int) -> None:
        """Order a medivac to heal a friend."""
        self._order(unit, ORDER_HEAL, target)

    def move(self, unit: int, x: float, y: float) -> None:
        """Order a unit to walk to a point (cells)."""
        self._order(unit, ORDER_MOVE, -1)
        self.state.order_x[:, unit] = to_fixed(x)
        self.state.order_y[:, unit] = to_fixed(y)

    def stop(self, unit: int) -> None:
        """Clear a unit's orders."""
        self._order(unit, ORDER_IDLE, -1)

    def _order(self, unit: int, order: int, target: int) -> None:
        self.state.order[:, unit] = order
        self.state.order_target[:, unit] = target
        self.state.phase[:, unit] = PHASE_READY
        self.state.backswing[:, unit] = 0

    def tick(self, count: int = 1) -> None:
        """Play game loops."""
        tables = self.backend.tables
        for _ in range(count):
            tick_range(
                0, len(self.state.world), self.state.units, self.state.world, tables.kinds,
                tables.rules,
            )  # fmt: skip

    def value(self, name: str, unit: int, env: int = 0) -> float:
        """Return a fixed-point field of one unit as a float (see ``UNIT_FIELDS``)."""
        return float(getattr(self.state, name)[env, unit]) / ONE

    def health(self, unit: int, env: int = 0) -> float:
        """Return a unit's health."""
        return self.value("health", unit, env)

    def shield(self, unit: int, env: int = 0) -> float:
        """Return a unit's shield."""
        return self.value("shield", unit, env)

    def position(self, unit: int, env: int = 0) -> tuple[float, float]:
        """Return a unit's position in cells."""
        return self.value("x", unit, env), self.value("y", unit, env)


def _scenario(allies: Sequence[Unit], enemies: Sequence[Unit]) -> Any:
    """Return a scenario with exactly these units; positions are set afterwards."""
    ally, enemy = ([unit.kind for unit in side] for side in (allies, enemies))
    source = {
        "summary": "units set up by hand",
        "race": load_unit_types()[ally[0]].race,
        "num_agents": len(ally),
        "num_enemies": len(enemy),
        "episode_limit": 200,
        "arena": "32x32_flat",
        "team": {
            "kind": "fixed",
            "unit_types": sorted({*ally, *enemy}),
            "items": [{"ally": ally, "enemy": enemy}],
        },
    }
    return parse_scenario(source, name="sandbox", file="sandbox")


def _remove_jitter(kinds: np.ndarray) -> None:
    width = W_DAMAGE + len(kinds)
    for offset in range(K_WEAPONS, kinds.shape[1], width):
        kinds[:, [offset + W_JITTER_LOW, offset + W_JITTER_SPAN]] = 0
