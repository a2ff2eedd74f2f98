"""Single-agent environments of Gymnasium, ALE and EnvPool under one contract.

`make_vector_env` returns a `VectorEnv`: one seed per env, NEXT_STEP resets, float32 or uint8
observations, raw rewards.
"""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from baselines.config import PpoConfig
from baselines.errors import UsageError, expected
from baselines.experience.ids import FAILURES, advice, parse_options, resolve_id
from baselines.profiles import ATARI, CONTINUOUS, kind_of

FIRST_TRAINING_SEED = 2**16  # lower seeds are for evaluation, see `baselines.evaluation`


@dataclasses.dataclass
class Steps:
    """Results of one step of all envs, each (num_envs,) except obs."""

    obs: np.ndarray  # (num_envs, *obs_shape) float32 or uint8
    reward: np.ndarray  # float32, raw
    terminated: np.ndarray  # bool; a lost life too, if each life is an episode
    truncated: np.ndarray  # bool
    ended: np.ndarray  # bool, the whole episode (the game, not the life) has ended
    resets: np.ndarray  # bool, the next step only resets and is not a transition


class VectorEnv:
    """Environments of one id under one contract, whichever library runs them.

    Args:
        env: a NEXT_STEP vector environment of Gymnasium, ALE or EnvPool.
        env_id: the id that was asked for.
        source: `"gymnasium"`, `"ale"` or `"envpool"`.
        settings: settings that determine results, for the run's record.
    """

    def __init__(self, env: Any, env_id: str, source: str, settings: dict[str, Any]) -> None:
        self.env, self.id, self.source, self.settings = env, env_id, source, settings
        self.num_envs: int = len(settings["seeds"])
        self.obs_space = getattr(env, "single_observation_space", env.observation_space)
        self.action_space = getattr(env, "single_action_space", env.action_space)
        self.max_episode_steps: int | None = settings["max_episode_steps"]
        self.discrete = isinstance(self.action_space, Discrete)
        self._check_spaces()
        self.obs_dtype = np.uint8 if len(self.obs_space.shape) == 3 else np.float32
        self._first_action = int(self.action_space.start) if self.discrete else 0
        self._action_dtype = self.action_space.dtype
        self._has_lives = settings.get("episodic_life", False)

    def _check_spaces(self) -> None:
        """Refuse spaces that networks cannot take: they take vectors and channels-first images."""
        obs, actions = self.obs_space, self.action_space
        if not isinstance(obs, Box):
            raise UsageError(f"{self.id}: observations must be a Box, not {obs}")
        is_image = len(obs.shape) == 3 and obs.dtype == np.uint8 and min(obs.shape[1:]) >= 36
        if len(obs.shape) != 1 and not is_image:
            raise UsageError(
                f"{self.id}: observations must be vectors, or uint8 images (channels, height,"
                f" width) of at least 36 x 36, not {obs.dtype} {obs.shape}"
            )
        if not isinstance(actions, Discrete | Box):
            raise UsageError(f"{self.id}: actions must be Discrete or Box, not {actions}")
        if isinstance(actions, Box) and len(actions.shape) != 1:
            raise UsageError(f"{self.id}: actions must be a vector, not {actions}")

    @property
    def num_actions(self) -> int:
        """Number of discrete actions, or size of a continuous action."""
        return int(self.action_space.n) if self.discrete else self.action_space.shape[0]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All settings that determine results, without the seeds."""
        settings = {name: value for name, value in self.settings.items() if name != "seeds"}
        return {"id": self.id, "source": self.source, **settings}

    def reset(self) -> np.ndarray:
        """Start each env's episode from its seed; return obs (num_envs, *obs_shape)."""
        if self.source == "envpool":  # its seeds were set when it was made
            return self._cast(self.env.reset()[0])
        seeds = self.settings["seeds"]
        seeds = np.array(seeds) if self.source == "ale" else seeds
        return self._cast(self.env.reset(seed=seeds)[0])

    def step(self, actions: np.ndarray) -> Steps:
        """Step all envs; actions (num_envs,) int or (num_envs, num_actions) float."""
        if self._first_action:
            actions = actions + self._first_action
        obs, reward, terminated, truncated, info = self.env.step(actions.astype(self._action_dtype))
        done = terminated | truncated
        ended = resets = done
        if self._has_lives:
            ended = truncated | (terminated & (info["lives"] == 0))
            # After a lost life, ALE's own vector env continues and EnvPool spends a reset step.
            resets = ended if self.source == "ale" else done
        reward = reward.astype(np.float32)
        return Steps(self._cast(obs), reward, terminated, truncated, ended, resets)

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return an empty state: a resumed run begins other episodes."""
        return {}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Do nothing, see `checkpoint`."""

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _cast(self, obs: np.ndarray) -> np.ndarray:
        return obs.astype(self.obs_dtype, copy=False)


def make_vector_env(config: PpoConfig, seeds: Sequence[int]) -> VectorEnv:
    """Return the environments that a config asks for, one per seed.

    Raises:
        UsageError: the id or an option is unknown, or a package is not installed.
    """
    source, options = choose_source(config), parse_options(config.env_option)
    env_id = resolve_id(config.env)
    if env_id.startswith("smacv2/"):
        raise UsageError(f"--env {config.env}: several agents act in it; use baselines mappo")
    try:
        env, settings = MAKERS[source](config, env_id, list(seeds), options)
    except (*FAILURES, AttributeError) as error:
        given = " ".join(f"--env-option {option}" for option in config.env_option)
        raise UsageError(f"--env {config.env} {given}".strip() + f": {advice(error)}") from error
    return VectorEnv(env, env_id, source, settings | options | {"seeds": list(seeds)})


def choose_source(config: PpoConfig) -> str:
    """Return the library that runs the environments; it does not depend on the number of seeds.

    `auto`: ALE's own vector env for Atari; EnvPool, if it is installed, for several MuJoCo envs
    (benchmarks/vector_envs.py measures them side by side); Gymnasium for the rest.
    """
    kind = kind_of(config.env)
    if config.source == "ale" and kind != ATARI:
        raise UsageError(f"--source ale: {config.env} is not an Atari game (ALE/...)")
    if config.source == "gymnasium" and kind == ATARI:
        raise UsageError("--source gymnasium: Atari games are run by ale or envpool")
    if config.source != "auto":
        return config.source
    if kind == ATARI:
        return "ale"
    task = config.env.rpartition(":")[2].partition("-v")[0]
    several = kind == CONTINUOUS and config.num_envs >= ENVPOOL_FROM.get(task, 4)
    return "envpool" if several and importlib.util.find_spec("envpool") else "gymnasium"


# Number of envs per seed from which EnvPool is faster on two cores, if that is not 4.
ENVPOOL_FROM = {"HalfCheetah": 8}


def make_gymnasium(
    config: PpoConfig, env_id: str, seeds: list[int], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return Gymnasium's synchronous vector environment, and its settings."""
    env = gymnasium.make_vec(env_id, len(seeds), vectorization_mode="sync", **options)
    return env, {"max_episode_steps": gymnasium.spec(env_id).max_episode_steps}


def make_ale(
    config: PpoConfig, env_id: str, seeds: list[int], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return the Arcade Learning Environment's own vector environment, and its settings."""
    from ale_py.vector_env import AtariVectorEnv

    settings = atari_settings(config)
    env = AtariVectorEnv(
        gymnasium.spec(env_id).kwargs["game"],
        len(seeds),
        frameskip=config.frame_skip,
        repeat_action_probability=config.sticky,
        maxpool=config.max_pool,
        noop_max=config.noop_max,
        use_fire_reset=config.fire_reset,
        life_loss_info=config.episodic_life,  # its episodic_life starts a new game at each life
        max_num_frames_per_episode=ATARI_FRAMES,
        reward_clipping=False,
        **options,
    )
    return env, settings


def make_envpool(
    config: PpoConfig, env_id: str, seeds: list[int], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return EnvPool's environment of the same name, and its settings."""
    import envpool

    name, settings = env_id.removeprefix("ALE/"), {}
    if name not in envpool.list_all_envs():
        raise ValueError(f"--source envpool: {expected('task', name, envpool.list_all_envs())}")
    if kind_of(env_id) == ATARI:
        if not config.max_pool:
            raise ValueError("--source envpool always takes the maximum of two frames; use ale")
        if not config.noop_max:
            raise ValueError("--source envpool always begins with idle steps; use ale")
        settings = atari_settings(config)
        options = options | {
            "frame_skip": config.frame_skip,
            "repeat_action_probability": config.sticky,
            "noop_max": config.noop_max,
            "use_fire_reset": config.fire_reset,
            "episodic_life": config.episodic_life,
            "max_episode_steps": settings["max_episode_steps"],
        }
    signed = [(seed + 2**31) % 2**32 - 2**31 for seed in seeds]  # EnvPool takes int32
    env = envpool.make(name, env_type="gymnasium", num_envs=len(seeds), seed=signed, **options)
    return env, {"max_episode_steps": env.spec.config.max_episode_steps, **settings}


ATARI_FRAMES = 108_000  # emulator frames per episode, half an hour of play
MAKERS = {"gymnasium": make_gymnasium, "ale": make_ale, "envpool": make_envpool}


def atari_settings(config: PpoConfig) -> dict[str, Any]:
    """Return the settings of an Atari game that determine what a score means."""
    names = ("frame_skip", "sticky", "max_pool", "noop_max", "fire_reset", "episodic_life")
    limit = {"max_episode_steps": ATARI_FRAMES // config.frame_skip}
    return {name: getattr(config, name) for name in names} | limit
