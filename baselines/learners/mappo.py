"""MAPPO (Yu et al. 2022, "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games").

With `--critic-input obs` it is IPPO (de Witt et al. 2020). docs/mappo.md lists each choice.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from baselines.config import MappoConfig
from baselines.experience.advantages import gae
from baselines.experience.battles import Battles, make_battles
from baselines.experience.buffers import RolloutBuffer
from baselines.experience.collect import Clock, Collector, Metrics, iteration_metrics
from baselines.experience.graphs import graphed
from baselines.experience.rows import ChosenRows, shuffled
from baselines.learners.optimizer import anneal, mean_losses, share_left
from baselines.networks.actor_critic import Agent, gumbel_noise
from baselines.networks.entities import layout_of
from baselines.networks.network import load_weights, masked_log_probs, repeat_for_agents
from baselines.plasticity import (
    NETWORKS,
    NO_REFERENCES,
    Measurement,
    NetworkHandle,
    Pass,
    Plasticity,
    Reference,
    TrustRegion,
    change_layers,
    diversity_metrics,
    interventions_of,
    is_due,
)
from baselines.runs.checkpoints import Checkpoint
from baselines.runs.loop import Seeds
from baselines.runs.seeding import derive_seeds, seed_globals, seeded_generator
from ppo_plasticity.capacity import categorical_kl, squared_error
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
DIVERGENCES = {"actor": categorical_kl, "critic": squared_error}  # of log-probabilities, of values


@dataclasses.dataclass
class Batch:
    """A rollout, with all that the update reads; tensors are (num_steps, num_envs, ...).

    `num_values` is 1 for a critic on the state and num_agents for a critic on observations.
    """

    buffer: RolloutBuffer
    hidden: dict[str, Tensor]  # at the start, by network: (num_envs, agents or values, memory_size)
    values: Tensor  # (num_steps, num_envs, num_values) before the update, normalised
    advantages: Tensor  # (num_steps, num_envs, num_values)
    returns: Tensor  # (num_steps, num_envs, num_values) in reward units
    old: dict[str, Pass] = dataclasses.field(default_factory=dict)  # before the update, by network


@dataclasses.dataclass
class Minibatch:
    """Whole sequences of some envs, and the rows that count.

    The actor's rows are those of agents that fight, out of `num_steps * envs * num_agents`. The
    critic's are all but reset rows, out of `num_steps * envs * num_values`.
    """

    inputs: dict[str, Tensor]  # by network: (num_steps, envs * width, input_size)
    hidden: dict[str, Tensor]  # by network: (envs * width, memory_size)
    carry: dict[str, Tensor]  # by network: (num_steps, envs * width, 1)
    rows: dict[str, ChosenRows]  # by network
    action_mask: Tensor  # (num_live, num_actions) bool
    actions: Tensor  # (num_live,)
    log_probs: Tensor  # (num_live,) when the actions were taken
    advantages: Tensor  # (num_live,)
    values: Tensor  # (num_valid,)
    returns: Tensor  # (num_valid,)
    old: dict[str, Pass]  # by network, if a loss term compares with it

    def inputs_of(self, network: str) -> Tensor:
        """Return a network's inputs (rows, input_size) in the rows that count."""
        return self.rows[network].pick(self.inputs[network].flatten(0, 1))


def make_group(config: MappoConfig, found: Sequence[Checkpoint] = ()) -> Seeds:
    """Return all seeds, which take turns."""
    return Seeds(Mappo, config)


class Mappo:
    """One seed of MAPPO: a `runs.loop.Learner`.

    Args:
        config: of one seed; everything is drawn from `config.seed`.
    """

    algorithm = "mappo"
    counters = ("iteration",)

    def __init__(self, config: MappoConfig) -> None:
        environment_seed, learner_seed = derive_seeds(config.seed)
        seed_globals(learner_seed)
        self.config = config
        self.battles = make_battles(config)
        hooks = {name: interventions_of(config, name) for name in NETWORKS}
        self.network = make_agent(config, self.battles.sizes, hooks).to(config.device)
        self.generator = seeded_generator(learner_seed, config.device)
        self.optimizer = make_optimizer(config, self.network, hooks)
        self.plasticity = {
            name: Plasticity(
                name,
                network,
                hooks[name],
                NetworkHandle(network.chain, network, self.optimizer, self.generator),
                DIVERGENCES[name],
            )
            for name, network in self.network.networks.items()
        }
        self.trust_region = TrustRegion(config.total_steps)
        self.battles.reset(environment_seed)
        self.buffer = RolloutBuffer(self.battles, config.num_steps)
        hidden = self.network.initial_hidden(config.num_envs)
        self.collector = Collector(self.battles, hidden, self.buffer)
        self.critic_hidden = self.network.critic.initial_hidden(
            config.num_envs * self.network.num_values
        )
        self.gradient_step = graphed(self._gradient_step)
        self.global_step = self.iteration = 0

    def parts(self) -> dict:
        """Return everything that changes in training but weights, battles and counters."""
        return {
            "optimizer": self.optimizer,
            "generator": self.generator,
            "stream": self.collector,
            "critic_hidden": self.critic_hidden,
            "excess": self.trust_region,
            "interventions": self.plasticity,
        }

    def iterate(self) -> Metrics:
        """Collect a rollout and learn from it; return the metrics."""
        clock, config, agent = Clock(), self.config, self.network
        if config.anneal_lr:
            anneal(self.optimizer, share_left(self.global_step, config.total_steps))
        actor_hidden = self.collector.hidden.clone()
        shape = (config.num_steps, config.num_envs, agent.num_agents, agent.num_actions)
        noise = gumbel_noise(shape, self.generator)
        self.collector.collect(agent.act, noise, clock)
        steps = self.buffer.count_valid()
        self.global_step += steps
        batch = self.make_batch(actor_hidden)
        learned = self.learn(batch, clock) if batch is not None else {}
        self.iteration += 1
        clock.spent("learn")
        played = self.collector.tally.read()
        return iteration_metrics(played, steps, self.optimizer, clock.lap(), learned)

    @torch.no_grad()
    def make_batch(self, actor_hidden: Tensor) -> Batch | None:
        """Return the rollout with its targets, which mean nothing in reset rows.

        A rollout without a live agent teaches nothing: it gives None.

        Args:
            actor_hidden: (num_envs, num_agents, memory_size) at the start of the rollout.
        """
        config, agent, buffer = self.config, self.network, self.buffer
        critic_hidden = self.critic_hidden.clone().unflatten(0, (-1, agent.num_values))
        values, following = predict_values(agent, buffer, self.critic_hidden)
        self.critic_hidden.copy_(following)
        if not live_entries(buffer).any():
            return None
        terminated = buffer.done if config.timeout_is_terminal else buffer.terminated
        raw_values = agent.value_norm.denormalise(values)
        advantages = gae(
            buffer.rewards.unsqueeze(-1).expand_as(values[:-1]),  # (num_steps, num_envs, width)
            raw_values,
            terminated.unsqueeze(-1),
            buffer.done.unsqueeze(-1),
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        returns = advantages + raw_values[:-1]
        if config.norm_adv:
            advantages = normalise_advantages(buffer, advantages)
        hidden = {"actor": actor_hidden, "critic": critic_hidden}
        return Batch(buffer, hidden, values[:-1], advantages, returns)

    def learn(self, batch: Batch, clock: Clock) -> Metrics:
        """Improve actor and critic on a batch; return the means of the losses."""
        config, agent, losses = self.config, self.network, []
        explained = explained_variance(agent, batch)
        if not config.value_norm_per_minibatch:
            agent.value_norm.update(batch.returns[batch.buffer.valid[:-1]])
        everyone = torch.arange(config.num_envs, device=config.device)
        whole = cache(partial(select, agent, batch, everyone))  # without `old`
        clock.spent("learn")
        measurement = self.measure(whole()) if is_due(config, self.iteration) else None
        clock.spent("probe")
        self.look_back(batch, whole)
        references = NO_REFERENCES
        for envs, later in shuffled(
            config.num_envs,
            epochs=config.update_epochs,
            num_minibatches=config.num_minibatches,
            generator=self.generator,
        ):
            minibatch = select(agent, batch, envs)
            if not len(minibatch.rows["actor"]):
                continue
            if config.value_norm_per_minibatch:
                agent.value_norm.update(minibatch.returns)
            following = self.refer(batch, later)
            losses.append(self.gradient_step(minibatch, references))
            references = following
            for name, plasticity in self.plasticity.items():
                plasticity.after_step(partial(minibatch.inputs_of, name))
        means = mean_losses(LOSSES, losses)
        clock.spent("learn")
        measured = self.measure_again(measurement, whole()) if measurement else {}
        clock.spent("probe")
        for name, plasticity in self.plasticity.items():
            plasticity.after_batch(lambda name=name: whole().inputs_of(name))
        return {**means, "losses/explained_variance": float(explained), **measured}

    def _gradient_step(self, minibatch: Minibatch, references: Mapping[str, Reference]) -> Tensor:
        """Take one step of the optimizer; return the losses (len(LOSSES),), not waited for."""
        total, losses = self.loss(minibatch, references)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norms = [
            nn.utils.clip_grad_norm_(network.parameters(), self.config.max_grad_norm)
            for network in self.network.networks.values()
        ]
        self.optimizer.step()
        return torch.cat([losses, torch.stack(norms).detach()])

    def loss(
        self, minibatch: Minibatch, references: Mapping[str, Reference] = NO_REFERENCES
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and its parts in the order of LOSSES without the gradient norms.

        Args:
            minibatch: rows to learn from.
            references: by network, outputs on other rows, from which a step should not move them.
        """
        config, rows = self.config, minibatch.rows
        new = {name: self.run(name, minibatch) for name in NETWORKS}
        pairs = {name: (new[name], minibatch.old.get(name)) for name in NETWORKS}
        kept = {name: self.plasticity[name].kept_rows(*pair) for name, pair in pairs.items()}
        log_probs = new["actor"].outputs
        chosen = log_probs.gather(-1, minibatch.actions.unsqueeze(-1)).squeeze(-1)  # (num_live,)
        gains, log_ratio = policy_gains(
            chosen, minibatch.log_probs, minibatch.advantages, config.clip_coef
        )
        errors = value_errors(
            new["critic"].outputs.squeeze(-1),
            minibatch.values,
            self.network.value_norm.normalise(minibatch.returns),
            clip_coef=config.clip_coef if config.clip_vloss else math.inf,
            huber_delta=config.huber_delta,
        )
        policy = -rows["actor"].mean(only(kept["actor"], gains))
        value = rows["critic"].mean(only(kept["critic"], errors))
        entropy = -rows["actor"].mean((log_probs.exp() * log_probs).sum(-1))
        terms = {
            name: self.plasticity[name].terms(*pair, references.get(name))
            for name, pair in pairs.items()
        }
        pfo = terms["actor"].pfo + terms["critic"].pfo
        others = terms["actor"].others + terms["critic"].others
        total = policy - config.ent_coef * entropy + config.vf_coef * value + pfo + others
        moved = [rows["actor"].mean(part) for part in ratio_statistics(log_ratio, config.clip_coef)]
        return total, torch.stack([policy, value, entropy, *moved, pfo, others]).detach()

    def run(self, name: str, minibatch: Minibatch) -> Pass:
        """Run a network on a minibatch, with the pre-activations that its loss terms read."""
        trunk = self.network.networks[name].trunk
        return self.plasticity[name].run(trunk, partial(outputs_of, self.network, name, minibatch))

    @torch.no_grad()
    def look_back(self, batch: Batch, whole: Callable[[], Minibatch]) -> None:
        """Keep in the batch what loss terms compare with: the networks before the update."""
        for name, plasticity in self.plasticity.items():
            if plasticity.compares:
                into = partial(spread, whole().rows[name], batch.buffer.rewards.shape)
                batch.old[name] = self.run(name, whole()).map(into)

    def refer(self, batch: Batch, envs: Tensor) -> dict[str, Reference]:
        """Return the networks' outputs on some envs now, if an intervention asks for them."""
        names = [name for name in NETWORKS if self.plasticity[name].changes("reference")]
        if not names:
            return {}
        minibatch = select(self.network, batch, envs)
        return {
            name: Reference.of(partial(outputs_of, self.network, name, minibatch)) for name in names
        }

    def measure(self, whole: Minibatch) -> Measurement:
        """Return a measurement that begins now, before the update."""
        networks = self.plasticity.values()
        measurement = Measurement(networks, lambda name: outputs_of(self.network, name, whole))
        before = measurement.before
        values = self.network.value_norm.denormalise(before["critic"].outputs.squeeze(-1))
        measurement.metrics |= diversity_metrics([before["actor"].outputs.exp()], values)
        return measurement

    def measure_again(self, measurement: Measurement, whole: Minibatch) -> Metrics:
        """Return the metrics of a measurement that ends now, after the update."""
        measurement.end()
        old, new = (view["actor"].outputs for view in (measurement.before, measurement.after))
        chosen = new.gather(-1, whole.actions.unsqueeze(-1)).squeeze(-1)  # (num_live,)
        return measurement.metrics | self.trust_region.metrics(
            self.global_step,
            chosen - whole.log_probs,
            whole.advantages,
            categorical_kl(old, new),
            self.config.clip_coef,
        )


def make_agent(
    config: MappoConfig, sizes: Any, hooks: dict[str, Interventions] | None = None
) -> Agent:
    """Return the networks for an environment's sizes, with the layers that interventions ask for.

    Args:
        config: says which networks.
        sizes: `num_agents`, `num_actions`, `obs_size`, `state_size`, and `layout` for attention.
        hooks: interventions by network; None: those of the config.
    """
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
        own = hooks[name] if hooks else interventions_of(config, name)
        if "layers" in own.changes:
            network.change_layers(partial(change_layers, own))
    return agent


def make_optimizer(
    config: MappoConfig, agent: Agent, hooks: dict[str, Interventions]
) -> torch.optim.Optimizer:
    """Return one Adam, with the options that interventions change for each network."""
    groups = []
    for name, network in agent.networks.items():
        options = hooks[name].optimizer_options({"lr": config.learning_rate, "eps": 1e-5})
        groups.append({"params": list(network.parameters()), **options})
        groups[-1]["initial_lr"] = options["lr"]
    return torch.optim.Adam(groups, fused=True)


# Losses ------------------------------------------------------------------------------------------


def policy_gains(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_coef: float
) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped objective (Schulman et al. 2017, eq. 7) and the log-ratio, per row.

    Args:
        log_probs: (num_rows,) of the actions taken, under the current policy.
        old_log_probs: (num_rows,) under the policy that took them.
        advantages: (num_rows,).
        clip_coef: clip range of the ratio.
    """
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    return torch.minimum(ratio * advantages, bounded * advantages), log_ratio


@torch.no_grad()
def ratio_statistics(log_ratio: Tensor, clip_coef: float) -> tuple[Tensor, Tensor]:
    """Return per row the k3 estimate of the KL divergence (Schulman 2020), and 1 if clipped."""
    ratio = log_ratio.exp()
    return ratio - 1 - log_ratio, ((ratio - 1).abs() > clip_coef).float()


def value_errors(
    values: Tensor,
    old_values: Tensor,
    targets: Tensor,
    *,
    clip_coef: float,
    huber_delta: float,
) -> Tensor:
    """Return the larger of the Huber losses of values and clipped values, per row (num_rows,).

    All in normalised units (Yu et al. 2022, App. A); `clip_coef` infinite turns clipping off.
    """
    bounded = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
    plain = nn.functional.huber_loss(values, targets, reduction="none", delta=huber_delta)
    clipped = nn.functional.huber_loss(bounded, targets, reduction="none", delta=huber_delta)
    return torch.maximum(plain, clipped)


def only(kept: Tensor | None, values: Tensor) -> Tensor:
    """Return values (num_rows,), 0 in rows that may no longer train; None keeps all rows."""
    return values if kept is None else values * kept


def outputs_of(agent: Agent, name: str, minibatch: Minibatch) -> Tensor:
    """Return log-probabilities (num_live, num_actions), or normalised values (num_valid, 1)."""
    inputs, hidden, carry = minibatch.inputs[name], minibatch.hidden[name], minibatch.carry[name]
    index = minibatch.rows[name].index
    outputs, _ = agent.networks[name].sequence(inputs, hidden, carry, index)
    return masked_log_probs(outputs, minibatch.action_mask) if name == "actor" else outputs


# Targets and minibatches -------------------------------------------------------------------------


@torch.no_grad()
def predict_values(agent: Agent, buffer: RolloutBuffer, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return normalised values (num_steps + 1, num_envs, num_values) and the next hidden state."""
    inputs = agent.critic_inputs(buffer.obs, buffer.state, buffer.alive)
    shape = inputs.shape[:3]
    carry = repeat_for_agents(buffer.carry(), agent.num_values)
    values, memory = agent.critic.sequence(inputs.flatten(1, 2), hidden, carry)
    return values.view(shape), memory[-2] * carry[-1]


def live_entries(buffer: RolloutBuffer) -> Tensor:
    """Return (num_steps, num_envs, num_agents) flags: the agent fights, and the row counts."""
    return buffer.alive[:-1] & buffer.valid[:-1].unsqueeze(-1)


def normalise_advantages(buffer: RolloutBuffer, advantages: Tensor) -> Tensor:
    """Return advantages with mean 0 and deviation 1 over the live entries of the whole batch."""
    live = live_entries(buffer)
    entries = advantages.expand(*live.shape)[live]  # (num_live,)
    return (advantages - entries.mean()) / (entries.std(correction=0) + 1e-5)


def explained_variance(agent: Agent, batch: Batch) -> Tensor:
    """Return 1 - Var(returns - values) / Var(returns) over valid rows; 0 for constant returns."""
    valid = batch.buffer.valid[:-1]
    returns = batch.returns[valid]  # (num_valid, num_values)
    errors = returns - agent.value_norm.denormalise(batch.values)[valid]
    variance = returns.var(correction=0)
    explained = 1 - errors.var(correction=0) / variance.clamp(min=1e-12)
    return torch.where(variance > 0, explained, torch.zeros_like(explained))


def select(agent: Agent, batch: Batch, envs: Tensor) -> Minibatch:
    """Return the minibatch of some envs.

    Args:
        agent: says what actor and critic see.
        batch: the rollout.
        envs: (num_selected,) indices.
    """
    buffer = batch.buffer

    def pick(tensor: Tensor) -> Tensor:
        return tensor[: buffer.num_steps].index_select(1, envs)  # (num_steps, num_selected, ...)

    obs, alive, valid, carry = map(pick, (buffer.obs, buffer.alive, buffer.valid, buffer.carry()))
    inputs = {
        "actor": agent.actor_inputs(obs),
        "critic": agent.critic_inputs(obs, pick(buffer.state), alive),
    }
    rows = rows_of(alive, valid, agent.num_values)
    live, counted = rows["actor"].pick, rows["critic"].pick
    advantages = pick(batch.advantages).expand(-1, -1, agent.num_agents)
    return Minibatch(
        inputs={name: part.flatten(1, 2) for name, part in inputs.items()},
        hidden={
            name: part.index_select(0, envs).flatten(0, 1) for name, part in batch.hidden.items()
        },
        carry={name: repeat_for_agents(carry, part.shape[2]) for name, part in inputs.items()},
        rows=rows,
        action_mask=live(pick(buffer.action_mask).flatten(0, 2)),
        actions=live(pick(buffer.actions).flatten()),
        log_probs=live(pick(buffer.log_probs).flatten()),
        advantages=live(advantages.flatten()),
        values=counted(pick(batch.values).flatten()),
        returns=counted(pick(batch.returns).flatten()),
        old={
            name: old.map(lambda part, name=name: rows[name].pick(pick(part).flatten(0, 2)))
            for name, old in batch.old.items()
        },
    )


def rows_of(alive: Tensor, valid: Tensor, num_values: int) -> dict[str, ChosenRows]:
    """Return the rows that count of actor and critic.

    Args:
        alive: (num_steps, envs, num_agents) bool.
        valid: (num_steps, envs) bool.
        num_values: values that the critic predicts for one env.
    """
    valid = valid.unsqueeze(-1)  # (num_steps, envs, 1)
    counted = valid.expand(-1, -1, num_values)
    return {"actor": ChosenRows.where(alive & valid), "critic": ChosenRows.where(counted)}


def spread(rows: ChosenRows, shape: tuple[int, int], values: Tensor) -> Tensor:
    """Return values (num_chosen, size) as (num_steps, num_envs, width, size), 0 in other rows.

    Args:
        rows: those chosen of all `num_steps * num_envs * width`.
        shape: (num_steps, num_envs).
        values: of the chosen rows.
    """
    full = values.new_zeros(rows.num_rows, values.shape[-1]).index_copy_(0, rows.index, values)
    return full.view(*shape, -1, values.shape[-1])


def load_policy(config: MappoConfig, checkpoint: Checkpoint, battles: Battles) -> Agent:
    """Return the agent of a checkpoint for `baselines evaluate`.

    Raises:
        UsageError: the battles have other sizes than those it was trained on.
    """
    agent = make_agent(config, battles.sizes)
    load_weights(agent, checkpoint.weights, battles.id)
    return agent.to(battles.device).eval()
