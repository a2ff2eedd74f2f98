"""MAPPO (Yu et al. 2022, "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games").

With `--critic-input obs` it is IPPO (de Witt et al. 2020). docs/mappo.md lists each choice.
"""

import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.config import MappoConfig
from baselines.experience.advantages import gae
from baselines.experience.buffers import RolloutBuffer
from baselines.experience.collect import Clock, Collector, Stream, collect, each, iteration_metrics
from baselines.experience.episodes import make_battles
from baselines.experience.minibatches import Minibatch, Targets, repeat_for_agents, select
from baselines.learners.mappo_instruments import (
    Before,
    Measurement,
    Old,
    Pick,
    Reference,
    after_batch,
    after_step,
    forward,
    intervention_loss,
    needs_before,
    pfo_terms,
)
from baselines.networks.attention import layout_of
from baselines.networks.network import Agent, gumbel_noise, load_weights
from baselines.plasticity import (
    NETWORKS,
    Instruments,
    NetworkHandle,
    change_layers,
    interventions_of,
)
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.folder import derive_seeds, seed_globals
from baselines.runs.loop import anneal, finish, train_battles
from ppo_plasticity.interventions import Interventions

LOSSES = (
    "losses/policy_loss",
    "losses/value_loss",
    "losses/entropy",
    "losses/approx_kl",
    "losses/clipfrac",
    "losses/pfo",
    "losses/interventions",
    "losses/actor_grad_norm",
    "losses/critic_grad_norm",
)


@dataclasses.dataclass
class Trainer:
    """All that changes while MAPPO trains: a `training.Learner`."""

    config: MappoConfig
    env: Any
    agent: Agent
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    buffer: RolloutBuffer
    stream: Stream
    critic_hidden: Tensor  # (num_envs * num_values, memory_size) at the start of the next rollout
    interventions: dict[str, Interventions]  # by network
    handles: dict[str, NetworkHandle]  # by network
    instruments: Instruments
    global_step: int = 0
    iteration: int = 0

    def changes(self, what: str) -> bool:
        """Return whether any intervention does this (see `Intervention.changes`)."""
        return any(what in one.changes for one in self.interventions.values())

    def iterate(self) -> dict[str, float]:
        """Run one iteration: a rollout and an update; return its metrics."""
        return iterate(self)

    def save_state(self) -> Checkpoint:
        """Return everything that `load_state` needs to go on bit for bit."""
        return save_state(self)

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Put back what `save_state` returned."""
        load_state(self, checkpoint)


def main(config: MappoConfig) -> int:
    """Train, and say how to evaluate the result; return the exit status."""
    return finish(*train(config))


def train(config: MappoConfig) -> tuple[list[Path], int | None]:
    """Train, or continue the run or group `config.resume`; see `training.train_battles`."""
    return train_battles("mappo", config, make_trainer)


def make_trainer(config: MappoConfig) -> Trainer:
    """Build networks, optimizer and buffer, and reset the environment; all from the seed."""
    environment_seed, learner_seed = derive_seeds(config.seed)
    seed_globals(learner_seed)
    env = make_battles(config)
    interventions = {name: interventions_of(config, name) for name in NETWORKS}
    agent = make_agent(config, env.unwrapped, interventions).to(config.device)
    generator = torch.Generator(config.device)
    generator.manual_seed(learner_seed)
    optimizer = make_optimizer(config, agent, interventions)
    handles = {
        name: NetworkHandle(network.chain, network, optimizer, generator)
        for name, network in agent.networks.items()
    }
    for name, handle in handles.items():
        interventions[name].start(handle)
    obs, info = env.reset(seed=environment_seed)
    return Trainer(
        config=config,
        env=env,
        agent=agent,
        optimizer=optimizer,
        generator=generator,
        buffer=RolloutBuffer(env, config.num_steps, config.device),
        stream=Stream.start(obs, info, agent.initial_hidden(config.num_envs)),
        critic_hidden=agent.critic.initial_hidden(config.num_envs * agent.num_values),
        interventions=interventions,
        handles=handles,
        instruments=Instruments(config.probe, agent.networks, config.total_steps),
    )


def make_optimizer(
    config: MappoConfig, agent: Agent, interventions: dict[str, Interventions]
) -> torch.optim.Optimizer:
    """Return one Adam, with the options that interventions change for each network."""
    groups = []
    for name, network in agent.networks.items():
        options = interventions[name].optimizer_options({"lr": config.learning_rate, "eps": 1e-5})
        groups.append({"params": list(network.parameters()), **options})
        groups[-1]["initial_lr"] = options["lr"]
    return torch.optim.Adam(groups, fused=True)


def make_agent(
    config: MappoConfig, sizes: Any, interventions: dict[str, Interventions] | None = None
) -> Agent:
    """Build the networks for an environment's sizes, with the layers that interventions ask for."""
    agent = Agent(
        obs_size=sizes.obs_size,
        state_size=sizes.state_size,
        num_agents=sizes.num_agents,
        num_actions=sizes.num_actions,
        hidden_size=config.hidden_size,
        recurrent=config.network == "gru",
        critic_input=config.critic_input,
        agent_id=config.shows_agent_id,
        value_norm=config.value_norm,
        encoder=config.encoder,
        layout=layout_of(sizes) if config.encoder == "attention" else None,
    )
    for name, network in agent.networks.items():
        hooks = interventions[name] if interventions else interventions_of(config, name)
        if "layers" in hooks.changes:
            network.change_layers(partial(change_layers, hooks))
    return agent


def save_state(trainer: Trainer) -> Checkpoint:
    """Return everything that `load_state` needs to go on bit for bit."""
    return Checkpoint(
        global_step=trainer.global_step,
        weights=trainer.agent.state_dict(),
        trainer={
            "optimizer": trainer.optimizer.state_dict(),
            "generator": trainer.generator.get_state(),
            "stream": trainer.stream.state_dict(),
            "critic_hidden": trainer.critic_hidden.cpu(),
            "iteration": trainer.iteration,
            "excess": trainer.instruments.excess.state_dict(),
            "interventions": {
                name: hooks.state_dict() for name, hooks in trainer.interventions.items()
            },
        },
        env=trainer.env.unwrapped.checkpoint(),
        metadata={"algorithm": "mappo", "env": trainer.env.spec.id},
    )


def load_state(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Put back what `save_state` returned."""
    saved = checkpoint.trainer
    trainer.agent.load_state_dict(checkpoint.weights)
    trainer.optimizer.load_state_dict(saved["optimizer"])
    trainer.generator.set_state(saved["generator"])
    trainer.critic_hidden = saved["critic_hidden"].to(trainer.critic_hidden.device)
    trainer.global_step = checkpoint.global_step
    trainer.stream.restore(trainer.env, checkpoint.env, saved["stream"])
    trainer.iteration = saved["iteration"]
    trainer.instruments.excess.load_state_dict(saved["excess"])
    for name, state in saved["interventions"].items():
        trainer.interventions[name].load_state_dict(state)


def iterate(trainer: Trainer) -> dict[str, float]:
    """Run one iteration: a rollout and an update; return its metrics."""
    config, clock, buffer, agent = trainer.config, Clock(), trainer.buffer, trainer.agent
    anneal(config, trainer.optimizer, trainer.global_step)
    actor_hidden = trainer.stream.hidden.clone()
    shape = (config.num_steps, config.num_envs, agent.num_agents, agent.num_actions)
    noise = gumbel_noise(shape, trainer.generator)
    collector = Collector(trainer.env, trainer.stream, noise, buffer)
    (episodes,) = collect(each(agent.act), [collector], clock)
    steps = int(buffer.valid[:-1].sum())
    trainer.global_step += steps
    metrics = update(trainer, actor_hidden, clock)
    trainer.iteration += 1
    clock.spent("learn")
    return iteration_metrics(episodes, steps, trainer.optimizer, clock.lap(), metrics)


def update(trainer: Trainer, actor_hidden: Tensor, clock: Clock) -> dict[str, float]:
    """Improve actor and critic on the rollout in the buffer; return the means of the losses.

    A rollout of reset rows alone teaches nothing: it changes no weight and has no losses.
    """
    config, agent, buffer = trainer.config, trainer.agent, trainer.buffer
    values, critic_hidden = predict_values(agent, buffer, trainer.critic_hidden)
    if not live_entries(buffer).any():
        trainer.critic_hidden = critic_hidden
        return {}
    targets = make_targets(config, agent, buffer, values)
    variance = explained_variance(agent, buffer, targets)
    if not config.value_norm_per_minibatch:
        agent.value_norm.update(targets.returns[buffer.valid[:-1]])
    hidden = (actor_hidden, trainer.critic_hidden)
    pick = partial(select, agent, buffer, hidden=hidden, targets=targets)
    clock.spent("learn")
    due = trainer.instruments.due(trainer.iteration)
    measurement = Measurement.start(trainer, pick) if due else None
    clock.spent("probe")
    means = take_steps(trainer, pick)
    trainer.critic_hidden = critic_hidden
    clock.spent("learn")
    measured = measurement.end(trainer) if measurement else {}
    clock.spent("probe")
    after_batch(trainer, pick)
    return {**means, "losses/explained_variance": float(variance), **measured}


def take_steps(trainer: Trainer, pick: Pick) -> dict[str, float]:
    """Take all gradient steps of an iteration; return the means of the losses.

    Args:
        trainer: what learns.
        pick: env indices to their minibatch.
    """
    config = trainer.config
    before = Before.of(trainer, pick) if needs_before(trainer) else None
    reference, losses = None, []
    for _ in range(config.update_epochs):
        order = torch.randperm(config.num_envs, generator=trainer.generator, device=config.device)
        parts = order.tensor_split(config.num_minibatches)
        for index, envs in enumerate(parts):
            batch = pick(envs)
            if len(batch.live_rows) == 0:
                continue
            if config.value_norm_per_minibatch:
                trainer.agent.value_norm.update(batch.returns)
            old = before.select(envs, batch) if before else None
            total, values = loss(trainer, batch, old, reference)
            if trainer.changes("reference"):  # the step after next trains on these envs
                reference = Reference.of(trainer.agent, pick(parts[(index + 2) % len(parts)]))
            losses.append(torch.cat([values, gradient_step(trainer, total)]))
            after_step(trainer, batch)
    means = torch.stack(losses).mean(0).tolist()  # the one transfer of the update
    return dict(zip(LOSSES, means, strict=True))


def gradient_step(trainer: Trainer, total: Tensor) -> Tensor:
    """Take one step of the optimizer; return (2,) gradient norms without waiting for them."""
    trainer.optimizer.zero_grad(set_to_none=True)
    total.backward()
    norms = [
        nn.utils.clip_grad_norm_(network.parameters(), trainer.config.max_grad_norm)
        for network in trainer.agent.networks.values()
    ]
    trainer.optimizer.step()
    return torch.stack(norms).detach()


def loss(
    trainer: Trainer,
    batch: Minibatch,
    old: Old | None = None,
    reference: Reference | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss, and its parts in the order of LOSSES but for the gradient norms.

    Args:
        trainer: what learns.
        batch: what it learns from.
        old: what the networks did on the batch before the update, where a term needs it.
        reference: another batch, on which interventions hold the networks still.
    """
    config = trainer.config
    outputs, preactivations = forward(trainer, batch)
    log_probs, predicted = outputs["actor"], outputs["critic"]
    pfo, keep = pfo_terms(config, preactivations, old) if old else (log_probs.new_zeros(()), {})
    chosen = log_probs.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    policy, kl, clipped = policy_loss(
        chosen, batch.log_probs, batch.advantages, config.clip_coef, keep.get("actor")
    )
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    value = value_loss(
        predicted.squeeze(-1),
        batch.values,
        trainer.agent.value_norm.normalise(batch.returns),
        clip_coef=config.clip_coef if config.clip_vloss else math.inf,
        huber_delta=config.huber_delta,
        keep=keep.get("critic"),
    )
    extra = log_probs.new_zeros(())
    if old is not None and trainer.changes("loss"):
        extra = intervention_loss(trainer, outputs, preactivations, old, reference)
    total = policy - config.ent_coef * entropy + config.vf_coef * value + pfo + extra
    return total, torch.stack([policy, value, entropy, kl, clipped, pfo, extra]).detach()


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_coef: float,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return PPO's clipped loss (Schulman et al. 2017, eq. 7), the KL estimate, the clipped share.

    Args:
        log_probs: (num_rows,) of the actions taken, under the current policy.
        old_log_probs: (num_rows,) under the policy that took them.
        advantages: (num_rows,).
        clip_coef: clip range of the ratio.
        keep: (num_rows,) bool, rows that may still train (`--pfo-mode clip`); None: all.
    """
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    gains = torch.minimum(ratio * advantages, bounded * advantages)
    policy = -(gains if keep is None else gains * keep).mean()
    with torch.no_grad():
        kl = (ratio - 1 - log_ratio).mean()  # Schulman 2020, "Approximating KL divergence", k3
        clipped = ((ratio - 1).abs() > clip_coef).float().mean()
    return policy, kl, clipped


def value_loss(
    values: Tensor,
    old_values: Tensor,
    targets: Tensor,
    *,
    clip_coef: float,
    huber_delta: float,
    keep: Tensor | None = None,
) -> Tensor:
    """Return the larger of the Huber losses of the values and of the clipped values, averaged.

    All in normalised units (Yu et al. 2022, App. A); `clip_coef` infinite turns clipping off.
    """
    bounded = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
    plain = nn.functional.huber_loss(values, targets, reduction="none", delta=huber_delta)
    clipped = nn.functional.huber_loss(bounded, targets, reduction="none", delta=huber_delta)
    errors = torch.maximum(plain, clipped)
    return (errors if keep is None else errors * keep).mean()


@torch.no_grad()
def predict_values(agent: Agent, buffer: RolloutBuffer, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return normalised values (num_steps + 1, num_envs, num_values) and the next hidden state."""
    inputs = agent.critic_inputs(buffer.obs, buffer.state, buffer.alive)
    shape = inputs.shape[:3]
    keep = repeat_for_agents(buffer.keep(), agent.num_values)
    values, memory = agent.critic.sequence(inputs.flatten(1, 2), hidden, keep)
    return values.view(shape), memory[-2] * keep[-1]


def make_targets(
    config: MappoConfig, agent: Agent, buffer: RolloutBuffer, values: Tensor
) -> Targets:
    """Return advantages and returns; those of reset rows are meaningless and never selected.

    Args:
        config: discount, lambda and what a timeout means.
        agent: turns values into reward units.
        buffer: the rollout.
        values: (num_steps + 1, num_envs, num_values) normalised.
    """
    done = buffer.terminated | buffer.truncated
    terminated = done if config.timeout_is_terminal else buffer.terminated
    raw_values = agent.value_norm.denormalise(values)
    advantages = gae(
        buffer.rewards.unsqueeze(-1).expand_as(values[:-1]),
        raw_values,
        terminated.unsqueeze(-1),
        done.unsqueeze(-1),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    returns = advantages + raw_values[:-1]
    if config.norm_adv:
        advantages = normalise_advantages(agent, buffer, advantages)
    return Targets(values[:-1], advantages, returns)


def live_entries(buffer: RolloutBuffer) -> Tensor:
    """Return (num_steps, num_envs, num_agents) flags: the agent fights, and it is no reset row."""
    return buffer.alive[:-1] & buffer.valid[:-1].unsqueeze(-1)


def normalise_advantages(agent: Agent, buffer: RolloutBuffer, advantages: Tensor) -> Tensor:
    """Return advantages with mean 0 and deviation 1 over the live entries of the whole batch."""
    live = live_entries(buffer)
    entries = advantages.expand(*live.shape)[live]
    return (advantages - entries.mean()) / (entries.std(correction=0) + 1e-5)


def explained_variance(agent: Agent, buffer: RolloutBuffer, targets: Targets) -> Tensor:
    """Return 1 - Var(returns - values) / Var(returns) over valid rows; 0 for constant returns."""
    valid = buffer.valid[:-1]
    returns = targets.returns[valid]
    errors = returns - agent.value_norm.denormalise(targets.values)[valid]
    variance = returns.var(correction=0)
    explained = 1 - errors.var(correction=0) / variance.clamp(min=1e-12)
    return torch.where(variance > 0, explained, torch.zeros_like(explained))


def load_policy(config: MappoConfig, checkpoint: Checkpoint, env: Any, device: str) -> Agent:
    """Build the agent of a checkpoint for `baselines evaluate`.

    Raises:
        UsageError: the environment has other sizes than the one it was trained on.
    """
    agent = make_agent(config, env.unwrapped)
    load_weights(agent, checkpoint.weights, env.spec.id)
    return agent.to(device).eval()
