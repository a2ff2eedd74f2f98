"""Gymnasium ids to vector environments; errors name the id or option and its nearest match.

`make_env` makes battles of several agents. `make_vector_env` makes everything else, whoever steps
it, as a `VectorEnv`: one seed an env, NEXT_STEP resets, float32, rewards as the environment pays
them.
"""

import dataclasses
import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from baselines.config import BattleConfig, PpoConfig
from baselines.errors import UsageError, expected
from baselines.profiles import ATARI, CONTINUOUS, kind_of

# What a wrong option, a missing driver or too many battles raise while an environment is made.
FAILURES = (
    *(TypeError, ValueError, KeyError, RuntimeError, ImportError, MemoryError, OverflowError),
    gymnasium.error.Error,
)
NOT_OPTIONS = ("id", "num_envs", "vector_kwargs", "wrappers")  # keywords of gymnasium.make_vec


def make_env(env_id: str, num_envs: int, options: Iterable[str] = ()) -> Any:
    """Make a vector environment that keeps the contract of docs/runs.md.

    Args:
        env_id: Gymnasium id, version optional; `module:id` imports `module` first.
        num_envs: battles in it.
        options: `key=value` texts, passed to the environment as keywords.

    Raises:
        UsageError: the id, an option or its value is not known, or the machine cannot make it.
    """
    name, keywords = resolve_id(env_id), parse_options(options)
    if name.startswith("smacv2/") and "scenario" in keywords:
        raise UsageError(
            f"--env-option scenario={keywords['scenario']}: --env names the scenario; of your own"
            " after smacv2.register_scenario(file) in a module: --env module:smacv2/name"
        )
    try:
        env = gymnasium.make_vec(name, num_envs=num_envs, **keywords)
    except FAILURES as error:
        given = [f"--num-envs {num_envs}", *(f"--env-option {option}" for option in options)]
        raise UsageError(f"{name} {' '.join(given)}: {first_line(error)}") from error
    lacking = [name for name in ("num_agents", "state_size") if not hasattr(env.unwrapped, name)]
    if lacking:
        env.close()
        raise UsageError(
            f"{name} is not a multi-agent battle: it has no {' and no '.join(lacking)}"
        )
    return env


OPEN_LOOP = ("obs_starcraft=false", "obs_timestep_number=true")  # agents see the time only


def make_battles(config: BattleConfig, num_envs: int | None = None) -> Any:
    """Make the environment of a learner of battles, see `make_env`.

    Args:
        config: says which, with what options.
        num_envs: battles in it; default the config's.
    """
    options = (*config.env_option, *(OPEN_LOOP if config.open_loop else ()))
    return make_env(config.env, num_envs or config.num_envs, options)


@dataclasses.dataclass
class Steps:
    """What one step of all envs gave, each (num_envs,) but obs."""

    obs: np.ndarray  # (num_envs, *obs_shape) float32 or uint8
    reward: np.ndarray  # float32, as the environment pays it
    terminated: np.ndarray  # bool; a lost life too where lives are episodes
    truncated: np.ndarray  # bool
    ended: np.ndarray  # bool, the whole episode (the game, not the life) has ended
    resets: np.ndarray  # bool, the next step only resets and is no transition


class VectorEnv:
    """Environments of one id under one contract, whatever steps them.

    Args:
        env: a NEXT_STEP vector environment of Gymnasium, ALE or EnvPool.
        env_id: the id that was asked for.
        source: `"gymnasium"`, `"ale"` or `"envpool"`.
        settings: what decides results and belongs into the run's record.
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
        """Refuse what the networks cannot take: all but vectors and images, channels first."""
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
        """Choices of a discrete action, or numbers in a continuous one."""
        return int(self.action_space.n) if self.discrete else self.action_space.shape[0]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides results, without the seeds."""
        settings = {name: value for name, value in self.settings.items() if name != "seeds"}
        return {"id": self.id, "source": self.source, **settings}

    def reset(self) -> np.ndarray:
        """Begin the episodes of the envs' seeds; return obs (num_envs, *obs_shape)."""
        if self.source == "envpool":  # seeded when made
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
            # ALE's own vector env goes on after a lost life; EnvPool spends a step on it.
            resets = ended if self.source == "ale" else done
        reward = reward.astype(np.float32)
        return Steps(self._cast(obs), reward, terminated, truncated, ended, resets)

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _cast(self, obs: np.ndarray) -> np.ndarray:
        return obs.astype(self.obs_dtype, copy=False)


def make_vector_env(config: PpoConfig, seeds: Sequence[int]) -> VectorEnv:
    """Make the environments that a config asks for, one for each seed.

    Raises:
        UsageError: the id or an option is not known, or something is not installed.
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
    """Return what steps the environments; the choice does not depend on the number of seeds.

    `auto`: ALE's own vector env for Atari; EnvPool, where it is installed, for several MuJoCo envs
    (benchmarks/vector_envs.py measures them side by side); Gymnasium for the rest.
    """
    kind = kind_of(config.env)
    if config.source == "ale" and kind != ATARI:
        raise UsageError(f"--source ale: {config.env} is no Atari game (ALE/...)")
    if config.source == "gymnasium" and kind == ATARI:
        raise UsageError("--source gymnasium: Atari games are stepped by ale or envpool")
    if config.source != "auto":
        return config.source
    if kind == ATARI:
        return "ale"
    task = config.env.rpartition(":")[2].partition("-v")[0]
    several = kind == CONTINUOUS and config.num_envs >= ENVPOOL_FROM.get(task, 4)
    return "envpool" if several and importlib.util.find_spec("envpool") else "gymnasium"


# Envs a seed from which EnvPool is the faster one on two cores, where it is not 4.
ENVPOOL_FROM = {"HalfCheetah": 8}


def make_gymnasium(
    config: PpoConfig, env_id: str, seeds: list[int], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Make Gymnasium's synchronous vector environment."""
    env = gymnasium.make_vec(env_id, len(seeds), vectorization_mode="sync", **options)
    return env, {"max_episode_steps": gymnasium.spec(env_id).max_episode_steps}


def make_ale(
    config: PpoConfig, env_id: str, seeds: list[int], options: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Make the Arcade Learning Environment's own vector environment."""
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
    """Make EnvPool's environment of the same name."""
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
    signed = [(seed + 2**31) % 2**32 - 2**31 for seed in seeds]  # it takes int32
    env = envpool.make(name, env_type="gymnasium", num_envs=len(seeds), seed=signed, **options)
    return env, {"max_episode_steps": env.spec.config.max_episode_steps, **settings}


ATARI_FRAMES = 108_000  # emulator frames an episode, half an hour of play
MAKERS = {"gymnasium": make_gymnasium, "ale": make_ale, "envpool": make_envpool}


def atari_settings(config: PpoConfig) -> dict[str, Any]:
    """Return the settings of an Atari game that decide what a score means."""
    names = ("frame_skip", "sticky", "max_pool", "noop_max", "fire_reset", "episodic_life")
    limit = {"max_episode_steps": ATARI_FRAMES // config.frame_skip}
    return {name: getattr(config, name) for name in names} | limit


EXTRAS = {"ale_py": "atari", "mujoco": "mujoco", "imageio": "mujoco", "envpool": "envpool"}


def advice(error: BaseException) -> str:
    """Return an error's first line, or what to install where a package is missing."""
    text = first_line(error)
    for package, extra in EXTRAS.items():
        if isinstance(error, ImportError | gymnasium.error.DependencyNotInstalled):
            if package in text.lower().replace("-", "_") and not is_installed(package):
                return f"{package} is not installed; pip install 'smacv2-suite[{extra}]'"
    return text


def is_installed(package: str) -> bool:
    """Return whether a package can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # an entry of sys.modules without a specification
        return False


def resolve_id(env_id: str) -> str:
    """Return the registered id that `env_id` names, its highest version where it names none."""
    importlib.import_module("smacv2")
    module, _, name = env_id.rpartition(":")
    module = "ale_py" if name.startswith("ALE/") else module
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            reason = advice(error) if module in EXTRAS else error
            raise UsageError(f"--env {env_id}: cannot import {module!r}: {reason}") from error
    if name in gymnasium.registry:
        return name
    versions = [
        known for known in gymnasium.registry if re.fullmatch(re.escape(name) + r"-v\d+", known)
    ]
    if versions:
        return max(versions, key=lambda known: int(known.rpartition("-v")[2]))
    family = "smacv2/" if name.startswith("smacv2") else "ALE/" if name.startswith("ALE/") else ""
    known = [known for known in gymnasium.registry if known.startswith(family)]
    raise UsageError(expected("environment", env_id, known))


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Return `key=value` texts as a dictionary; values are TOML, bare words are strings."""
    parsed = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--env-option {option}: it must look like key=value")
        if key in NOT_OPTIONS:
            hint = "; use --num-envs" if key == "num_envs" else ""
            raise UsageError(f"--env-option {option}: {key} is no environment option{hint}")
        parsed[key] = _parse_value(value)
    return parsed


def _parse_value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
