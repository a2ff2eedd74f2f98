"""The seam between learners and battles: tensors of one device in, tensors of one device out.

`HostBattles` plays any Gymnasium vector environment that keeps the contract of docs/runs.md.
Battles on a GPU would be a second class here, and a second branch in `make_battles`.
"""

from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import torch
from torch import Tensor

from baselines.config import BattleConfig
from baselines.errors import UsageError
from baselines.experience.ids import FAILURES, first_line, parse_options, resolve_id

OPEN_LOOP = ("obs_starcraft=false", "obs_timestep_number=true")  # agents see the time only


class Observation(NamedTuple):
    """Inputs of agents, critic and mixer before a step."""

    obs: Tensor  # (num_envs, num_agents, obs_size) float32
    state: Tensor  # (num_envs, state_size) float32
    action_mask: Tensor  # (num_envs, num_agents, num_actions) bool, True = allowed
    alive: Tensor  # (num_envs, num_agents) bool
    valid: Tensor  # (num_envs,) bool, False on a reset row


class Outcome(NamedTuple):
    """Results of one step, each (num_envs,); all are False and 0 on a reset row."""

    reward: Tensor  # float32
    terminated: Tensor  # bool, the battle is decided
    truncated: Tensor  # bool, the battle has reached the episode limit
    battle_won: Tensor  # bool, meaningful if the battle has ended
    draw: Tensor  # bool, meaningful if the battle has ended

    @property
    def ended(self) -> Tensor:
        """Whether the battle has ended with this step, (num_envs,) bool."""
        return self.terminated | self.truncated


class Battles(Protocol):
    """A batch of battles, as learners use it.

    After the step that ends a battle, the next row is a reset row (Gymnasium's NEXT_STEP): agents
    see the true last observation once more, and their actions are ignored. Reset rows are excluded
    from losses and statistics; `Observation.valid` is False on them.
    """

    num_envs: int
    sizes: Any  # num_agents, num_actions, obs_size, state_size, episode_limit, layout
    id: str  # Gymnasium id
    device: torch.device

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All settings that determine results, for a run's record."""

    def reset(self, seed: int) -> None:
        """Start battles; env i plays the stream of `seed + i`."""

    def observe(self) -> Observation:
        """Return the current observation; its tensors are valid until the next step."""

    def step(self, actions: Tensor) -> Outcome:
        """Play one step with actions (num_envs, num_agents) int64."""

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return the environment's own state."""

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Restore a `checkpoint`; no env is at a reset row until `mark_resets`."""

    def mark_resets(self, resets: Tensor) -> None:
        """Mark the envs that are at a reset row, (num_envs,) bool."""

    def close(self) -> None:
        """Release threads, processes and devices."""


class HostBattles:
    """Battles of a Gymnasium vector environment; on a CPU its arrays are shared, not copied.

    Args:
        env: NEXT_STEP vector environment.
        device: PyTorch device of the tensors.
    """

    def __init__(self, env: Any, device: str = "cpu") -> None:
        self.env, self.sizes = env, env.unwrapped
        self.num_envs: int = env.num_envs
        self.id: str = env.spec.id
        self.device = torch.device(device)
        self._seen: Observation | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All settings that determine results."""
        return self.sizes.fingerprint

    def reset(self, seed: int) -> None:
        """Start battles; env i plays the stream of `seed + i`."""
        self._show(*self.env.reset(seed=seed), np.ones(self.num_envs, bool))

    def observe(self) -> Observation:
        """Return the current observation; its tensors are valid until the next step."""
        return self._seen

    def step(self, actions: Tensor) -> Outcome:
        """Play one step with actions (num_envs, num_agents) int64."""
        obs, reward, terminated, truncated, info = self.env.step(actions.cpu().numpy())
        self._show(obs, info, ~(terminated | truncated))
        results = (terminated, truncated, info["battle_won"], info["draw"])
        flags = (self._tensor(result, bool) for result in results)
        return Outcome(self._tensor(reward, np.float32), *flags)

    def _show(self, obs: np.ndarray, info: dict[str, Any], valid: np.ndarray) -> None:
        self._seen = Observation(
            self._tensor(obs, np.float32),
            self._tensor(info["state"], np.float32),
            self._tensor(info["action_mask"], np.int8).view(torch.bool),
            self._tensor(info["alive"], bool),
            self._tensor(valid, bool),
        )

    def _tensor(self, array: np.ndarray, dtype: Any) -> Tensor:
        return torch.from_numpy(array.astype(dtype, copy=False)).to(self.device)

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Return the environment's own state."""
        return self.sizes.checkpoint()

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Restore a `checkpoint`; no env is at a reset row until `mark_resets`."""
        self.sizes.restore(saved)
        self._show(*self.sizes.last(), np.ones(self.num_envs, bool))

    def mark_resets(self, resets: Tensor) -> None:
        """Mark the envs that are at a reset row, (num_envs,) bool."""
        self._seen = self._seen._replace(valid=~resets.to(self.device))

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def make_battles(config: BattleConfig, num_envs: int | None = None) -> Battles:
    """Return the battles that a config asks for.

    Args:
        config: settings of a multi-agent learner.
        num_envs: parallel battles; None: `config.num_envs`.

    Raises:
        UsageError: the id, an option or its value is unknown, or this machine cannot make them.
    """
    options = (*config.env_option, *(OPEN_LOOP if config.open_loop else ()))
    return HostBattles(make_env(config.env, num_envs or config.num_envs, options), config.device)


def make_env(env_id: str, num_envs: int, options: tuple[str, ...] = ()) -> Any:
    """Return a vector environment of battles that keeps the contract of docs/runs.md.

    Args:
        env_id: Gymnasium id, version optional; `module:id` imports `module` first.
        num_envs: parallel battles.
        options: `key=value` texts, passed to the environment as keywords.

    Raises:
        UsageError: the id, an option or its value is unknown, or this machine cannot make it.
    """
    name, keywords = resolve_id(env_id), parse_options(options)
    if name.startswith("smacv2/") and "scenario" in keywords:
        raise UsageError(
            f"--env-option scenario={keywords['scenario']}: --env names the scenario; for your own,"
            " call smacv2.register_scenario(file) in a module and give --env module:smacv2/name"
        )
    if name.startswith("smacv2/"):
        keywords = {"copy": False, **keywords}  # tensors are read before the next step
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
