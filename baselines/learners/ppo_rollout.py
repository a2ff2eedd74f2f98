"""PPO's experience: rollouts of all seeds, and the batches and minibatches made of them."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from baselines.config import PpoConfig
from baselines.experience.advantages import gae
from baselines.experience.collect import Clock
from baselines.learners.ppo_trainer import Rollout, Trainer
from baselines.plasticity import scope_of, wants_preactivations


@torch.inference_mode()
def collect(trainer: Trainer, clock: Clock) -> None:
    """Fill the rollout with the next `num_steps` steps of every env."""
    config, rollout, stream = trainer.config, trainer.rollout, trainer.stream
    distribution, act = trainer.distribution, trainer.stack.frozen("actor")
    shape = (config.num_steps, config.num_envs)
    drawn = [distribution.draw_noise(shape, one) for one in trainer.generators]
    noise = torch.stack(drawn).to(config.device)
    stream.ended.clear()
    columns = (rollout.obs[:, :-1], rollout.raw_actions, noise)
    steps = zip(*(column.unbind(1) for column in columns), strict=True)
    for step, (seen, chosen, randomness) in enumerate(steps):
        seen.copy_(stream.obs)
        raw_actions = distribution.sample(act(seen), randomness)
        chosen.copy_(raw_actions)
        actions = distribution.to_env(raw_actions).flatten(0, 1).cpu().numpy()
        clock.spent("inference")
        advance(trainer, step, actions)
        clock.spent("env")
    rollout.obs[:, -1] = stream.obs


def advance(trainer: Trainer, step: int, actions: np.ndarray) -> None:
    """Step the environments and write what came of the actions into row `step`."""
    stream, rollout = trainer.stream, trainer.rollout
    seeds = trainer.config.seeds
    steps = trainer.env.step(actions)
    valid = stream.valid
    rewards = trainer.preprocessor.reward(steps.reward, steps.terminated, valid)
    rollout.rewards[:, step] = rewards
    rollout.terminated[:, step] = steps.terminated.reshape(seeds, -1)
    rollout.truncated[:, step] = steps.truncated.reshape(seeds, -1)
    rollout.valid[:, step] = valid.reshape(seeds, -1)
    stream.elapsed = stream.elapsed + valid
    stream.episodic_return = stream.episodic_return + steps.reward
    stream.obs = trainer.preprocessor.observe(steps.obs, stream.elapsed)
    if steps.ended.any():
        for env in np.flatnonzero(steps.ended):
            episode = (int(env), float(stream.episodic_return[env]), int(stream.elapsed[env]))
            stream.ended.append(episode)
        stream.elapsed = np.where(steps.ended, 0, stream.elapsed)
        stream.episodic_return = np.where(steps.ended, 0.0, stream.episodic_return)
    stream.valid = ~steps.resets


def episode_metrics(trainer: Trainer, seed: int) -> dict[str, float]:
    """Return `charts/*` of one seed's episodes that ended in this iteration, raw returns."""
    envs = trainer.config.num_envs
    ended = [episode for episode in trainer.stream.ended if episode[0] // envs == seed]
    if not ended:
        return {"charts/episodes": 0}
    _, returns, lengths = zip(*ended, strict=True)
    return {
        "charts/episodes": len(ended),
        "charts/episodic_return": float(np.mean(returns)),
        "charts/episodic_return_max": max(returns),
        "charts/episodic_length": float(np.mean(lengths)),
    }


@dataclasses.dataclass
class Batch:
    """What the update works on: rows of one rollout, each (seeds, rows, ...)."""

    obs: Tensor  # as Rollout.rows
    numbers: Tensor  # (seeds, rows, raw_size + 5) raw action and the five that `Minibatch` names
    outputs: dict[str, Tensor]  # by network, before the update, where an intervention needs them
    preactivations: dict[str, Tensor]  # likewise, where something needs them: (seeds, rows, units)


@dataclasses.dataclass
class Minibatch:
    """Rows of a batch, each (seeds, rows, ...)."""

    obs: Tensor
    raw_actions: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    weights: Tensor  # float32 that sum to 1 over each seed's rows, 0 on rows that only reset
    outputs: dict[str, Tensor]
    preactivations: dict[str, Tensor]


@torch.no_grad()
def make_batch(trainer: Trainer) -> Batch:
    """Run the networks over the rollout before the update, and compute what it aims at."""
    config, rollout, distribution = trainer.config, trainer.rollout, trainer.distribution
    obs, every = rollout.rows(), rollout.obs.flatten(1, 2)
    outputs, preactivations = {}, {}
    outputs["actor"], preactivations["actor"] = trainer.stack.forward("actor", obs)
    all_values, of_critic = trainer.stack.forward("critic", every)
    preactivations["critic"] = [layer[:, : obs.shape[1]] for layer in of_critic]
    outputs["critic"] = all_values[:, : obs.shape[1]]
    values = all_values.view(config.seeds, config.num_steps + 1, config.num_envs)
    advantages = estimate_advantages(config, rollout, values)
    raw_actions = rollout.raw_actions.flatten(1, 2)
    log_probs = distribution.log_prob(outputs["actor"], raw_actions)
    valid = torch.from_numpy(rollout.valid).to(config.device)
    columns = (log_probs, advantages, advantages + values[:, :-1], values[:, :-1], valid)
    columns = [column.reshape(*log_probs.shape, 1).float() for column in columns]
    return Batch(
        obs=obs,
        numbers=torch.cat([raw_actions, *columns], -1),
        outputs=outputs if trainer.changes("loss") else {},
        preactivations={
            name: select_preactivations(trainer, name, layers)
            for name, layers in preactivations.items()
            if wants_preactivations(config, trainer.interventions[0][name], name)
        },
    )


def estimate_advantages(config: PpoConfig, rollout: Rollout, values: Tensor) -> Tensor:
    """Return advantages (seeds, num_steps, num_envs); values have one more step."""
    done = rollout.terminated | rollout.truncated
    terminated = done if config.timeout_is_terminal else rollout.terminated
    arrays = (rollout.rewards, terminated, done)
    rewards, terminated, done = (torch.from_numpy(array).to(values.device) for array in arrays)
    return gae(
        *(tensor.transpose(0, 1) for tensor in (rewards, values, terminated, done)),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    ).transpose(0, 1)


def select_preactivations(trainer: Trainer, network: str, layers: list[Tensor]) -> Tensor:
    """Return (seeds, rows, units) of a network's last hidden layer, or of all of them."""
    scope = scope_of(trainer.config, trainer.interventions[0][network], network)
    return torch.cat([layer.flatten(2) for layer in layers[0 if scope == "all" else -1 :]], -1)


def select(batch: Batch, picks: Tensor) -> list[Minibatch]:
    """Return the minibatches of an epoch.

    Args:
        batch: all rows.
        picks: (seeds, minibatches, rows) which rows go into which minibatch.
    """
    seeds, num_rows = batch.obs.shape[:2]
    offsets = num_rows * torch.arange(seeds).view(-1, 1, 1)
    flat = (picks + offsets).transpose(0, 1).to(batch.obs.device)  # (minibatches, seeds, rows)

    def rows(tensor: Tensor) -> tuple[Tensor, ...]:
        chosen = tensor.flatten(0, 1).index_select(0, flat.flatten())
        return chosen.unflatten(0, flat.shape).unbind(0)

    def by_network(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        columns = {name: rows(tensor) for name, tensor in tensors.items()}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(flat))]

    minibatches = []
    parts = (rows(batch.obs), rows(batch.numbers))
    tables = (by_network(batch.outputs), by_network(batch.preactivations))
    for obs, numbers, outputs, preactivations in zip(*parts, *tables, strict=True):
        raw_actions, (*columns, valid) = numbers[..., :-5], numbers[..., -5:].unbind(-1)
        weights = valid / valid.sum(1, keepdim=True).clamp(min=1.0)
        minibatches.append(Minibatch(obs, raw_actions, *columns, weights, outputs, preactivations))
    return minibatches
