"""Scripted policies, with which learned ones are compared.

A policy belongs to one vector environment and returns an action for every agent of every battle:

    envs = SMACv2VectorEnv("terran_5_vs_5", num_envs=64)
    policy = NearestPolicy(envs)
    envs.reset(seed=0)
    envs.step(policy.act())
"""

from typing import Protocol

import numpy as np

from smacv2.engine.orders import EAST, NO_OP, NORTH, SOUTH, STOP, WEST
from smacv2.engine.tables import K_HEALS, K_HEALTH, K_SHOOT, Tables
from smacv2.gymnasium_env import SMACv2VectorEnv

NOBODY = -1


class Policy(Protocol):
    """A chooser of actions for all agents in all battles of one environment."""

    def act(self) -> np.ndarray:
        """Return legal actions ``(num_envs, num_agents)`` in the battles' present state."""


def random_legal(mask: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return one allowed action per row, each equally likely.

    Args:
        mask: ``(..., num_actions)``, 1 for allowed actions, else 0.
        noise: Independent uniform numbers above 0, in the shape of ``mask``.
    """
    chosen: np.ndarray = (mask * noise).argmax(axis=-1).astype(np.int32)
    return chosen


class RandomPolicy:
    """Choose one of the legal actions, each equally likely."""

    def __init__(self, envs: SMACv2VectorEnv, seed: int = 0):
        self._mask = envs.buffers["action_mask"]
        self._generator = np.random.default_rng(seed)

    def act(self) -> np.ndarray:
        """Return an action for every agent."""
        noise = 1 - self._generator.random(self._mask.shape, np.float32)  # in (0, 1]
        return random_legal(self._mask, noise)


class StopPolicy:
    """Stand still."""

    def __init__(self, envs: SMACv2VectorEnv, seed: int = 0):
        self._mask = envs.buffers["action_mask"]

    def act(self) -> np.ndarray:
        """Return stop for the living and no-op for the dead."""
        return np.where(self._mask[..., STOP] != 0, STOP, NO_OP).astype(np.int32)


class NearestPolicy:
    """Upstream's scripted agents (``heuristic_ai`` with ``heuristic_rest``).

    Each agent attacks the nearest enemy until it dies; a medivac heals the nearest hurt ally that
    is not a medivac, until it is dead or healed. An agent out of reach of its target walks along
    the axis with the larger gap (vertically if both gaps are equal).
    """

    def __init__(self, envs: SMACv2VectorEnv, seed: int = 0):
        self._envs = envs
        self._kinds = Tables.build(envs.scenario, envs.options, envs.layout).kinds
        self._targets = np.full((envs.num_envs, envs.num_agents), NOBODY)

    def act(self) -> np.ndarray:
        """Return an action for every agent."""
        state, agents = self._envs.backend.state, self._envs.num_agents
        own_kind = state.unit_type[:, :agents]
        heals = self._kinds[own_kind, K_HEALS] != 0  # (num_envs, num_agents)
        self._targets[state.step == 0] = NOBODY
        self._choose(heals, self._candidates(heals))
        # Indices into the units; an agent without a target gets unit 0, which has no effect.
        aimed = np.where(heals | (self._targets < 0), 0, agents) + np.maximum(self._targets, 0)
        dx = np.take_along_axis(state.x, aimed, axis=1) - state.x[:, :agents]
        dy = np.take_along_axis(state.y, aimed, axis=1) - state.y[:, :agents]
        reach = self._kinds[own_kind, K_SHOOT].astype(np.int64)
        near = _squared(dx, dy) <= reach**2
        return self._actions(near, dx, dy)

    def _candidates(self, heals: np.ndarray) -> np.ndarray:
        """Return the allowed targets, ``(num_envs, num_agents, targets)`` bool.

        Targets are enemies for agents that fight and allies for agents that heal.
        """
        state, agents = self._envs.backend.state, self._envs.num_agents
        full = self._kinds[state.unit_type[:, :agents], K_HEALTH]
        health = state.health
        hurt = (health[:, :agents] > 0) & (health[:, :agents] < full) & ~heals
        allies, enemies = self._padded(hurt), self._padded(health[:, agents:] > 0)
        return np.where(heals[:, :, None], allies[:, None], enemies[:, None])

    def _choose(self, heals: np.ndarray, candidates: np.ndarray) -> None:
        """Replace targets that are no longer candidates by the nearest candidates."""
        state, agents = self._envs.backend.state, self._envs.num_agents
        held = np.maximum(self._targets, 0)[:, :, None]
        kept = (self._targets >= 0) & np.take_along_axis(candidates, held, axis=2)[:, :, 0]
        place = []
        for position in (state.x, state.y):
            allies, enemies = (
                self._padded(side) for side in (position[:, :agents], position[:, agents:])
            )
            others = np.where(heals[:, :, None], allies[:, None], enemies[:, None])
            place.append(others - position[:, :agents, None])
        distance = np.where(candidates, _squared(*place), np.iinfo(np.int64).max)
        nearest = np.where(candidates.any(axis=2), distance.argmin(axis=2), NOBODY)
        self._targets = np.where(kept, self._targets, nearest)

    def _padded(self, side: np.ndarray) -> np.ndarray:
        """Return an array of one team, zero-padded to the size of the larger team."""
        width = max(self._envs.num_agents, self._envs.num_enemies)
        return np.pad(side, ((0, 0), (0, width - side.shape[1])))

    def _actions(self, near: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """Return target actions if in reach, else moves, else stop or no-op."""
        mask = self._envs.buffers["action_mask"]
        layout = self._envs.layout
        slot = layout.num_actions_no_attack + np.maximum(self._targets, 0)
        slot = np.minimum(slot, layout.num_actions - 1)
        horizontal = np.where(dx > 0, EAST, WEST)
        vertical = np.where(dy > 0, NORTH, SOUTH)
        move = np.where(np.abs(dx) > np.abs(dy), horizontal, vertical)
        wanted = np.where(near & _allowed(mask, slot), slot, move)
        useful = (self._targets >= 0) & _allowed(mask, wanted)
        idle = np.where(mask[..., STOP] != 0, STOP, NO_OP)
        return np.where(useful, wanted, idle).astype(np.int32)


def _allowed(mask: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Return whether the mask allows the agents' actions, ``(num_envs, num_agents)`` bool."""
    chosen: np.ndarray = np.take_along_axis(mask, actions[..., None], axis=-1)[..., 0] != 0
    return chosen


def _squared(dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Return squared lengths, exact in int64."""
    squares: np.ndarray = dx.astype(np.int64) ** 2 + dy.astype(np.int64) ** 2
    return squares


POLICIES: dict[str, type[RandomPolicy] | type[StopPolicy] | type[NearestPolicy]] = {
    "random": RandomPolicy,
    "stop": StopPolicy,
    "nearest": NearestPolicy,
}
"""The policies that ``smacv2 play`` knows, by name."""
