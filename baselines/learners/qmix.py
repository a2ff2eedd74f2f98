"""QMIX (Rashid et al. 2018) with TD(lambda) and double Q, as PyMARL2 tuned it (Hu et al. 2021).

With `--mixer sum` it is VDN (Sunehag et al. 2018), with `--mixer none` independent Q-learning.
docs/qmix.md lists each choice.
"""

import copy
import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.config import QmixConfig
from baselines.experience.advantages import lambda_returns
from baselines.experience.collect import Clock, Stream, concatenate, iteration_metrics
from baselines.experience.episodes import make_battles
from baselines.experience.replay import EpisodeBatch, EpisodeReplay
from baselines.learners.value_based import (
    LOSSES,
    TeamValues,
    ValueAgent,
    change_agent_layers,
    epsilon_at,
    exploration,
    gradient_step,
    load_agent,
    make_optimizer,
    mask_values,
    total_loss,
)
from baselines.learners.value_instruments import Plasticity
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.folder import derive_seeds, seed_globals
from baselines.runs.loop import anneal, finish, train_battles


@dataclasses.dataclass
class Trainer:
    """All that changes while QMIX trains: a `training.Learner`."""

    config: QmixConfig
    env: Any
    learned: TeamValues
    target: TeamValues  # a copy of some updates ago
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # of the device: exploration and interventions
    sampler: torch.Generator  # of the CPU: draws episodes
    replay: EpisodeReplay
    stream: Stream
    plasticity: Plasticity
    global_step: int = 0
    iteration: int = 0
    episodes: int = 0
    target_episodes: int = 0  # episodes when the target network was last copied

    def iterate(self) -> dict[str, float]:
        """Run one iteration: episodes and gradient steps; return its metrics."""
        return iterate(self)

    def save_state(self) -> Checkpoint:
        """Return everything that `load_state` needs to go on bit for bit."""
        return save_state(self)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Put back what `save_state` returned."""
        load_state(self, checkpoint)


def main(config: QmixConfig) -> int:
    """Train, and say how to evaluate the result; return the exit status."""
    return finish(*train(config))


def train(config: QmixConfig) -> tuple[list[Path], int | None]:
    """Train, or continue the run or group `config.resume`; see `training.train_battles`."""
    return train_battles("qmix", config, partial(make_trainer, replays=config.seeds))


def make_trainer(config: QmixConfig, replays: int = 1) -> Trainer:
    """Build networks, optimizer and replay, and reset the environment; all from the seed.

    Args:
        config: of one seed.
        replays: how many there will be in this process.
    """
    environment_seed, learner_seed = derive_seeds(config.seed)
    seed_globals(learner_seed)
    env = make_battles(config)
    learned = TeamValues(config, env.unwrapped)
    hooks = change_agent_layers(config, learned.agent)
    learned = learned.to(config.device)
    optimizer = make_optimizer(config, learned, hooks)
    generator = torch.Generator(config.device)
    generator.manual_seed(learner_seed)
    plasticity = Plasticity.start(config, learned.agent, hooks, optimizer, generator)
    replay = EpisodeReplay(env, config.buffer_episodes, config.device)
    print(replay.describe(), flush=True)
    replay.allocate(replays)
    obs, info = env.reset(seed=environment_seed)
    return Trainer(
        config=config,
        env=env,
        learned=learned,
        target=copy.deepcopy(learned).requires_grad_(requires_grad=False),
        optimizer=optimizer,
        generator=generator,
        sampler=torch.Generator().manual_seed(learner_seed),
        replay=replay,
        stream=Stream.start(obs, info, learned.agent.initial_hidden(config.num_envs)),
        plasticity=plasticity,
    )


def save_state(trainer: Trainer) -> Checkpoint:
    """Return everything that `load_state` needs to go on bit for bit."""
    return Checkpoint(
        global_step=trainer.global_step,
        weights=trainer.learned.state_dict(),
        trainer={
            "target": trainer.target.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "generator": trainer.generator.get_state(),
            "sampler": trainer.sampler.get_state(),
            "stream": trainer.stream.state_dict(),
            "replay": trainer.replay.state_dict(),
            "iteration": trainer.iteration,
            "episodes": trainer.episodes,
            "target_episodes": trainer.target_episodes,
            "interventions": trainer.plasticity.state_dict(),
        },
        env=trainer.env.unwrapped.checkpoint(),
        metadata={"algorithm": "qmix", "env": trainer.env.spec.id},
        replay=trainer.replay.writer(),
    )


def load_state(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put back what `save_state` returned."""
    saved = checkpoint.trainer
    trainer.learned.load_state_dict(checkpoint.weights)
    trainer.target.load_state_dict(saved["target"])
    trainer.optimizer.load_state_dict(saved["optimizer"])
    trainer.generator.set_state(saved["generator"])
    trainer.sampler.set_state(saved["sampler"])
    trainer.stream.restore(trainer.env, checkpoint.env, saved["stream"])
    with checkpoint.replay_path.open("rb") as file:
        trainer.replay.load(saved["replay"], file)
    trainer.global_step = checkpoint.global_step
    trainer.iteration = saved["iteration"]
    trainer.episodes = saved["episodes"]
    trainer.target_episodes = saved["target_episodes"]
    trainer.plasticity.load_state_dict(saved["interventions"])


def iterate(trainer: Trainer) -> dict[str, float]:
    """Run one iteration: finish some episodes, take some gradient steps; return its metrics."""
    config, clock, before = trainer.config, Clock(), trainer.global_step
    epsilon = epsilon_at(config, trainer.global_step)
    anneal(config, trainer.optimizer, trainer.global_step)
    ended = collect(trainer, epsilon, clock)
    metrics = broken_rewards(ended, trainer.stream)
    if len(trainer.replay.ended) >= config.batch_episodes:
        metrics = update(trainer, clock) | metrics
    if trainer.episodes - trainer.target_episodes >= config.target_update_episodes:
        trainer.target.load_state_dict(trainer.learned.state_dict())
        trainer.target_episodes = trainer.episodes
    trainer.iteration += 1
    clock.spent("learn")
    steps, metrics = trainer.global_step - before, {"charts/epsilon": epsilon, **metrics}
    return iteration_metrics(ended, steps, trainer.optimizer, clock.lap(), metrics)


def collect(trainer: Trainer, epsilon: float, clock: Clock) -> dict[str, np.ndarray]:
    """Play until enough episodes have ended; return them as `Stream.advance` does.

    Args:
        trainer: replay, counters and stream are advanced in place.
        epsilon: share of random actions.
        clock: books env and inference time.
    """
    config, stream, replay = trainer.config, trainer.stream, trainer.replay
    agent, device = trainer.learned.agent, config.device
    shape = (config.num_envs, agent.num_agents, agent.num_actions)
    goal = trainer.episodes + (config.rollout_episodes or config.num_envs)
    ended = []
    while trainer.episodes < goal:
        valid = ~stream.previous_done
        replay.observe(stream.obs, stream.info)
        with torch.inference_mode():
            obs = torch.from_numpy(stream.obs).to(device)
            mask = torch.from_numpy(stream.info["action_mask"]).to(device).bool()
            noise = exploration(shape, epsilon, trainer.generator)
            actions, _, memory = agent.act(obs, mask, stream.hidden, noise)
            orders = actions.cpu().numpy()
            clock.spent("inference")
            reward, terminated, _, episodes = stream.advance(trainer.env, orders, memory)
            clock.spent("env")
        replay.record(orders, reward, terminated, valid)
        if len(episodes["env"]):
            replay.observe(stream.obs, stream.info, episodes["env"])  # what they ended in
            replay.close(episodes["env"])
        trainer.global_step += int(valid.sum())
        trainer.episodes += len(episodes["env"])
        ended.append(episodes)
        clock.spent("inference")
    return concatenate(ended)


def broken_rewards(ended: dict[str, np.ndarray], stream: Stream) -> dict[str, float]:
    """Return a metric that stops the run if a reward is no number: the replay would keep it.

    Args:
        ended: episodes that ended in this iteration.
        stream: knows the returns of those that are being played.
    """
    returns = np.concatenate([ended["episodic_return"], stream.episodic_return])
    return {} if np.isfinite(returns).all() else {"losses/rewards": math.nan}


def update(trainer: Trainer, clock: Clock) -> dict[str, float]:
    """Take the gradient steps of an iteration; return the means of the losses."""
    config, plasticity, agent = trainer.config, trainer.plasticity, trainer.learned.agent
    draw = partial(trainer.replay.sample, config.batch_episodes, trainer.sampler)
    batch, reference, losses, measured = draw(), None, [], {}
    look = partial(plasticity.look, partial(values_of, agent, batch))
    due = plasticity.instruments.due(trainer.iteration)
    clock.spent("learn")
    before = look() if due else {}
    clock.spent("probe")
    for number in range(config.updates_per_rollout):
        batch = draw() if number else batch
        total, parts = loss(trainer, batch, reference)
        if "reference" in plasticity.hooks.changes:
            other = draw()
            reference = other, values_of(agent, other).detach()
        (norm,) = gradient_step([trainer], [total])
        losses.append(torch.cat([parts, norm]))
        plasticity.after_step(partial(inputs_of, agent, batch))
    means = torch.stack(losses).mean(0).tolist()  # the one transfer of the update
    clock.spent("learn")
    if due:
        measured = plasticity.metrics(before, look())
        clock.spent("probe")
    plasticity.after_batch(partial(inputs_of, agent, batch))
    return {**dict(zip(LOSSES, means, strict=True)), **measured}


def inputs_of(agent: ValueAgent, batch: EpisodeBatch) -> Tensor:
    """Return what the network sees of a batch: (rows * num_agents, input_size)."""
    return agent.inputs(batch.obs, agent.one_hot(batch.last_actions)).flatten(0, 1)


def values_of(agent: ValueAgent, batch: EpisodeBatch) -> Tensor:
    """Return action values (rows * num_agents, num_actions) of a batch."""
    sizes = [size * agent.num_agents for size in batch.sizes]
    return agent.network.packed(inputs_of(agent, batch), sizes)


def loss(
    trainer: Trainer, batch: EpisodeBatch, reference: tuple[EpisodeBatch, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss, and its parts in the order of LOSSES but for the gradient norm.

    Args:
        trainer: what learns.
        batch: what it learns from.
        reference: another batch with the values before the last gradient step, on which
            interventions hold the network still.
    """
    learned, target, plasticity = trainer.learned, trainer.target, trainer.plasticity
    new = plasticity.see(learned.agent, lambda agent: values_of(agent, batch))
    with torch.no_grad():
        old = plasticity.see(target.agent, lambda agent: values_of(agent, batch))
        returns = make_returns(trainer, batch, new.values.detach(), old.values)
    values = new.values.view(*batch.action_mask.shape).index_select(0, batch.taken)
    chosen = values.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    joint = learned.mixer(chosen, batch.state.index_select(0, batch.taken))
    again = None if reference is None else (values_of(learned.agent, reference[0]), reference[1])
    pfo, extra, keep = plasticity.terms(new, old, again)
    if keep is not None:
        keep = keep.view(*batch.action_mask.shape[:2]).index_select(0, batch.taken)
    return total_loss(joint, returns, pfo, extra, keep)


def make_returns(trainer: Trainer, batch: EpisodeBatch, online: Tensor, target: Tensor) -> Tensor:
    """Return the TD(lambda) returns (steps, 1), or (steps, num_agents) without a mixer.

    Args:
        trainer: target mixer and settings.
        batch: the episodes.
        online: (rows * num_agents, num_actions) values of the learning network.
        target: the same of the target network.
    """
    config, mask = trainer.config, batch.action_mask
    online, target = online.view(mask.shape), target.view(mask.shape)
    chooser = online if config.double_q else target
    best = mask_values(chooser, mask).argmax(-1, keepdim=True)
    values = trainer.target.mixer(target.gather(-1, best).squeeze(-1), batch.state)
    following = values.index_select(0, batch.following)
    step, episode = batch.step[batch.taken], batch.episode[batch.taken]
    shape = (len(batch.sizes) - 1, batch.sizes[0])

    def spread(flat: Tensor) -> Tensor:
        return flat.new_zeros(*shape, *flat.shape[1:]).index_put_((step, episode), flat)

    terminated = batch.done if config.timeout_is_terminal else batch.terminated
    returns = lambda_returns(
        spread(batch.rewards * config.reward_scale).unsqueeze(-1).expand(*shape, values.shape[1]),
        spread(following),
        spread(terminated).unsqueeze(-1),
        spread(batch.done).unsqueeze(-1),
        gamma=config.gamma,
        td_lambda=config.td_lambda,
    )
    return returns[step, episode]


load_policy = load_agent  # for `baselines evaluate`
