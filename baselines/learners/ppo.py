"""PPO (Schulman et al. 2017) for one agent: discrete or continuous actions, vectors or pixels.

Several seeds train at once as stacked networks (`ppo_stack`); a lone seed is a stack of one.
Tensors therefore begin with a seed axis, and losses are (seeds,). docs/ppo.md lists the profiles
and each choice; docs/plasticity.md lists the measurements.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from baselines.config import PpoConfig
from baselines.errors import UsageError
from baselines.experience.advantages import gae
from baselines.experience.collect import Clock, Metrics, iteration_metrics
from baselines.experience.episodes import make_vector_env
from baselines.experience.graphs import graphed
from baselines.experience.preprocess import Preprocessor
from baselines.experience.rollout import EpisodeCollector, Rollout
from baselines.experience.rows import WeightedRows
from baselines.learners.optimizer import anneal
from baselines.learners.ppo_policy import (
    env_seeds,
    load_policy,
    make_actor_critic,
    space_of,
)
from baselines.learners.ppo_stack import (
    Moments,
    Seed,
    SeedHandle,
    Stack,
    block_tests,
    clip_gradients,
    joint_norm,
)
from baselines.networks.distributions import LOG_RATIO_RANGE
from baselines.plasticity import (
    NETWORKS,
    NO_REFERENCES,
    Measurement,
    Pass,
    Plasticity,
    Reference,
    Terms,
    TrustRegion,
    diversity_metrics,
    interventions_of,
    is_due,
)
from baselines.runs import state
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.seeding import derive_seeds, seeded_generator
from ppo_plasticity.capacity import squared_error
from ppo_plasticity.interventions import Interventions

__all__ = ["Ppo", "load_policy", "make_group"]

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


def make_group(config: PpoConfig, found: Sequence[Checkpoint] = ()) -> "Ppo":
    """Return all seeds, built from their numbers; a resumed run begins other episodes.

    Args:
        config: of all seeds.
        found: checkpoints from which the seeds will be restored.
    """
    return Ppo(config, found[0].trainer["iteration"] if found else None)


class Columns(NamedTuple):
    """Numbers of each row of a batch, (seeds, rows) but for the actions."""

    raw_actions: Tensor  # (seeds, rows, raw_size)
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    valid: Tensor  # 0.0 on rows that only reset

    def packed(self) -> Tensor:
        """Return all columns side by side, (seeds, rows, raw_size + 5): one gather takes all."""
        columns = [column.unsqueeze(-1).float() for column in self[1:]]
        return torch.cat([self.raw_actions, *columns], -1)

    @classmethod
    def unpacked(cls, numbers: Tensor) -> "Columns":
        """Return the columns of `packed` numbers of any leading axes."""
        others = len(cls._fields) - 1
        return cls(numbers[..., :-others], *numbers[..., -others:].unbind(-1))


@dataclasses.dataclass
class Batch:
    """Rows of one rollout, each (seeds, rows, ...)."""

    obs: Tensor  # as Rollout.rows
    numbers: Tensor  # (seeds, rows, raw_size + 5), see `Columns.packed`
    old: dict[str, Pass]  # before the update, by network, if a loss term compares with it


@dataclasses.dataclass
class Minibatch:
    """Rows of a batch, each (seeds, rows, ...)."""

    obs: Tensor
    columns: Columns
    rows: WeightedRows  # weight 0 on rows that only reset
    old: dict[str, Pass]

    def valid_rows(self, seed: int) -> Tensor:
        """Return one seed's observations (rows, *obs_shape) that are transitions."""
        return self.obs[seed][self.rows.weights[seed] > 0]


class Ppo:
    """All seeds of PPO, in the order of `config.seed + i`: a `runs.loop.Group`.

    Args:
        config: of all seeds; everything is drawn from their numbers.
        resumed: iterations done by a run that is resumed; `load_state` then begins the episodes.

    Raises:
        UsageError: the environment and the config do not fit together.
    """

    def __init__(self, config: PpoConfig, resumed: int | None = None) -> None:
        if config.target_kl and config.seeds > 1:
            raise UsageError("--target-kl ends each seed's updates at another step: use --seeds 1")
        self.config, self.iteration = config, resumed or 0
        numbers = [config.seed + index for index in range(config.seeds)]
        learner_seeds = [derive_seeds(number)[1] for number in numbers]
        self.env = make_vector_env(config, env_seeds(config, numbers, self.iteration))
        self.preprocessor = Preprocessor(config, self.env)
        self.distribution = space_of(config, self.env)
        self.generators = [seeded_generator(seed, "cpu") for seed in learner_seeds]
        hooks = [{name: interventions_of(config, name) for name in NETWORKS} for _ in numbers]
        agents = []
        for seed, own in zip(learner_seeds, hooks, strict=True):
            torch.manual_seed(seed)
            shape = self.preprocessor.obs_shape
            agents.append(make_actor_critic(config, shape, self.distribution, own))
        self.stack = Stack(agents, block_tests(agents[0]))
        self.optimizers = make_optimizers(config, self.stack, hooks[0])
        self.moments = Moments(self.stack, self.optimizers)
        self.plasticity = [self._plasticity_of(seed, own) for seed, own in enumerate(hooks)]
        self.trust_regions = [TrustRegion(config.total_steps) for _ in numbers]
        self.collector = EpisodeCollector(config, self.env, self.preprocessor, self.distribution)
        self.rollout: Rollout = self.collector.rollout
        self.global_steps = np.zeros(config.seeds, np.int64)  # (seeds,) transitions so far
        self.seeds = [Seed(self, index) for index in range(config.seeds)]
        self.environment = {"id": self.env.id, "fingerprint": self.env.fingerprint}
        self.gradient_step = graphed(self._gradient_step)
        self._snapshots = snapshot_iterations(config)
        if resumed is None:
            if config.obs_norm == "frozen":
                rngs = [np.random.default_rng(seed) for seed in learner_seeds]
                self.preprocessor.estimate(self.env, rngs)
            self.collector.start()

    def _plasticity_of(self, seed: int, hooks: dict[str, Interventions]) -> dict[str, Plasticity]:
        agent, generator = self.stack.agents[seed], self.generators[seed]
        divergences = {"actor": self.distribution.kl, "critic": squared_error}
        return {
            name: Plasticity(
                name,
                getattr(agent, name),
                hooks[name],
                SeedHandle(self.stack, seed, name, self.optimizers, generator),
                divergences[name],
            )
            for name in NETWORKS
        }

    @property
    def iterations(self) -> list[int]:
        """Iterations that each seed has done."""
        return [self.iteration] * self.config.seeds

    @property
    def finished(self) -> bool:
        """Whether all iterations are done."""
        return self.iteration >= num_iterations(self.config)

    @property
    def snapshot_due(self) -> bool:
        """Whether weights are kept now."""
        return self.iteration in self._snapshots

    def save_state(self) -> list[Checkpoint]:
        """Return each seed's checkpoint: everything but the state of the environments."""
        return [state.checkpoint_of(seed) for seed in self.seeds]

    def load_state(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Restore each seed from its checkpoint, and begin episodes."""
        for seed, checkpoint in zip(self.seeds, checkpoints, strict=True):
            state.restore_learner(seed, checkpoint)
        self.collector.start()

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def iterate(self) -> list[Metrics]:
        """Collect a rollout and learn from it; return each seed's metrics."""
        config, clock = self.config, Clock()
        if config.anneal_lr:
            for optimizer in self.optimizers:
                anneal(optimizer, 1.0 - self.iteration / num_iterations(config))
        self.collector.collect(self.stack.frozen("actor"), self.draw_noise(), clock)
        batch = self.make_batch()
        clock.spent("learn")
        due = is_due(config, self.iteration)
        measurements = [self.measure(seed) for seed in range(config.seeds)] if due else []
        clock.spent("probe")
        losses = self.learn(batch)
        clock.spent("learn")
        steps = self.rollout.valid.sum((1, 2))
        self.global_steps = self.global_steps + steps
        self.iteration += 1
        measured = [
            self.measure_again(seed, found, batch) for seed, found in enumerate(measurements)
        ]
        clock.spent("probe")
        for seed, networks in enumerate(self.plasticity):
            for plasticity in networks.values():
                plasticity.after_batch(partial(self.rollout.valid_rows, seed))
        clock.spent("learn")
        seconds = clock.lap()
        return [
            iteration_metrics(
                self.collector.metrics(seed),
                int(steps[seed]),
                self.optimizers[0],
                seconds,
                {**losses[seed], **(measured[seed] if due else {})},
            )
            for seed in range(config.seeds)
        ]

    def draw_noise(self) -> Tensor:
        """Return the noise of a rollout's actions, (seeds, num_steps, num_envs, ...)."""
        shape = (self.config.num_steps, self.config.num_envs)
        drawn = [self.distribution.draw_noise(shape, own) for own in self.generators]
        return torch.stack(drawn).to(self.config.device)

    @torch.no_grad()
    def make_batch(self) -> Batch:
        """Run the networks over the rollout before the update, and compute the targets."""
        config, rollout, seeds = self.config, self.rollout, self.config.seeds
        obs = rollout.rows()
        count = obs.shape[1]
        outputs, layers = self.stack.forward("actor", obs)
        old = {"actor": self.as_pass("actor", outputs, layers)}
        log_probs = self.distribution.log_prob(outputs, rollout.raw_actions.flatten(1, 2))
        all_values, layers = self.stack.forward("critic", rollout.obs.flatten(1, 2))
        layers = [layer[:, :count] for layer in layers]
        old["critic"] = self.as_pass("critic", all_values[:, :count], layers)
        values = all_values.view(seeds, config.num_steps + 1, config.num_envs)
        advantages = estimate_advantages(config, rollout, values)
        columns = Columns(
            rollout.raw_actions.flatten(1, 2),
            log_probs,
            *(
                column.reshape(seeds, count)  # (seeds, num_steps * num_envs)
                for column in (advantages, advantages + values[:, :-1], values[:, :-1])
            ),
            torch.from_numpy(rollout.valid).to(config.device).reshape(seeds, count),
        )
        compared = [name for name in NETWORKS if self.plasticity[0][name].compares]
        return Batch(obs, columns.packed(), {name: old[name] for name in compared})

    def learn(self, batch: Batch) -> list[Metrics]:
        """Improve actor and critic on the batch; return each seed's mean losses."""
        config, losses = self.config, []  # each (seeds, len(LOSSES))
        num_rows = batch.obs.shape[1]
        size = num_rows // config.num_minibatches
        references = NO_REFERENCES
        for _ in range(config.update_epochs):
            order = torch.stack(
                [torch.randperm(num_rows, generator=own) for own in self.generators]
            )
            picks = order[:, : size * config.num_minibatches].unflatten(1, (-1, size))
            minibatches = minibatches_of(batch, picks)
            for index, minibatch in enumerate(minibatches):
                # The step after this one trains on the next rows, not on these.
                following = self.refer(minibatches[(index + 2) % len(minibatches)])
                losses.append(self.gradient_step(minibatch, references))
                references = following
                for seed, networks in enumerate(self.plasticity):
                    for plasticity in networks.values():
                        plasticity.after_step(partial(minibatch.valid_rows, seed))
                if config.target_kl and losses[-1][0, KL_COLUMN] > config.target_kl:
                    return self.summarise(torch.stack(losses))
        return self.summarise(torch.stack(losses))

    def summarise(self, losses: Tensor) -> list[Metrics]:
        """Return each seed's mean losses, and those of the first and last step when measured.

        Args:
            losses: (steps, seeds, len(LOSSES)).
        """
        # Steps last: a mean over the first axis would round by the number of seeds.
        kinds = {"losses": losses.movedim(0, -1).contiguous().mean(-1)}  # (seeds, len(LOSSES))
        if is_due(self.config, self.iteration):
            kinds |= {"first_minibatch": losses[0], "last_minibatch": losses[-1]}
        tables = {kind: table.tolist() for kind, table in kinds.items()}
        return [
            {
                name.replace("losses", kind, 1): value
                for kind, table in tables.items()
                for name, value in zip(LOSSES, table[seed], strict=True)
            }
            | {"losses/updates": len(losses)}
            for seed in range(self.config.seeds)
        ]

    def _gradient_step(self, minibatch: Minibatch, references: Mapping[str, Reference]) -> Tensor:
        """Take one optimizer step; return the losses (seeds, len(LOSSES)), not waited for."""
        total, losses = self.loss(minibatch, references)
        return torch.cat([losses, self.step(total)], -1)

    def loss(
        self, minibatch: Minibatch, references: Mapping[str, Reference] = NO_REFERENCES
    ) -> tuple[Tensor, Tensor]:
        """Return the loss summed over seeds, and its parts (seeds, len(LOSSES) - 2) for the log.

        Args:
            minibatch: rows to learn from.
            references: by network, outputs on other rows, from which a step should not move them.
        """
        config, columns, rows = self.config, minibatch.columns, minibatch.rows
        new = {
            name: self.as_pass(name, *self.stack.forward(name, minibatch.obs)) for name in NETWORKS
        }
        kept = {name: rows.only(self.kept_rows(name, new[name], minibatch)) for name in NETWORKS}
        outputs = new["actor"].outputs
        log_ratio = self.distribution.log_prob(outputs, columns.raw_actions) - columns.log_probs
        if config.log_ratio_clamp:
            log_ratio = log_ratio.clamp(*LOG_RATIO_RANGE)
        ratio = log_ratio.exp()
        advantages = normalise(columns.advantages, rows.weights, config.norm_adv)
        bounded = ratio.clamp(1 - config.clip_coef, 1 + config.clip_coef)
        policy = -kept["actor"].mean(torch.minimum(ratio * advantages, bounded * advantages))
        value = 0.5 * kept["critic"].mean(
            clipped_value_errors(config, columns, new["critic"].outputs.squeeze(-1))
        )
        entropy = rows.mean(self.distribution.entropy(outputs, columns.raw_actions))
        terms = {
            name: self.terms(name, new[name], minibatch, references.get(name)) for name in NETWORKS
        }
        pfo = terms["actor"].pfo + terms["critic"].pfo
        others = terms["actor"].others + terms["critic"].others
        total = policy - config.ent_coef * entropy + config.vf_coef * value + pfo + others
        statistics = clip_statistics(config, rows, log_ratio.detach(), ratio.detach())
        return total.sum(), torch.stack(
            [policy, value, entropy, *statistics, pfo, others], -1
        ).detach()

    def as_pass(self, name: str, outputs: Tensor, layers: Sequence[Tensor]) -> Pass:
        """Return a network's outputs, with the pre-activations that its loss terms read.

        Args:
            name: of the network.
            outputs: (seeds, rows, outputs).
            layers: pre-activations (seeds, rows, ...) of each hidden layer.
        """
        plasticity = self.plasticity[0][name]
        if not plasticity.changes("preactivations"):
            return Pass(outputs)
        chosen = layers[0 if plasticity.hooks.scope == "all" else -1 :]
        return Pass(outputs, torch.cat([layer.flatten(2) for layer in chosen], -1))

    def kept_rows(self, name: str, new: Pass, minibatch: Minibatch) -> Tensor | None:
        """Return (seeds, rows) bool, the rows that may still train a network; None: all rows."""
        if not self.plasticity[0][name].changes("rows"):
            return None
        passes = zip(of_seeds(new), of_seeds(minibatch.old[name]), strict=True)
        pairs = zip(self.plasticity, passes, strict=True)
        return torch.stack([networks[name].kept_rows(*own) for networks, own in pairs])

    def terms(
        self, name: str, new: Pass, minibatch: Minibatch, reference: Reference | None
    ) -> Terms:
        """Return the loss terms (seeds,) of a network's interventions."""
        weights = minibatch.rows.weights  # (seeds, rows)
        if not self.plasticity[0][name].changes("loss"):
            nothing = weights.new_zeros(len(weights))
            return Terms(nothing, nothing)
        references = [None] * len(weights) if reference is None else of_seeds_again(reference)
        columns = (of_seeds(new), of_seeds(minibatch.old[name]), references, weights)
        found = [
            networks[name].terms(*own)
            for networks, *own in zip(self.plasticity, *columns, strict=True)
        ]
        if len(found) == 1:  # views cost less than a stack
            return Terms(*(part.unsqueeze(0) for part in found[0]))
        return Terms(*(torch.stack(part) for part in zip(*found, strict=True)))

    def refer(self, minibatch: Minibatch) -> dict[str, Reference]:
        """Return the networks' outputs on a minibatch now, if an intervention asks for them."""
        return {
            name: Reference.of(partial(self.valid_outputs, name, minibatch))
            for name in NETWORKS
            if self.plasticity[0][name].changes("reference")
        }

    def valid_outputs(self, name: str, minibatch: Minibatch) -> list[Tensor]:
        """Return each seed's outputs (valid rows, outputs) of a network on a minibatch."""
        outputs, _ = self.stack.forward(name, minibatch.obs)
        valid = minibatch.rows.weights > 0  # (seeds, rows)
        return [own[rows] for own, rows in zip(outputs, valid, strict=True)]

    def step(self, total: Tensor) -> Tensor:
        """Step the optimizers; return (seeds, 2) gradient norms of actor and critic before it."""
        config, stack = self.config, self.stack
        for block in stack.blocks.values():
            block.flat.grad.zero_()
        total.backward()
        names = list(stack.blocks)
        if "trunk" in names and config.step_trunk_twice:
            before = torch.stack([block.flat.grad.norm(dim=1) for block in stack.blocks.values()])
            for name in NETWORKS:
                clip_gradients(stack.blocks_of(name), config.max_grad_norm)
        elif config.clip_grad_apart and "trunk" not in names:
            before = torch.cat(
                [clip_gradients([b], config.max_grad_norm) for b in stack.blocks.values()]
            )
        else:
            before = clip_gradients(list(stack.blocks.values()), config.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        shares = [[names.index(n) for n in names if n in (own, "trunk")] for own in NETWORKS]
        return torch.stack([joint_norm(before[share]) for share in shares], -1)

    def measure(self, seed: int) -> Measurement:
        """Return a measurement of one seed that begins now, before the update."""
        agent, obs = self.stack.agents[seed], self.rollout.valid_rows(seed)
        networks = self.plasticity[seed].values()
        measurement = Measurement(networks, lambda name: getattr(agent, name)(obs))
        before = measurement.before
        parameters = self.distribution.parameters(before["actor"].outputs)
        values = before["critic"].outputs.squeeze(-1)
        measurement.metrics |= diversity_metrics(parameters, values)
        return measurement

    def measure_again(self, seed: int, measurement: Measurement, batch: Batch) -> Metrics:
        """Return the metrics of a measurement that ends now, after the update."""
        measurement.end()
        old, new = (view["actor"].outputs for view in (measurement.before, measurement.after))
        columns = Columns.unpacked(batch.numbers[seed])
        valid = columns.valid > 0  # (rows,)
        columns = Columns(*(column[valid] for column in columns))
        log_ratio = self.distribution.log_prob(new, columns.raw_actions) - columns.log_probs
        if self.config.log_ratio_clamp:
            log_ratio = log_ratio.clamp(*LOG_RATIO_RANGE)
        return measurement.metrics | self.trust_regions[seed].metrics(
            int(self.global_steps[seed]),
            log_ratio,
            columns.advantages,
            self.distribution.kl(old, new),
            self.config.clip_coef,
        )


def num_iterations(config: PpoConfig) -> int:
    """Return the number of iterations of a run."""
    return max(1, config.total_steps // (config.num_envs * config.num_steps))


def snapshot_iterations(config: PpoConfig) -> set[int]:
    """Return the iterations after which weights are kept, evenly spread from first to last."""
    return {
        round(part * num_iterations(config) / max(1, config.snapshots - 1))
        for part in range(config.snapshots)
    }


def make_optimizers(
    config: PpoConfig, stack: Stack, interventions: dict[str, Interventions]
) -> list[torch.optim.Optimizer]:
    """Return one Adam over all blocks, or two that both own a shared trunk, as published."""
    options = {}
    for name in NETWORKS:
        plain = {"lr": config.learning_rate, "eps": config.adam_eps, "betas": (0.9, 0.999)}
        options[name] = interventions[name].optimizer_options(plain)
        options[name]["initial_lr"] = options[name]["lr"]
    if config.shared_trunk and config.step_trunk_twice:
        return [
            torch.optim.Adam(
                [{"params": [b.flat for b in stack.blocks_of(name)], **options[name]}],
                fused=True,
            )
            for name in NETWORKS
        ]
    groups = [
        {"params": [block.flat], **options["critic" if name == "critic" else "actor"]}
        for name, block in stack.blocks.items()
    ]
    return [torch.optim.Adam(groups, fused=True)]


# Losses ------------------------------------------------------------------------------------------


def of_seeds(passes: Pass) -> list[Pass]:
    """Return each seed's share (rows, ...) of a pass (seeds, rows, ...)."""
    if len(passes.outputs) == 1:  # a view, whose gradient is not copied
        return [passes.map(lambda part: part.squeeze(0))]
    if passes.preactivations is None:
        return [Pass(outputs) for outputs in passes.outputs]
    return [Pass(*own) for own in zip(*passes, strict=True)]


def of_seeds_again(reference: Reference) -> list[Reference]:
    """Return each seed's share of a reference; the stack runs once for all of them."""
    run = cache(reference.run)
    return [
        Reference(lambda seed=seed: run()[seed], outputs)
        for seed, outputs in enumerate(reference.outputs)
    ]


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


def clipped_value_errors(config: PpoConfig, columns: Columns, values: Tensor) -> Tensor:
    """Return squared errors (seeds, rows), the larger of plain and clipped ones if asked."""
    errors = (values - columns.returns).square()
    if not config.clip_vloss:
        return errors
    change = (values - columns.values).clamp(-config.clip_coef, config.clip_coef)
    return torch.maximum(errors, (columns.values + change - columns.returns).square())


def clip_statistics(
    config: PpoConfig, rows: WeightedRows, log_ratio: Tensor, ratio: Tensor
) -> list[Tensor]:
    """Return the KL estimate k3 (Schulman 2020), the share clipped, the mean ratio, each (seeds,).

    The share clipped is that of the ratios outside the clip range.
    """
    clipped = (ratio - 1).abs() > config.clip_coef
    return [rows.mean(part) for part in (ratio - 1 - log_ratio, clipped, ratio)]


# Targets and minibatches -------------------------------------------------------------------------


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


def minibatches_of(batch: Batch, picks: Tensor) -> list[Minibatch]:
    """Return the minibatches of an epoch.

    Args:
        batch: all rows.
        picks: (seeds, minibatches, rows) which rows go into which minibatch.
    """
    seeds, num_rows = batch.obs.shape[:2]
    offsets = num_rows * torch.arange(seeds).view(-1, 1, 1)
    flat = (picks + offsets).transpose(0, 1).to(batch.obs.device)  # (minibatches, seeds, rows)

    def rows(tensor: Tensor) -> tuple[Tensor, ...]:  # each (seeds, rows, ...)
        chosen = tensor.flatten(0, 1).index_select(0, flat.flatten())
        return chosen.unflatten(0, flat.shape).unbind(0)

    old = {
        name: list(zip(*(rows(part) for part in own if part is not None), strict=True))
        for name, own in batch.old.items()
    }  # by network, the tensors of each minibatch's `Pass`
    minibatches = []
    for index, (obs, numbers) in enumerate(zip(rows(batch.obs), rows(batch.numbers), strict=True)):
        columns = Columns.unpacked(numbers)
        own = {name: Pass(*passes[index]) for name, passes in old.items()}
        minibatches.append(Minibatch(obs, columns, WeightedRows(columns.valid), own))
    return minibatches
