"""Evaluation of PPO's policies on episodes that training has never seen, and their loading."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.config import EvaluateConfig, PpoConfig, recorded_config
from baselines.errors import UsageError
from baselines.experience.episodes import VectorEnv, make_vector_env
from baselines.experience.preprocess import Preprocessor
from baselines.learners.ppo_trainer import (
    FIRST_TRAINING_SEED,
    make_agent,
    network_weights,
    space_of,
)
from baselines.networks.distributions import Distribution
from baselines.networks.network import ActorCritic, load_weights
from baselines.plasticity import NETWORKS, interventions_of
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.folder import plain

EPISODES, ENVS = 32, 8  # what is played unless told otherwise
ENVS_AT_MOST = 512  # held-out sets of different --seed do not overlap


@dataclasses.dataclass
class Policy:
    """A trained policy and what it needs to look at an environment."""

    env: VectorEnv
    preprocessor: Preprocessor
    distribution: Distribution
    agent: ActorCritic

    @torch.inference_mode()
    def act(self, obs: Tensor, noise: Tensor | None) -> np.ndarray:
        """Return actions (num_envs, ...) for obs (1, num_envs, *obs_shape); no noise is greedy."""
        outputs = self.agent.actor(obs[0])
        distribution = self.distribution
        raw = distribution.mode(outputs) if noise is None else distribution.sample(outputs, noise)
        return distribution.to_env(raw).cpu().numpy()


def load_policy(
    record: dict[str, Any], weights: dict[str, Tensor], seeds: list[int], device: str = "cpu"
) -> Policy:
    """Build a policy and environments for it.

    Args:
        record: of the run.
        weights: of a checkpoint or snapshot, with the statistics of observations.
        seeds: one an env.
        device: PyTorch device of the networks.

    Raises:
        UsageError: the environment has other sizes than the one it was trained on.
    """
    config = recorded_config(PpoConfig, record["config"])
    config = dataclasses.replace(
        config,
        source=record["environment"]["fingerprint"]["source"],
        episodic_life=False,  # games are played to their end
        num_envs=len(seeds),
        num_minibatches=1,
        seeds=1,
        device=device,
    )
    env = make_vector_env(config, seeds)
    preprocessor = Preprocessor(config, env)
    distribution = space_of(config, env)
    hooks = {name: interventions_of(config, name) for name in NETWORKS}
    agent = make_agent(config, preprocessor.obs_shape, distribution, hooks)
    load_weights(agent, network_weights(weights), env.id)
    for name in ("mean", "variance"):
        getattr(preprocessor.moments, name)[0] = weights[f"preprocessor.obs_{name}"].numpy()
    return Policy(env, preprocessor, distribution, agent.to(device).eval())


def evaluate_episodes(
    config: EvaluateConfig, record: dict[str, Any], checkpoint: Checkpoint
) -> dict[str, Any]:
    """Play episodes with a run's policy; return environment, statistics and every episode.

    Raises:
        UsageError: too many envs or too high a seed, or the policy does not fit.
    """
    episodes = config.episodes or EPISODES
    num_envs = min(config.num_envs or ENVS, episodes)
    sets = FIRST_TRAINING_SEED // ENVS_AT_MOST
    if num_envs > ENVS_AT_MOST:
        raise UsageError(f"--num-envs {num_envs}: it must be at most {ENVS_AT_MOST}")
    if config.seed >= sets:
        raise UsageError(f"--seed {config.seed}: there are held-out sets 0 to {sets - 1}")
    first_seed = config.seed * ENVS_AT_MOST
    seeds = [first_seed + env for env in range(num_envs)]
    policy = load_policy(record, checkpoint.weights, seeds, config.device)
    played = play(policy, episodes, config)
    policy.env.close()
    return {
        "environment": {"id": policy.env.id, "fingerprint": plain(policy.env.fingerprint)},
        "first_seed": first_seed,
        "num_envs": num_envs,
        **statistics(played),
        "played": {name: array.tolist() for name, array in played.items()},
    }


def play(policy: Policy, episodes: int, config: EvaluateConfig) -> dict[str, np.ndarray]:
    """Play a fixed share of the episodes in each env; return `env` and each return and length."""
    env, num_envs = policy.env, policy.env.num_envs
    generator = torch.Generator(config.device).manual_seed(config.seed)
    quota = episodes // num_envs + (np.arange(num_envs) < episodes % num_envs)
    played, ended = np.zeros(num_envs, np.int64), []
    returns, elapsed = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    valid = np.ones(num_envs, bool)
    raw = env.reset()
    while (played < quota).any():
        obs = policy.preprocessor.observe(raw, elapsed, learn=False).to(config.device)
        noise = None
        if config.stochastic:
            noise = policy.distribution.draw_noise((num_envs,), generator)
        steps = env.step(policy.act(obs, noise))
        raw, returns, elapsed = steps.obs, returns + steps.reward, elapsed + valid
        for one in np.flatnonzero(steps.ended):
            if played[one] < quota[one]:
                ended.append((one, returns[one], elapsed[one]))
            played[one] += 1
        returns, elapsed = np.where(steps.ended, 0.0, returns), np.where(steps.ended, 0, elapsed)
        valid = ~steps.resets
    ended.sort(key=lambda episode: episode[0])
    names = ("env", "episodic_return", "episodic_length")
    return {
        name: np.array(column) for name, column in zip(names, zip(*ended, strict=True), strict=True)
    }


def statistics(played: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the numbers that are reported; the interval is the mean's, by its standard error."""
    returns = played["episodic_return"]
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    half = 1.96 * deviation / np.sqrt(len(returns))
    return {
        "episodes": len(returns),
        "episodic_return": float(returns.mean()),
        "episodic_return_interval_95": [float(returns.mean() - half), float(returns.mean() + half)],
        "episodic_return_deviation": deviation,
        "episodic_return_extremes": [float(returns.min()), float(returns.max())],
        "episodic_length": float(played["episodic_length"].mean()),
    }
