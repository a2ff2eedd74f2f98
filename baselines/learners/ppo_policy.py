"""PPO's policy: its networks, its distribution of actions, and how it is loaded again."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.config import PpoConfig, recorded_config
from baselines.errors import UsageError
from baselines.experience.episodes import FIRST_TRAINING_SEED, VectorEnv, make_vector_env
from baselines.experience.preprocess import Preprocessor
from baselines.networks.distributions import Distribution, make_distribution
from baselines.networks.network import initialise_orthogonal, load_weights
from baselines.networks.single_agent import ActorCritic, AppendLogStd, hidden_layers
from baselines.plasticity import NETWORKS, change_layers, interventions_of
from baselines.runs.seeding import derive_seeds
from ppo_plasticity.interventions import Interventions


def space_of(config: PpoConfig, env: VectorEnv) -> Distribution:
    """Return the distribution over an environment's actions.

    Raises:
        UsageError: the policy is for continuous actions and these are discrete, or it squashes
            actions that have no bounds.
    """
    if env.discrete:
        if config.policy != "normal":
            raise UsageError(f"--policy {config.policy}: {env.id} has discrete actions")
        return make_distribution(config.policy, env.num_actions, None)
    low, high = (
        torch.from_numpy(bound.astype(np.float32)).to(config.device)
        for bound in (env.action_space.low, env.action_space.high)
    )
    if config.policy != "normal" and not (high - low).isfinite().all():
        raise UsageError(
            f"--policy {config.policy}: actions of {env.id} have no bounds; use normal"
        )
    return make_distribution(config.policy, env.num_actions, (low, high))


def env_seeds(config: PpoConfig, seeds: list[int], iteration: int) -> list[int]:
    """Return one seed per env; a run that is resumed after `iteration` begins other episodes."""
    bases = [derive_seeds(seed if iteration == 0 else (seed, iteration))[0] for seed in seeds]
    bases = [max(base, FIRST_TRAINING_SEED) for base in bases]
    return [base + env for base in bases for env in range(config.num_envs)]


def make_actor_critic(
    config: PpoConfig,
    obs_shape: tuple[int, ...],
    distribution: Distribution,
    interventions: dict[str, Interventions],
) -> ActorCritic:
    """Build one seed's networks, with the layers that interventions ask for."""
    has_std = config.state_std or not hasattr(distribution, "low")
    num_outputs = distribution.num_outputs if has_std else distribution.num_outputs // 2
    trunks = [hidden_layers(obs_shape, config.hidden_size, config.activation) for _ in NETWORKS]
    last = [layer for layer in trunks[0] if isinstance(layer, nn.Linear)][-1]
    heads = (nn.Linear(last.out_features, num_outputs), nn.Linear(last.out_features, 1))
    networks = {
        name: change_layers(interventions[name], nn.Sequential(*trunk, head))
        for name, trunk, head in zip(NETWORKS, trunks, heads, strict=True)
    }
    if config.init == "orthogonal":
        initialise_orthogonal(networks["actor"], 0.01)
        initialise_orthogonal(networks["critic"], 1.0)
    if config.shared_trunk:
        check_same_layers(interventions)
        actor, critic = networks.values()
        networks["critic"] = nn.Sequential(*list(actor)[:-1], *list(critic)[-1:])
    if not has_std:
        networks["actor"].append(AppendLogStd(distribution.raw_size))
    return ActorCritic(**networks).to(config.device)


def check_same_layers(interventions: dict[str, Interventions]) -> None:
    """Raise `UsageError` if interventions ask for different layers in a shared trunk."""
    kinds = {
        name: [type(hook) for hook in hooks.that_change("layers")]
        for name, hooks in interventions.items()
    }
    if kinds["actor"] != kinds["critic"]:
        raise UsageError(
            "--intervention: layers of a shared trunk change for actor and critic alike;"
            " name no network"
        )


@dataclasses.dataclass
class Policy:
    """A trained policy, with its environment and its view of observations."""

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
        seeds: one per env.
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
    agent = make_actor_critic(config, preprocessor.obs_shape, distribution, hooks)
    load_weights(agent, network_weights(weights), env.id)
    for name in ("mean", "variance"):
        getattr(preprocessor.moments, name)[0] = weights[f"preprocessor.obs_{name}"].numpy()
    return Policy(env, preprocessor, distribution, agent.to(device).eval())


def network_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's weights without what `Seed.state_dict` added."""
    return {name: value for name, value in weights.items() if not name.startswith("preprocessor.")}
