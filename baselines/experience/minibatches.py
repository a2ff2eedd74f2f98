"""Minibatches of whole sequences: the rows of some envs that count."""

import dataclasses

from torch import Tensor

from baselines.experience.buffers import RolloutBuffer
from baselines.networks.network import Agent, masked_log_probs


@dataclasses.dataclass
class Targets:
    """What the update aims at, computed once an iteration, each (num_steps, num_envs, num_values).

    `num_values` is 1 for a critic on the state and num_agents for a critic on observations.
    """

    values: Tensor  # predicted before the update, normalised
    advantages: Tensor
    returns: Tensor  # in reward units


@dataclasses.dataclass
class Minibatch:
    """Whole sequences of some envs, and which of their rows count.

    Rows are indices into the flattened `num_steps * envs * num_agents` (live: the agent fights and
    the row is no reset row) or `num_steps * envs * num_values` (valid: no reset row).
    """

    actor_inputs: Tensor  # (num_steps, envs * num_agents, actor_size)
    actor_hidden: Tensor  # (envs * num_agents, memory_size)
    actor_keep: Tensor  # (num_steps, envs * num_agents, 1)
    live_rows: Tensor  # (num_live,)
    action_mask: Tensor  # (num_live, num_actions) bool
    actions: Tensor  # (num_live,)
    log_probs: Tensor  # (num_live,) when the actions were taken
    advantages: Tensor  # (num_live,)
    critic_inputs: Tensor  # (num_steps, envs * num_values, critic_size)
    critic_hidden: Tensor  # (envs * num_values, memory_size)
    critic_keep: Tensor  # (num_steps, envs * num_values, 1)
    valid_rows: Tensor  # (num_valid,)
    values: Tensor  # (num_valid,)
    returns: Tensor  # (num_valid,)


def select(
    agent: Agent,
    buffer: RolloutBuffer,
    envs: Tensor,
    hidden: tuple[Tensor, Tensor],
    targets: Targets,
) -> Minibatch:
    """Return the minibatch of some envs.

    Args:
        agent: says what actor and critic see.
        buffer: the rollout.
        envs: (num_selected,) indices.
        hidden: at the start of the rollout, the actor's (num_envs, num_agents, memory_size) and the
            critic's (num_envs * num_values, memory_size).
        targets: of the rollout.
    """

    def pick(tensor: Tensor) -> Tensor:
        return tensor[: buffer.num_steps].index_select(1, envs)

    obs, alive, valid, keep = map(pick, (buffer.obs, buffer.alive, buffer.valid, buffer.keep()))
    live_rows = _true_rows(alive & valid.unsqueeze(-1))
    valid_rows = _true_rows(valid.unsqueeze(-1).expand(-1, -1, agent.num_values))
    actor_hidden, critic_hidden = hidden[0], hidden[1].unflatten(0, (-1, agent.num_values))
    action_mask = pick(buffer.action_mask).flatten(0, 2)
    advantages = pick(targets.advantages).expand(-1, -1, agent.num_agents)
    return Minibatch(
        actor_inputs=agent.actor_inputs(obs).flatten(1, 2),
        actor_hidden=actor_hidden.index_select(0, envs).flatten(0, 1),
        actor_keep=repeat_for_agents(keep, agent.num_agents),
        live_rows=live_rows,
        action_mask=action_mask.index_select(0, live_rows),
        actions=pick(buffer.actions).flatten().index_select(0, live_rows),
        log_probs=pick(buffer.log_probs).flatten().index_select(0, live_rows),
        advantages=advantages.flatten().index_select(0, live_rows),
        critic_inputs=agent.critic_inputs(obs, pick(buffer.state), alive).flatten(1, 2),
        critic_hidden=critic_hidden.index_select(0, envs).flatten(0, 1),
        critic_keep=repeat_for_agents(keep, agent.num_values),
        valid_rows=valid_rows,
        values=pick(targets.values).flatten().index_select(0, valid_rows),
        returns=pick(targets.returns).flatten().index_select(0, valid_rows),
    )


def repeat_for_agents(keep: Tensor, width: int) -> Tensor:
    """Return (num_steps, num_envs) flags as (num_steps, num_envs * width, 1)."""
    return keep.unsqueeze(-1).expand(-1, -1, width).reshape(len(keep), -1, 1)


def _true_rows(flags: Tensor) -> Tensor:
    return flags.flatten().nonzero().squeeze(-1)


def run_actor(agent: Agent, batch: Minibatch) -> Tensor:
    """Return log-probabilities (num_live, num_actions)."""
    logits, _ = agent.actor.sequence(
        batch.actor_inputs, batch.actor_hidden, batch.actor_keep, batch.live_rows
    )
    return masked_log_probs(logits, batch.action_mask)


def run_critic(agent: Agent, batch: Minibatch) -> Tensor:
    """Return normalised values (num_valid, 1)."""
    values, _ = agent.critic.sequence(
        batch.critic_inputs, batch.critic_hidden, batch.critic_keep, batch.valid_rows
    )
    return values


RUN = {"actor": run_actor, "critic": run_critic}
