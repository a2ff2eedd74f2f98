"""The Gymnasium interface: ``SMACv2VectorEnv``, and ``SMACv2Env``, its view of a single battle."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from smacv2 import TRAINING_SEEDS
from smacv2.battle import OUTCOME_DRAWN, OUTCOME_WON, Backend
from smacv2.options import Options
from smacv2.scenario import MAX_EPISODE_LIMIT, Scenario, load_scenario
from smacv2.schema import did_you_mean

BACKENDS = ("engine",)
MAX_SEED = 2**63
MAX_ENVS = 2**20
MAX_THREADS = 1024
RESET_OPTIONS = ("reset_mask",)


def _whole(name: str, value: Any, high: int) -> int:
    """Return a whole number in [1, high]; raise ValueError with one line for anything else."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if not 1 <= value <= high:
        raise ValueError(f"{name} must be at least 1 and at most {high}, not {value}")
    return int(value)


class IllegalAction(ValueError):
    """An action that the mask forbids, with ``strict=True``."""


class ResetNeeded(RuntimeError):
    """A step in a battle that has not been reset or is over."""


def make_backend(
    scenario: Scenario, options: Options, num_envs: int, *, device: str, num_threads: int | None
) -> Backend:
    """Return the embedded engine; it is imported here because its compiler loads slowly."""
    from smacv2.engine.backend import EngineBackend

    return EngineBackend(scenario, options, num_envs, device=device, num_threads=num_threads)


class SMACv2VectorEnv(VectorEnv):
    """Many SMACv2 battles at once.

    ## Description
    Agents fight a team of enemies that the map's script controls. Unit types and start positions
    are drawn for every battle. Agents see only their surroundings, and share a single reward.

    ## Action Space
    ``MultiDiscrete([num_actions] * num_agents)`` for each battle. 0 no-op (dead agents only),
    1 stop, 2 north, 3 south, 4 east, 5 west, then (with ``conic_fov``) one look action per
    direction, then one attack per enemy; units that heal have allies as targets instead.
    ``info["action_mask"]`` says what is legal. An illegal action is replaced by stop (no-op for
    the dead) and counted in ``info["illegal_actions"]``; ``strict=True`` raises instead.

    ## Observation Space
    float32 ``(num_agents, obs_size)`` for each battle; ``layout.obs_feature_names()`` names each
    number. ``info["state"]`` is the global state for training.

    ## Rewards
    Damage dealt, kills and victory, scaled so that killing all enemies has the return 20 (see
    ``Options``). float32, one number per battle, shared by its agents.

    ## Starting State
    Drawn from (seed, episode): battle i of N equals a lone battle seeded ``seed + i``, bit for
    bit.

    ## Episode End
    ``terminated`` when a side is beaten, ``truncated`` at the episode limit. The next step of an
    ended battle ignores its actions and resets it (``AutoresetMode.NEXT_STEP``), with reward 0.

    ## Information
    ``state`` float32 ``(num_envs, state_size)``; ``action_mask`` int8
    ``(num_envs, num_agents, num_actions)``; ``alive`` bool ``(num_envs, num_agents)``;
    ``battle_won`` and ``draw`` bool, ``dead_allies``, ``dead_enemies`` and ``illegal_actions``
    int32, all ``(num_envs,)``.

    Args:
        scenario: A name (``smacv2 list``), the path of a TOML file, or a ``Scenario``.
        num_envs: Number of battles.
        max_episode_steps: Replacement for the scenario's episode limit.
        backend: "engine".
        device: "cpu" or "cuda".
        num_threads: CPU threads; None uses every core. Results do not depend on it.
        copy: Whether to return copies; False returns ``buffers``, which the next call overwrites.
        render_mode: None; battles are not drawn.
        **options: Any field of ``smacv2.options.Options``.

    Raises:
        UnknownScenario, ScenarioError, OptionError, ValueError: The message is one line with the
            given value, the allowed ones and the nearest match.

    ## Version History
    v0: first release.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": [],
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        scenario: str | Path | Scenario,
        num_envs: int = 1,
        *,
        max_episode_steps: int | None = None,
        backend: str = "engine",
        device: str = "cpu",
        num_threads: int | None = None,
        copy: bool = True,
        render_mode: str | None = None,
        **options: Any,
    ):
        if render_mode is not None:
            raise ValueError(f"render_mode must be None, not {render_mode!r}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
        if not isinstance(scenario, str | Path | Scenario):
            raise ValueError(f"scenario must be a name, a path or a Scenario, not {scenario!r}")
        scenario = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
        if max_episode_steps is not None:
            limit = _whole("max_episode_steps", max_episode_steps, MAX_EPISODE_LIMIT)
            scenario = dataclasses.replace(scenario, episode_limit=limit)
        num_envs = _whole("num_envs", num_envs, MAX_ENVS)
        if num_threads is not None:
            num_threads = _whole("num_threads", num_threads, MAX_THREADS)
        self.scenario = scenario
        self.options: Options = scenario.options.replace(**options)
        self.backend: Backend = make_backend(
            scenario, self.options, num_envs, device=device, num_threads=num_threads
        )
        self.num_envs = num_envs
        self.render_mode = None
        self._copy = copy
        self._seeded = False
        self._present = np.ones(num_envs, np.bool_)
        self._set_sizes()

    def _set_sizes(self) -> None:
        layout = self.layout = self.backend.layout
        self.num_agents = layout.num_agents
        self.num_enemies = layout.num_enemies
        self.num_actions = layout.num_actions
        self.obs_size = layout.obs_size
        self.state_size = layout.state_size
        self.episode_limit = self.scenario.episode_limit
        # Outside [-1, 1] are distances beyond sight, and health below an agent's health level.
        unbounded = self.options.fully_observable or self.scenario.health is not None
        high = np.inf if unbounded else 1.0
        shape = (self.num_agents, self.obs_size)
        self.single_observation_space = Box(-high, high, shape, np.float32)
        self.single_action_space = MultiDiscrete([self.num_actions] * self.num_agents)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    @property
    def fingerprint(self) -> dict[str, str | int]:
        """Everything that decides results, to be stored with every result."""
        return self.backend.fingerprint

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        """Arrays that every step overwrites; ``torch.from_dlpack`` shares their memory."""
        return self.backend.outputs.arrays()

    def reset(
        self,
        *,
        seed: int | Sequence[int] | np.ndarray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new battles.

        Args:
            seed: Battle i is seeded ``seed + i``, or with the i-th of a sequence, and starts its
                episode 0. None starts each battle's next episode (at first: with a random seed).
            options: ``{"reset_mask": bool (num_envs,)}`` resets only the masked battles.
        """
        mask = self._reset_mask(options)
        seeds = self._seeds(seed)
        self.backend.reset(mask, seeds)
        self._seeded = True
        return self.last()

    def _reset_mask(self, options: Mapping[str, Any] | None) -> np.ndarray:
        for name in options or {}:
            if name not in RESET_OPTIONS:
                hint = did_you_mean(name, RESET_OPTIONS)
                raise ValueError(f'reset has no option "{name}"; allowed: reset_mask{hint}')
        if not options or options.get("reset_mask") is None:
            return np.ones(self.num_envs, np.bool_)
        mask = np.asarray(options["reset_mask"])
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(
                f"reset_mask must be bool of shape ({self.num_envs},), not {mask.dtype} of shape "
                f"{mask.shape}"
            )
        return mask

    def _seeds(self, seed: int | Sequence[int] | np.ndarray | None) -> np.ndarray | None:
        if seed is None:
            if self._seeded:
                return None
            seed = int(np.random.SeedSequence().generate_state(1)[0]) % TRAINING_SEEDS
        if isinstance(seed, int | np.integer):
            seeds = [int(seed) + env for env in range(self.num_envs)]
        elif np.ndim(seed) == 1 and all(isinstance(value, int | np.integer) for value in seed):
            seeds = [int(value) for value in seed]
        else:
            raise ValueError(f"seed must be one whole number or {self.num_envs}, not {seed!r}")
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be one number or {self.num_envs}, not {len(seeds)}")
        if min(seeds) < 0 or max(seeds) >= MAX_SEED:
            raise ValueError(f"seeds must be in [0, 2**63), not {min(seeds)} to {max(seeds)}")
        return np.array(seeds, np.uint64)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one step of every battle.

        Args:
            actions: Integers ``(num_envs, num_agents)``.

        Raises:
            ValueError: Wrong shape or dtype.
            IllegalAction: An illegal action with ``strict=True``; nothing has been played.
            ResetNeeded: Before the first reset.
        """
        if not self._seeded:
            raise ResetNeeded("call reset() before step()")
        actions = self._checked(actions)
        self.backend.step(actions)
        outputs = self.backend.outputs
        obs, info = self.last()
        flags = (outputs.reward, outputs.terminated, outputs.truncated)
        reward, terminated, truncated = (self._out(array) for array in flags)
        return obs, reward, terminated, truncated, info

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        expected = (self.num_envs, self.num_agents)
        if actions.shape != expected or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(
                f"actions must be integers of shape {expected}, not {actions.dtype} of shape "
                f"{actions.shape}"
            )
        if self.options.strict:
            self._refuse_illegal(actions)
        # Clipped before the cast: numbers beyond int32 must not wrap around to legal actions.
        return np.ascontiguousarray(np.clip(actions, -1, self.num_actions), np.int32)

    def _refuse_illegal(self, actions: np.ndarray) -> None:
        mask = self.backend.outputs.action_mask
        inside = (actions >= 0) & (actions < self.num_actions)
        chosen = np.where(inside, actions, 0)
        legal = inside & (np.take_along_axis(mask, chosen[..., None], axis=-1)[..., 0] != 0)
        legal |= (self.backend.state.over != 0)[:, None]
        if legal.all():
            return
        env, agent = np.argwhere(~legal)[0]
        allowed = ", ".join(map(str, np.flatnonzero(mask[env, agent])))
        raise IllegalAction(
            f"battle {env}, agent {agent}: action {actions[env, agent]} is illegal; allowed: "
            f"{allowed}"
        )

    def last(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the observations and infos of the last reset, step or restore."""
        state, outputs = self.backend.state, self.backend.outputs
        info = {
            "state": self._out(outputs.state),
            "action_mask": self._out(outputs.action_mask),
            "alive": state.health[:, : self.num_agents] > 0,
            "battle_won": state.outcome == OUTCOME_WON,
            "draw": state.outcome == OUTCOME_DRAWN,
            "dead_allies": state.dead_allies.copy(),
            "dead_enemies": state.dead_enemies.copy(),
            "illegal_actions": state.illegal_actions.copy(),
        }
        info.update({f"_{name}": self._present for name in tuple(info)})
        return self._out(outputs.obs), info

    def _out(self, array: np.ndarray) -> np.ndarray:
        return array.copy() if self._copy else array

    def action_masks(self) -> np.ndarray:
        """Return the masks as bool ``(num_envs, num_agents * num_actions)``, for sb3-contrib."""
        allowed: np.ndarray = self.backend.outputs.action_mask.reshape(self.num_envs, -1) != 0
        return allowed

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return copies of everything that ``restore`` needs to continue bit for bit."""
        return self.backend.checkpoint()

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Continue from a ``checkpoint`` of an environment with the same scenario and options.

        Raises:
            ValueError: The checkpoint is of another game, or an array is missing or has another
                shape; nothing has been changed.
        """
        self.backend.restore(saved)
        self._seeded = True

    def close_extras(self, **kwargs: Any) -> None:
        """Release threads or the device."""
        self.backend.close()


class SMACv2Env(gymnasium.Env):
    """One SMACv2 battle: ``SMACv2VectorEnv`` with a single battle and no autoreset.

    Spaces, options, rewards and infos are those of ``SMACv2VectorEnv`` without the battle axis.
    """

    metadata: dict[str, Any] = {"render_modes": [], "render_fps": 2}  # noqa: RUF012

    def __init__(self, scenario: str | Path | Scenario, **kwargs: Any):
        self._vector = SMACv2VectorEnv(scenario, num_envs=1, num_threads=1, **kwargs)
        self.render_mode = None
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self._over = True

    def __getattr__(self, name: str) -> Any:
        """Look up sizes, layout, scenario and others in the vector environment."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._vector, name)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a battle: episode 0 of ``seed``, or without a seed the next episode."""
        super().reset(seed=seed)
        obs, info = self._vector.reset(seed=seed, options=options)
        self._over = False
        return obs[0], self._single(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Play one step with integers ``(num_agents,)``; see ``SMACv2VectorEnv.step``."""
        if self._over:
            raise ResetNeeded("the battle is over; call reset() before the next step()")
        obs, reward, terminated, truncated, info = self._vector.step(np.asarray(action)[None])
        self._over = bool(terminated[0] or truncated[0])
        return (
            obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._single(info)
        )  # fmt: skip

    @staticmethod
    def _single(info: dict[str, Any]) -> dict[str, Any]:
        first = {name: value[0] for name, value in info.items() if not name.startswith("_")}
        scalars = {name for name, value in first.items() if np.ndim(value) == 0}
        return {name: value.item() if name in scalars else value for name, value in first.items()}

    def action_masks(self) -> np.ndarray:
        """Return the masks as bool ``(num_agents * num_actions,)``, for sb3-contrib."""
        masks: np.ndarray = self._vector.action_masks()[0]
        return masks

    def close(self) -> None:
        """Release the backend."""
        self._vector.close()
