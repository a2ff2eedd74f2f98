"""Play scripted policies on held-out battles: results without learning."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smacv2 import EVALUATION_SEED
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.policies import POLICIES, Policy
from smacv2.stats import wilson_interval

NUM_ENVS = 256
"""Upper bound of the battles played at once."""

SEEDS_APART = 2**16
"""Distance between the first seeds of ``seed`` n and n + 1, so that no battles repeat."""


@dataclass(frozen=True)
class Battles:
    """Finished battles in the order of environment and episode; each array is (episodes,)."""

    episodic_return: np.ndarray
    episodic_length: np.ndarray
    battle_won: np.ndarray
    draw: np.ndarray
    timeout: np.ndarray
    dead_enemies: np.ndarray
    dead_allies: np.ndarray

    def summary(self) -> dict[str, object]:
        """Return counts, the win rate with its interval, and means."""
        episodes, wins = len(self.battle_won), int(self.battle_won.sum())
        return {
            "episodes": episodes,
            "wins": wins,
            "draws": int(self.draw.sum()),
            "timeouts": int(self.timeout.sum()),
            "win_rate": wins / episodes,
            "win_rate_interval_95": wilson_interval(wins, episodes),
            "episodic_return": float(self.episodic_return.mean()),
            "episodic_length": float(self.episodic_length.mean()),
        }


def play(
    scenario: str | Path,
    policy: str,
    episodes: int,
    *,
    seed: int = 0,
    num_envs: int = NUM_ENVS,
    num_threads: int | None = None,
) -> dict[str, object]:
    """Play a scripted policy on held-out battles; return the figures of ``smacv2 play --json``.

    Args:
        scenario: A name or the path of a TOML file.
        policy: A key of ``POLICIES``.
        episodes: Battles to play.
        seed: Number of the set of held-out battles, and the seed of a random policy.
        num_envs: Upper bound of the battles at once; it affects which battles are played.
        num_threads: CPU threads; None uses every core.
    """
    num_envs = min(num_envs, episodes)
    envs = SMACv2VectorEnv(scenario, num_envs, num_threads=num_threads, copy=False)
    battles = collect(
        envs, POLICIES[policy](envs, seed), episodes, EVALUATION_SEED + seed * SEEDS_APART
    )
    envs.close()
    asked = {"scenario": envs.scenario.name, "policy": policy, "seed": seed, "num_envs": num_envs}
    return asked | battles.summary()


def collect(envs: SMACv2VectorEnv, policy: Policy, episodes: int, first_seed: int) -> Battles:
    """Play ``episodes`` battles; environment i plays a fixed share of them from ``first_seed + i``.

    The shares are fixed because the first battles to end would be mostly short ones.
    """
    num_envs = envs.num_envs
    quota = episodes // num_envs + (np.arange(num_envs) < episodes % num_envs)
    played = np.zeros(num_envs, np.int64)
    returns, lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    ended = []
    envs.reset(seed=first_seed)
    while (played < quota).any():
        resets = envs.backend.state.over != 0
        _, reward, terminated, truncated, info = envs.step(policy.act())
        returns[resets] = 0
        lengths[resets] = 0
        returns += reward
        lengths += ~resets
        done = np.flatnonzero(terminated | truncated)
        for env in done[played[done] < quota[done]]:
            won, draw = info["battle_won"][env], info["draw"][env]
            dead = info["dead_enemies"][env], info["dead_allies"][env]
            ended.append((env, returns[env], lengths[env], won, draw, truncated[env], *dead))
        played[done] += 1
    _, *columns = zip(*sorted(ended, key=lambda battle: int(battle[0])), strict=True)
    return Battles(*(np.array(column) for column in columns))
