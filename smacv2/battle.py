"""The state and outputs of a batch of battles, and the protocol that every backend fulfils.

The state of the battles is three integer blocks, with the battle axis first:

* ``units``  ``(num_envs, len(UNIT_FIELDS), num_units)`` int32, allies before enemies,
* ``world``  ``(num_envs, len(WORLD_FIELDS))`` int32,
* ``sights`` ``(num_envs, num_agents, num_enemies)`` int8, bits for what agents may see of enemies.

A rule works on one battle, ``unit = units[b]``, and reads ``unit[HEALTH, target]``. To copy, hash
or save battles, or to move them to another device, takes one operation per block. Outside the
rules ``BattleState`` names every row: ``state.health`` is the view ``units[:, HEALTH]``.

Units of measure: *fixed* is 1/4096 (``engine/fixed.py``), distances in cells, times in ticks; one
tick is one game loop, 1/16 game second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from smacv2.layout import Layout

UNIT_FIELDS = {
    "unit_type": "index into units.toml (alphabetical)",
    "radius": "fixed cells, for ranges and splash; NOT_THERE when dead",
    "collision": "fixed cells, for collisions; NOT_THERE when dead",
    "x": "fixed cells, east",
    "y": "fixed cells, north",
    "velocity_x": "fixed cells per tick, as wanted in this tick",
    "velocity_y": "fixed cells per tick, as wanted in this tick",
    "stance": "STANCE bits at the end of the last tick, for others to read while the unit acts",
    "health": "fixed hit points; 0 when dead",
    "order": "ORDER_IDLE, _MOVE, _ATTACK, _ACQUIRED (by scanning), _RETALIATE (being hit), "
    "_HEAL or _FOLLOW",
    "order_target": "unit index, or -1",
    "swing_ticks": "fixed ticks until the second hit of a swing, 0 without one",
    "missile_target": "unit index that this unit's missile follows, or -1",
    "patient": "unit index that this medivac had orders to heal at the end of the last tick, or -1",
    "event": "EVENT bits: what this unit lands in this tick, in random order among the units",
    "turn": "units in random order (a scratch list)",
    "push_x": "fixed cells, collision correction of this tick",
    "push_y": "fixed cells, collision correction of this tick",
    "steer": "side on which the unit walks around a blocker: -1 right, 0 straight on, 1 left",
    "blocked": "ticks left of walking around others, reset when collisions take most of a move",
    "face_x": "fixed, x of the unit vector the unit faces",
    "face_y": "fixed, y of the same vector",
    "cooldown": "fixed ticks until the weapon is ready, 0 when ready",
    "phase": "PHASE_READY, PHASE_WINDUP or PHASE_CHANNEL",
    "backswing": "fixed ticks left of the pause after a shot",
    "order_x": "fixed cells, destination of a move",
    "order_y": "fixed cells, destination of a move",
    "passive": "1: acquires no targets and does not retaliate (agents), 0: a standard type",
    "beam_target": "unit index of the main target of a running beam volley, or -1",
    "shield": "fixed hit points",
    "energy": "fixed energy",
    "damaged_at": "tick of the last damage taken",
    "helped_at": "tick of the last call for help",
    "phase_ticks": "fixed ticks of wind-up left",
    "weapon": "index of the weapon being wound up",
    "swing_target": "unit index of the target of a swing's second hit, or -1",
    "missile_x": "fixed cells",
    "missile_y": "fixed cells",
    "missile_weapon": "index of the weapon that launched it",
    "beam_tick": "ticks since the volley was fired",
    "burst": "1: a death burst of this unit waits to be resolved; 2: it has been resolved",
    "healed_at": "tick in which a medivac last healed this unit",
    "attack_chance": "probability that an attack order is sent, times CHANCE_ONE",
    "health_level": "fraction of full health below which the unit dies, times CHANCE_ONE",
    "last_action": "the agent's last action",
    "looking": "index of the agent's view direction",
    "seen_health": "fixed hit points at the last observation",
    "seen_shield": "fixed hit points at the last observation",
    "spotter": "agent that first spotted this enemy, or -1 (prob_obs_enemy)",
}
"""Rows of the ``units`` block in order, with units of measure; beam rows follow (``unit_rows``)."""

(
    UNIT_TYPE, RADIUS, COLLISION, X, Y, VELOCITY_X, VELOCITY_Y, STANCE, HEALTH, ORDER, ORDER_TARGET,
    SWING_TICKS, MISSILE_TARGET, PATIENT, EVENT, TURN, PUSH_X, PUSH_Y, STEER, BLOCKED, FACE_X,
    FACE_Y, COOLDOWN, PHASE, BACKSWING, ORDER_X, ORDER_Y, PASSIVE, BEAM_TARGET, SHIELD, ENERGY,
    DAMAGED_AT, HELPED_AT, PHASE_TICKS, WEAPON, SWING_TARGET, MISSILE_X, MISSILE_Y, MISSILE_WEAPON,
    BEAM_TICK, BURST, HEALED_AT, ATTACK_CHANCE, HEALTH_LEVEL, LAST_ACTION, LOOKING, SEEN_HEALTH,
    SEEN_SHIELD, SPOTTER,
) = range(len(UNIT_FIELDS))  # fmt: skip

HOTTEST_ROWS, HOT_ROWS = PUSH_X, SHIELD
"""Rows before the first are read by other units in every tick, rows before the second by most
units of themselves: a GPU keeps them in shared memory."""

BEAM_TOUCHED = len(UNIT_FIELDS)
"""First of the beam rows, whose bits are units of the other side, one or more words per beam.

The first set says which units the shooter's volley has touched. ``SPLASH_SLOTS`` sets follow: a
ring of ticks that says which units the shooter's beams hit in each.
"""

SPLASH_SLOTS = 5
"""Ticks in the ring of beam hits: one more than hits may be delayed."""

WORD_BITS = 31
"""Units per ``int32`` word of beam bits (the sign bit stays clear)."""

WORLD_FIELDS = {
    "seed_low": "low 32 bits of the battle's seed",
    "seed_high": "high 32 bits of the battle's seed",
    "episode": "episodes started since the seed was set, minus one: -1 before the first",
    "tick": "game loops played in this episode",
    "step": "environment steps played in this episode",
    "trigger_phase": "tick modulo the trigger period at which idle enemies get new orders",
    "over": "1: the battle has ended, the next step resets it",
    "outcome": "OUTCOME_RUNNING, _WON, _LOST, _DRAWN or _TIMEOUT",
    "dead_allies": "units",
    "dead_enemies": "units",
    "illegal_actions": "agents whose action was replaced in the last step",
    "max_reward": "points of killing all enemies and winning, by which the reward is scaled",
    "first_max_reward": "life of the first episode's enemies (modes that keep defect B2), else 0",
    "bursts": "death bursts waiting to be resolved",
    "finished": "episodes that ended since the seed was set",
}
"""Columns of the ``world`` block in order, with units of measure."""

(
    SEED_LOW, SEED_HIGH, EPISODE, TICK, STEP, TRIGGER_PHASE, OVER, OUTCOME, DEAD_ALLIES,
    DEAD_ENEMIES, ILLEGAL_ACTIONS, MAX_REWARD, FIRST_MAX_REWARD, BURSTS, FINISHED,
) = range(len(WORLD_FIELDS))  # fmt: skip

(
    ORDER_IDLE, ORDER_MOVE, ORDER_ATTACK, ORDER_ACQUIRED, ORDER_RETALIATE, ORDER_HEAL, ORDER_FOLLOW,
) = range(7)  # fmt: skip
STANCE_WALKING, STANCE_FIRM, STANCE_BLOCKED, STANCE_HEALING = (1 << bit for bit in range(4))
(
    EVENT_SHOT, EVENT_MISSILE, EVENT_SWING, EVENT_BEAMS, EVENT_SPLASH, EVENT_HEAL,
) = (1 << bit for bit in range(6))  # fmt: skip
PHASE_READY, PHASE_WINDUP, PHASE_CHANNEL = range(3)
NOT_THERE = -(1 << 20)
"""Radius of a dead unit: so far below zero that nothing is ever near it."""

OUTCOME_RUNNING, OUTCOME_WON, OUTCOME_LOST, OUTCOME_DRAWN, OUTCOME_TIMEOUT = range(5)

SIGHT_MASKED = 1
"""Bit of ``sights``: the enemy mask hides this enemy's health, shield and type from this agent."""
SIGHT_SHARED = 2
"""Bit of ``sights``: under ``prob_obs_enemy`` this agent may see this enemy."""

CHANCE_ONE = 1 << 24
"""Probability 1 in the fields that hold probabilities; every value is exact in float32."""


def unit_rows(num_agents: int, num_enemies: int) -> int:
    """Return the number of rows of the ``units`` block, beam memory included."""
    return BEAM_TOUCHED + 2 * (1 + SPLASH_SLOTS) * touched_words(num_agents, num_enemies)


def touched_words(num_agents: int, num_enemies: int) -> int:
    """Return the words per beam that hold a bit for every unit of the larger side."""
    return -(-max(num_agents, num_enemies) // WORD_BITS)


def set_seeds(world: np.ndarray, chosen: np.ndarray, seeds: np.ndarray) -> None:
    """Set the seeds of chosen battles, so that their next episode is episode 0.

    Args:
        world: ``(num_envs, len(WORLD_FIELDS))`` int32.
        chosen: ``(num_envs,)`` bool.
        seeds: ``(num_envs,)``, of any integer dtype.
    """
    words = np.ascontiguousarray(seeds.astype(np.uint64)).view(np.uint32).reshape(-1, 2)
    world[chosen, SEED_LOW] = words[chosen, 0].view(np.int32)
    world[chosen, SEED_HIGH] = words[chosen, 1].view(np.int32)
    world[chosen, EPISODE] = -1
    world[chosen, FINISHED] = 0
    world[chosen, FIRST_MAX_REWARD] = 0


@dataclass(frozen=True)
class BattleState:
    """A batch of battles as three integer blocks (see the module's docstring).

    Every key of ``UNIT_FIELDS`` is an attribute of shape ``(num_envs, num_units)`` and every key
    of ``WORLD_FIELDS`` one of shape ``(num_envs,)``: writable views, not copies.
    """

    units: np.ndarray  # (num_envs, rows, num_units) int32
    world: np.ndarray  # (num_envs, len(WORLD_FIELDS)) int32
    sights: np.ndarray  # (num_envs, num_agents, num_enemies) int8

    @classmethod
    def empty(cls, num_envs: int, num_agents: int, num_enemies: int) -> "BattleState":
        """Return a batch of zeroed battles."""
        rows = unit_rows(num_agents, num_enemies)
        return cls(
            units=np.zeros((num_envs, rows, num_agents + num_enemies), np.int32),
            world=np.zeros((num_envs, len(WORLD_FIELDS)), np.int32),
            sights=np.zeros((num_envs, num_agents, num_enemies), np.int8),
        )

    def __getattr__(self, name: str) -> np.ndarray:
        """Return the row or column called ``name`` as a view."""
        if name in _UNIT_ROW:
            return self.units[:, _UNIT_ROW[name]]
        if name in _WORLD_COLUMN:
            return self.world[:, _WORLD_COLUMN[name]]
        raise AttributeError(f"BattleState has no field {name!r}; see UNIT_FIELDS and WORLD_FIELDS")


_UNIT_ROW = {name: row for row, name in enumerate(UNIT_FIELDS)}
_WORLD_COLUMN = {name: column for column, name in enumerate(WORLD_FIELDS)}


@dataclass(frozen=True)
class Outputs:
    """Arrays that agents and learners read, overwritten by every step and reset."""

    obs: np.ndarray  # (num_envs, num_agents, obs_size) float32
    state: np.ndarray  # (num_envs, state_size) float32
    action_mask: np.ndarray  # (num_envs, num_agents, num_actions) int8
    reward: np.ndarray  # (num_envs,) float32
    terminated: np.ndarray  # (num_envs,) bool
    truncated: np.ndarray  # (num_envs,) bool

    @classmethod
    def empty(cls, num_envs: int, layout: Layout) -> "Outputs":
        """Return zeroed arrays for a batch."""
        agents = layout.num_agents
        return cls(
            obs=np.zeros((num_envs, agents, layout.obs_size), np.float32),
            state=np.zeros((num_envs, layout.state_size), np.float32),
            action_mask=np.zeros((num_envs, agents, layout.num_actions), np.int8),
            reward=np.zeros(num_envs, np.float32),
            terminated=np.zeros(num_envs, np.bool_),
            truncated=np.zeros(num_envs, np.bool_),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Backend(Protocol):
    """A batch of battles that can be played: in the embedded engine, or in StarCraft II.

    Environments, scripted policies and ``smacv2 play`` use nothing else of a backend, so whatever
    fulfils this protocol can replace the engine. All arrays are in host memory; they are
    current after every call below.
    """

    @property
    def layout(self) -> Layout:
        """Sizes, offsets and names of observations, state and actions."""

    @property
    def state(self) -> BattleState:
        """The battles. The environment reads health, outcome, counts of losses and ``over``."""

    @property
    def outputs(self) -> Outputs:
        """The arrays that every reset and step overwrites."""

    @property
    def fingerprint(self) -> dict[str, str | int]:
        """Everything that decides results: engine version, scenario hash, options, device class."""

    def reset(self, mask: np.ndarray, seeds: np.ndarray | None) -> None:
        """Start new battles where ``mask`` ``(num_envs,)`` bool is set.

        Args:
            mask: The battles to reset; the others are left as they are.
            seeds: ``(num_envs,)`` uint64, to start episode 0 of these seeds; None starts the next
                episode of each battle's own seed.
        """

    def step(self, actions: np.ndarray) -> None:
        """Play one step of every battle; a battle that is over is reset instead (NEXT_STEP).

        Args:
            actions: ``(num_envs, num_agents)`` int32, contiguous.
        """

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return copies of everything that ``restore`` needs to continue bit for bit."""

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Continue from a ``checkpoint`` of a backend with the same scenario and options.

        Raises:
            ValueError: The checkpoint is of another game, or an array is missing or has another
                shape; nothing has been changed.
        """

    def close(self) -> None:
        """Release threads, processes and devices."""
