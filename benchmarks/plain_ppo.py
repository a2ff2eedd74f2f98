"""PPO as a plain loop: the baseline that `benchmarks/ppo_speed.py` measures against.

    python benchmarks/plain_ppo.py --env Hopper-v5 --iterations 49

It has the structure and the hyper-parameters of CleanRL's `ppo_continuous_action.py` (Huang et al.
2022): one environment behind a stack of wrappers, batch-one PyTorch calls at each step,
`torch.distributions`, eager Adam. It writes no logs, which spares it some time. Nothing here is
slowed down on purpose, nor made quick in a way that such scripts are not.
"""

import argparse
import dataclasses
import time
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import wrappers
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.distributions import Normal

NUM_STEPS = 2048
UPDATE_EPOCHS = 10
NUM_MINIBATCHES = 32
LEARNING_RATE = 3e-4
GAMMA = 0.99
GAE_LAMBDA = 0.95
CLIP_COEF = 0.2
VF_COEF = 0.5
ENT_COEF = 0.0
MAX_GRAD_NORM = 0.5


def main() -> None:
    """Train and print one line per iteration."""
    parser = argparse.ArgumentParser(description="Train PPO by a plain loop on one environment.")
    parser.add_argument("--env", default="HalfCheetah-v5", help="Gymnasium id with a Box action")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=10, help="of 2,048 steps each")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.env, options.seed, options.iterations, verbose=True)


def train(env_id: str, seed: int, iterations: int, *, verbose: bool = False) -> list[float]:
    """Train for some iterations; return the seconds that each took."""
    learner = PlainPpo(env_id, seed, iterations)
    seconds = []
    for iteration in range(iterations):
        spent = sum(learner.iterate().values())
        seconds.append(spent)
        if verbose:
            print(
                f"step {(iteration + 1) * NUM_STEPS:,}  return {learner.recent_return():.1f}"
                f"  steps/s {NUM_STEPS / spent:,.0f}  explained variance"
                f" {learner.statistics['explained_variance']:.2f}",
                flush=True,
            )
    learner.envs.close()
    return seconds


def make_envs(env_id: str, seed: int) -> gymnasium.vector.SyncVectorEnv:
    """Make a vector of one environment with the usual wrappers, which restarts in the same step."""

    def make_one() -> gymnasium.Env:
        env = gymnasium.make(env_id)
        env = wrappers.FlattenObservation(env)
        env = wrappers.RecordEpisodeStatistics(env)
        env = wrappers.ClipAction(env)
        env = wrappers.NormalizeObservation(env)
        bounded = Box(-10.0, 10.0, env.observation_space.shape)
        env = wrappers.TransformObservation(env, lambda obs: np.clip(obs, -10, 10), bounded)
        env = wrappers.NormalizeReward(env, gamma=GAMMA)
        env = wrappers.TransformReward(env, lambda reward: np.clip(reward, -10, 10))
        env.action_space.seed(seed)
        return env

    same_step = gymnasium.vector.AutoresetMode.SAME_STEP
    return gymnasium.vector.SyncVectorEnv([make_one], autoreset_mode=same_step)


def layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    """Return a linear layer with orthogonal weights and no bias to begin with."""
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    """Actor and critic of two hidden layers each, and a standard deviation of its own."""

    def __init__(self, obs_size: int, num_actions: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(
            layer(obs_size, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0)
        )
        self.actor_mean = nn.Sequential(
            layer(obs_size, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, num_actions, 0.01)
        )
        self.actor_log_std = nn.Parameter(torch.zeros(1, num_actions))

    def value(self, obs: Tensor) -> Tensor:
        """Return values (rows, 1)."""
        return self.critic(obs)

    def act(
        self, obs: Tensor, actions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return actions, drawn where none are given, log-probabilities, entropies and values."""
        mean = self.actor_mean(obs)
        policy = Normal(mean, self.actor_log_std.expand_as(mean).exp())
        if actions is None:
            actions = policy.sample()
        return actions, policy.log_prob(actions).sum(1), policy.entropy().sum(1), self.critic(obs)


@dataclasses.dataclass
class Storage:
    """One rollout, time first, one env."""

    obs: Tensor  # (num_steps, 1, obs_size)
    actions: Tensor  # (num_steps, 1, num_actions)
    log_probs: Tensor  # (num_steps, 1)
    rewards: Tensor  # (num_steps, 1)
    dones: Tensor  # (num_steps, 1), the episode ended with the step before
    values: Tensor  # (num_steps, 1)

    @classmethod
    def empty(cls, obs_size: int, num_actions: int) -> "Storage":
        """Allocate it."""
        scalars = (torch.zeros(NUM_STEPS, 1) for _ in range(4))
        sizes = (obs_size, num_actions)
        return cls(*(torch.zeros(NUM_STEPS, 1, size) for size in sizes), *scalars)


class Rows(NamedTuple):
    """Rows of a rollout to learn from, each (rows, ...)."""

    obs: Tensor
    actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    values: Tensor
    returns: Tensor


class PlainPpo:
    """The loop's state between two iterations.

    Args:
        env_id: Gymnasium id with a vector of continuous actions.
        seed: of everything.
        iterations: over which the learning rate falls to zero.
    """

    def __init__(self, env_id: str, seed: int, iterations: int) -> None:
        torch.manual_seed(seed)
        self.generator = np.random.default_rng(seed)
        self.envs = make_envs(env_id, seed)
        sizes = (
            int(np.prod(self.envs.single_observation_space.shape)),
            int(np.prod(self.envs.single_action_space.shape)),
        )
        self.agent = Agent(*sizes)
        self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
        self.storage = Storage.empty(*sizes)
        obs, _ = self.envs.reset(seed=seed)
        self.obs, self.done = torch.Tensor(obs), torch.zeros(1)
        self.iterations, self.iteration = iterations, 0
        self.returns: list[float] = []
        self.statistics: dict[str, float] = {}

    def recent_return(self) -> float:
        """Return the mean return of the last ten episodes, as the environment pays it."""
        return float(np.mean(self.returns[-10:])) if self.returns else float("nan")

    def iterate(self) -> dict[str, float]:
        """Run a rollout and an update; return the seconds of env, inference and learn."""
        began = time.perf_counter()
        left = 1.0 - self.iteration / self.iterations
        self.optimizer.param_groups[0]["lr"] = left * LEARNING_RATE
        env_seconds = self.collect()
        collected = time.perf_counter()
        self.update()
        self.iteration += 1
        return {
            "env": env_seconds,
            "inference": collected - began - env_seconds,
            "learn": time.perf_counter() - collected,
        }

    def collect(self) -> float:
        """Fill the storage; return the seconds that the environment took."""
        storage, env_seconds = self.storage, 0.0
        for step in range(NUM_STEPS):
            storage.obs[step] = self.obs
            storage.dones[step] = self.done
            with torch.no_grad():
                action, log_prob, _, value = self.agent.act(self.obs)
                storage.values[step] = value.flatten()
            storage.actions[step] = action
            storage.log_probs[step] = log_prob
            began = time.perf_counter()
            obs, reward, terminated, truncated, info = self.envs.step(action.numpy())
            env_seconds += time.perf_counter() - began
            done = np.logical_or(terminated, truncated)
            storage.rewards[step] = torch.tensor(reward).view(-1)
            self.obs, self.done = torch.Tensor(obs), torch.Tensor(done)
            if "final_info" in info:
                self.returns.extend(info["final_info"]["episode"]["r"].tolist())
        return env_seconds

    def advantages(self) -> Tensor:
        """Return generalised advantage estimates (num_steps, 1); a time limit counts as an end."""
        storage = self.storage
        advantages = torch.zeros_like(storage.rewards)
        with torch.no_grad():
            next_value = self.agent.value(self.obs).reshape(1, -1)
            carried = 0
            for step in reversed(range(NUM_STEPS)):
                is_last = step == NUM_STEPS - 1
                going = 1.0 - (self.done if is_last else storage.dones[step + 1])
                following = next_value if is_last else storage.values[step + 1]
                delta = storage.rewards[step] + GAMMA * following * going - storage.values[step]
                carried = delta + GAMMA * GAE_LAMBDA * going * carried
                advantages[step] = carried
        return advantages

    def update(self) -> None:
        """Improve the agent on the rollout."""
        storage, size = self.storage, NUM_STEPS // NUM_MINIBATCHES
        advantages = self.advantages()
        batch = Rows(
            storage.obs.flatten(0, 1),
            storage.actions.flatten(0, 1),
            storage.log_probs.flatten(),
            advantages.flatten(),
            storage.values.flatten(),
            (advantages + storage.values).flatten(),
        )
        rows, clipped = np.arange(NUM_STEPS), []
        for _ in range(UPDATE_EPOCHS):
            self.generator.shuffle(rows)
            for start in range(0, NUM_STEPS, size):
                pick = rows[start : start + size]
                total = self.loss(Rows(*(tensor[pick] for tensor in batch)))
                self.optimizer.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(self.agent.parameters(), MAX_GRAD_NORM)
                self.optimizer.step()
                clipped.append(self.statistics["clipped"])
        predicted, target = batch.values.numpy(), batch.returns.numpy()
        unexplained = np.var(target - predicted) / max(np.var(target), 1e-8)
        self.statistics["explained_variance"] = float(1 - unexplained)
        self.statistics["clipped"] = float(np.mean(clipped))

    def loss(self, rows: Rows) -> Tensor:
        """Return PPO's loss of a minibatch, and note the KL divergence and the clipped share."""
        _, log_probs, entropy, values = self.agent.act(rows.obs, rows.actions)
        log_ratio = log_probs - rows.log_probs
        ratio = log_ratio.exp()
        with torch.no_grad():
            self.statistics["approx_kl"] = ((ratio - 1) - log_ratio).mean()
            self.statistics["clipped"] = ((ratio - 1.0).abs() > CLIP_COEF).float().mean().item()
        advantages = rows.advantages
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        policy = torch.max(
            -advantages * ratio, -advantages * torch.clamp(ratio, 1 - CLIP_COEF, 1 + CLIP_COEF)
        ).mean()
        values = values.view(-1)
        near = rows.values + torch.clamp(values - rows.values, -CLIP_COEF, CLIP_COEF)
        errors = torch.max((values - rows.returns) ** 2, (near - rows.returns) ** 2)
        value = 0.5 * errors.mean()
        return policy - ENT_COEF * entropy.mean() + VF_COEF * value


if __name__ == "__main__":
    main()
