"""PPO (Schulman et al. 2017) for one agent: discrete or continuous actions, vectors or pixels.

Several seeds train at once as stacked networks (baselines/learners/ppo_stack.py); a lone seed is a
stack of one. Tensors therefore begin with a seed axis, and losses are (seeds,). docs/ppo.md lists
the profiles and each choice; docs/plasticity.md what is measured.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.config import PpoConfig
from baselines.experience.collect import Clock
from baselines.learners.ppo_instruments import (
    Reference,
    after_batch,
    after_step,
    intervention_loss,
    look,
    look_at,
    measure,
)
from baselines.learners.ppo_rollout import (
    Batch,
    Minibatch,
    collect,
    episode_metrics,
    make_batch,
    select,
    select_preactivations,
)
from baselines.learners.ppo_stack import clip_gradients, joint_norm
from baselines.learners.ppo_trainer import Trainer, make_trainer, network_blocks, save_state
from baselines.networks.distributions import LOG_RATIO_RANGE, Distribution
from baselines.plasticity import NETWORKS, has_pfo, pfo_mask, pfo_term
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.folder import RunGroup
from baselines.runs.loop import finish, open_runs, prepare, train_group

LOSSES = (
    "losses/policy_loss",
    "losses/value_loss",
    "losses/entropy",
    "losses/approx_kl",
    "losses/clipfrac",
    "losses/ratio",
    "losses/pfo",
    "losses/interventions",
    "losses/actor_grad_norm",
    "losses/critic_grad_norm",
)
KL_COLUMN = LOSSES.index("losses/approx_kl")


def main(config: PpoConfig) -> int:
    """Train, and say how to evaluate the result; return the exit status."""
    return finish(*train(config))


def train(config: PpoConfig) -> tuple[list[Path], int | None]:
    """Train, or continue the run or group of runs `config.resume`.

    Returns:
        The run folders, one a seed, and the signal that stopped them (None when complete).

    Raises:
        UsageError: the config cannot be run here.
    """
    config = prepare(config)
    checkpoints = RunGroup.common_checkpoints(Path(config.resume)) if config.resume else []
    trainer = make_trainer(config, checkpoints)
    seeds = Seeds(trainer)
    environment = {"id": trainer.env.id, "fingerprint": trainer.env.fingerprint}
    runs = open_runs("ppo", config, environment, checkpoints)
    if not checkpoints:
        runs.save(seeds.save_state())
    return runs.paths, train_group("ppo", config, seeds, runs)


class Seeds:
    """The stacked seeds of a trainer: a `training.Group`."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._snapshots = snapshot_iterations(trainer.config)

    @property
    def global_steps(self) -> np.ndarray:
        """Environment steps that each seed has done."""
        return self.trainer.global_steps

    @property
    def iterations(self) -> list[int]:
        """Iterations that each seed has done."""
        return [self.trainer.iteration] * len(self.global_steps)

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return self.trainer.iteration >= num_iterations(self.trainer.config)

    @property
    def snapshot_due(self) -> bool:
        """Whether weights are kept now."""
        return self.trainer.iteration in self._snapshots

    def iterate(self) -> list[dict[str, float]]:
        """Collect and learn once."""
        return iterate(self.trainer)

    def save_state(self) -> list[Checkpoint]:
        """Return each seed's checkpoint."""
        return save_state(self.trainer)

    def close(self) -> None:
        """Close the environments."""
        self.trainer.env.close()


def num_iterations(config: PpoConfig) -> int:
    """Return how many rollouts a run makes."""
    return max(1, config.total_steps // (config.num_envs * config.num_steps))


def snapshot_iterations(config: PpoConfig) -> set[int]:
    """Return the iterations after which weights are kept, evenly spread from first to last."""
    return {
        round(part * num_iterations(config) / max(1, config.snapshots - 1))
        for part in range(config.snapshots)
    }


def iterate(trainer: Trainer) -> list[dict[str, float]]:
    """Run one iteration, a rollout and an update; return each seed's metrics."""
    config, clock = trainer.config, Clock()
    anneal(trainer)
    collect(trainer, clock)
    batch = make_batch(trainer)
    clock.spent("learn")
    due = trainer.instruments[0].due(trainer.iteration)
    before = [look(trainer, seed) for seed in range(config.seeds)] if due else []
    clock.spent("probe")
    losses = update(trainer, batch)
    clock.spent("learn")
    steps = trainer.rollout.valid.sum((1, 2))
    trainer.global_steps = trainer.global_steps + steps
    trainer.iteration += 1
    measured = [measure(trainer, seed, batch, *looked) for seed, looked in enumerate(before)]
    clock.spent("probe")
    after_batch(trainer)
    clock.spent("learn")
    seconds = clock.lap()
    rate = 1.0 / sum(seconds.values())
    lr = float(trainer.optimizers[0].param_groups[0]["lr"])
    return [
        {
            **episode_metrics(trainer, seed),
            "charts/SPS": float(steps[seed]) * rate,
            "charts/learning_rate": lr,
            **losses[seed],
            **(measured[seed] if due else {}),
            **{f"time/{name}_seconds": spent for name, spent in seconds.items()},
        }
        for seed in range(config.seeds)
    ]


def anneal(trainer: Trainer) -> None:
    """Set the learning rate of this iteration."""
    if not trainer.config.anneal_lr:
        return
    left = 1.0 - trainer.iteration / num_iterations(trainer.config)
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * left


def update(trainer: Trainer, batch: Batch) -> list[dict[str, float]]:
    """Improve actor and critic on the batch; return each seed's mean losses."""
    config = trainer.config
    num_rows = batch.obs.shape[1]
    size = num_rows // config.num_minibatches
    watches_churn = trainer.changes("reference")
    reference: Reference | None = None
    losses: list[Tensor] = []  # each (seeds, len(LOSSES))
    for _ in range(config.update_epochs):
        order = torch.stack([torch.randperm(num_rows, generator=g) for g in trainer.generators])
        picks = order[:, : size * config.num_minibatches].unflatten(1, (-1, size))
        minibatches = select(batch, picks)
        for index, minibatch in enumerate(minibatches):
            total, parts = loss(trainer, minibatch, reference)
            if watches_churn:  # the step after this one trains on the next rows, not on these
                reference = look_at(trainer, minibatches[(index + 2) % len(minibatches)])
            norms = gradient_step(trainer, total)
            losses.append(torch.cat([parts, norms], -1))
            after_step(trainer, minibatch)
            if config.target_kl and parts[0, KL_COLUMN] > config.target_kl:
                break
        else:
            continue
        break
    return summarise(trainer, torch.stack(losses))


def summarise(trainer: Trainer, losses: Tensor) -> list[dict[str, float]]:
    """Return each seed's mean losses, and those of the first and last step when measured.

    Args:
        trainer: says whether this iteration is measured.
        losses: (steps, seeds, len(LOSSES)).
    """
    # Steps last: a mean over the first axis would round by the number of seeds.
    kinds = {"losses": losses.movedim(0, -1).contiguous().mean(-1)}
    if trainer.instruments[0].due(trainer.iteration):
        kinds |= {"first_minibatch": losses[0], "last_minibatch": losses[-1]}
    tables = {kind: table.tolist() for kind, table in kinds.items()}
    return [
        {
            name.replace("losses", kind, 1): value
            for kind, table in tables.items()
            for name, value in zip(LOSSES, table[seed], strict=True)
        }
        | {"losses/updates": len(losses)}
        for seed in range(trainer.config.seeds)
    ]


def loss(
    trainer: Trainer, minibatch: Minibatch, reference: Reference | None
) -> tuple[Tensor, Tensor]:
    """Return the loss summed over seeds, and (seeds, len(LOSSES) - 2) its parts for the log."""
    config, distribution, weights = trainer.config, trainer.distribution, minibatch.weights
    forward = {name: trainer.stack.forward(name, minibatch.obs) for name in NETWORKS}
    outputs = {name: pair[0] for name, pair in forward.items()}
    nothing = weights.new_zeros(config.seeds)
    pfo, preactivations, kept = nothing, {}, dict.fromkeys(NETWORKS, weights)
    for name, old in minibatch.preactivations.items():
        preactivations[name] = select_preactivations(trainer, name, forward[name][1])
        if has_pfo(config, name):
            pfo = pfo + pfo_term(config, preactivations[name], old, weights)
            keep = pfo_mask(config, preactivations[name], old)
            kept[name] = weights if keep is None else weights * keep
    policy, statistics = policy_loss(
        config, distribution, minibatch, outputs["actor"], kept["actor"]
    )
    value = value_loss(config, minibatch, outputs["critic"].squeeze(-1), kept["critic"])
    entropy = distribution.entropy(outputs["actor"], minibatch.raw_actions)
    entropy = (entropy * weights).sum(1)
    extra = nothing
    if trainer.changes("loss"):
        extra = intervention_loss(trainer, minibatch, outputs, preactivations, reference)
    total = policy - config.ent_coef * entropy + config.vf_coef * value + pfo + extra
    parts = [policy, value, entropy, *statistics, pfo, extra]
    return total.sum(), torch.stack(parts, -1).detach()


def policy_loss(
    config: PpoConfig,
    distribution: Distribution,
    minibatch: Minibatch,
    outputs: Tensor,
    weights: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Return PPO's clipped loss (Schulman et al. 2017, eq. 7) and KL, clipped share, mean ratio.

    All (seeds,); KL is the k3 estimate of Schulman 2020, clipped the share outside the clip range.
    """
    log_ratio = distribution.log_prob(outputs, minibatch.raw_actions) - minibatch.log_probs
    if config.log_ratio_clamp:
        log_ratio = log_ratio.clamp(*LOG_RATIO_RANGE)
    ratio = log_ratio.exp()
    advantages = normalise(minibatch.advantages, minibatch.weights, config.norm_adv)
    bounded = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
    policy = -(torch.minimum(ratio * advantages, bounded * advantages) * weights).sum(1)
    with torch.no_grad():
        kl = ((ratio - 1 - log_ratio) * minibatch.weights).sum(1)
        clipped = (((ratio - 1).abs() > config.clip_coef) * minibatch.weights).sum(1)
        mean_ratio = (ratio * minibatch.weights).sum(1)
    return policy, [kl, clipped, mean_ratio]


def normalise(advantages: Tensor, weights: Tensor, deviation: str) -> Tensor:
    """Return advantages (seeds, rows) with mean 0 and deviation 1 over each seed's rows."""
    if deviation == "none":
        return advantages
    centred = advantages - (advantages * weights).sum(1, keepdim=True)
    variance = (centred.square() * weights).sum(1, keepdim=True)
    if deviation == "biased":
        return centred / variance.sqrt().clamp(min=1e-6)
    count = (weights > 0).sum(1, keepdim=True)
    return centred / ((variance * count / (count - 1).clamp(min=1)).sqrt() + 1e-8)


def value_loss(config: PpoConfig, minibatch: Minibatch, values: Tensor, weights: Tensor) -> Tensor:
    """Return half the mean squared error (seeds,), the larger of plain and clipped if asked."""
    errors = (values - minibatch.returns).square()
    if config.clip_vloss:
        change = (values - minibatch.values).clamp(-config.clip_coef, config.clip_coef)
        errors = torch.maximum(errors, (minibatch.values + change - minibatch.returns).square())
    return 0.5 * (errors * weights).sum(1)


def gradient_step(trainer: Trainer, total: Tensor) -> Tensor:
    """Take one optimizer step; return (seeds, 2) gradient norms of actor and critic before it."""
    config, stack = trainer.config, trainer.stack
    for block in stack.blocks.values():
        block.flat.grad.zero_()
    total.backward()
    names = list(stack.blocks)
    if "trunk" in names and config.step_trunk_twice:
        before = torch.stack([block.flat.grad.norm(dim=1) for block in stack.blocks.values()])
        for name in NETWORKS:
            clip_gradients(network_blocks(stack, name), config.max_grad_norm)
    elif config.clip_grad_apart and "trunk" not in names:
        before = torch.cat(
            [clip_gradients([b], config.max_grad_norm) for b in stack.blocks.values()]
        )
    else:
        before = clip_gradients(list(stack.blocks.values()), config.max_grad_norm)
    for optimizer in trainer.optimizers:
        optimizer.step()
    shares = [[names.index(n) for n in names if n in (network, "trunk")] for network in NETWORKS]
    return torch.stack([joint_norm(before[share]) for share in shares], -1)
