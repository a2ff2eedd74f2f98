"""Parts that value-based learners share: exploration, TD loss, gradient step, loading.

QMIX and PQN differ in their experience and in their targets.
"""

from typing import Any

import torch
from torch import Tensor, nn

from baselines.config import ValueConfig
from baselines.experience.battles import Battles
from baselines.experience.rows import Rows
from baselines.networks.action_values import NETWORK, TeamValues, ValueAgent
from baselines.networks.network import load_weights
from baselines.plasticity import (
    Measurement,
    NetworkHandle,
    Plasticity,
    Terms,
    change_layers,
    interventions_of,
    value_metrics,
)
from baselines.runs.checkpoints import Checkpoint
from ppo_plasticity.capacity import squared_error
from ppo_plasticity.interventions import Interventions

LOSSES = (
    "losses/td_loss",
    "losses/q_taken",
    "losses/target",
    "losses/pfo",
    "losses/interventions",
    "losses/grad_norm",
)


def make_team(config: ValueConfig, sizes: Any) -> tuple[TeamValues, Interventions]:
    """Return the networks, and the interventions that changed the agents' layers.

    Args:
        config: of one seed.
        sizes: an environment's sizes.
    """
    team = TeamValues(config, sizes)
    hooks = change_agent_layers(config, team.agent)
    return team.to(config.device), hooks


def change_agent_layers(config: ValueConfig, agent: ValueAgent) -> Interventions:
    """Give the agent's network the layers that interventions ask for; return the interventions."""
    hooks = interventions_of(config, NETWORK, (NETWORK,))
    if "layers" in hooks.changes:
        agent.network.change_layers(lambda chain: change_layers(hooks, chain))
    return hooks


def make_team_optimizer(
    config: ValueConfig, team: TeamValues, hooks: Interventions
) -> torch.optim.Optimizer:
    """Return one Adam over network and mixer, with the options that interventions change."""
    options = hooks.optimizer_options({"lr": config.learning_rate})
    parameters = {"params": list(team.parameters()), "initial_lr": options["lr"]}
    return torch.optim.Adam([parameters], **options, fused=True)


def make_plasticity(
    agent: ValueAgent,
    hooks: Interventions,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> Plasticity:
    """Return the plasticity of the agents' network, whose outputs compare by squares."""
    network = agent.network
    handle = NetworkHandle(network.chain, network, optimizer, generator)
    return Plasticity(NETWORK, network, hooks, handle, squared_error)


def gradient_step(
    team: TeamValues, optimizer: torch.optim.Optimizer, total: Tensor, max_grad_norm: float
) -> Tensor:
    """Take one step of the optimizer; return the gradient norm (1,), not waited for."""
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    return clipped_step(team, optimizer, max_grad_norm)


def clipped_step(
    team: TeamValues, optimizer: torch.optim.Optimizer, max_grad_norm: float
) -> Tensor:
    """Clip the gradients and step; return their norm before, (1,)."""
    norm = nn.utils.clip_grad_norm_(team.parameters(), max_grad_norm)
    optimizer.step()
    return norm.detach().view(1)


def td_loss(
    joint: Tensor, targets: Tensor, rows: Rows, kept: Tensor | None, terms: Terms
) -> tuple[Tensor, Tensor]:
    """Return the loss, and its parts in the order of LOSSES without the gradient norm.

    Args:
        joint: (steps, 1) team's value of the actions taken, or (steps, num_agents) without a mixer.
        targets: TD targets, same shape as `joint`.
        rows: the steps.
        kept: (steps, num_agents) bool, agents that may still train; a step trains while all of its
            agents may train. None: all.
        terms: of the interventions.
    """
    errors = 0.5 * (joint - targets).square()
    if kept is not None:
        errors = errors * kept.all(-1, keepdim=True)
    td = rows.mean(errors)
    parts = [td, rows.mean(joint), rows.mean(targets), terms.pfo, terms.others]
    return td + terms.pfo + terms.others, torch.stack(parts).detach()


def update_metrics(measurement: Measurement) -> dict[str, float]:
    """Return the metrics of a measurement that ends now, after the update."""
    measurement.end()
    values = measurement.before[NETWORK].outputs.amax(-1)  # (rows,)
    return measurement.metrics | value_metrics(values, NETWORK)


def exploration(shape: tuple[int, ...], epsilon: float, generator: torch.Generator) -> Tensor:
    """Return random scores (..., num_actions) in [0, 1) for agents that explore, else -1.

    Args:
        shape: (..., num_actions).
        epsilon: share of agents that act at random, drawn for each agent.
        generator: source of the numbers, on their device.
    """
    device = generator.device
    scores = torch.rand(shape, generator=generator, device=device)
    explores = torch.rand(shape[:-1], generator=generator, device=device) < epsilon
    return scores.masked_fill_(~explores.unsqueeze(-1), -1.0)


def epsilon_at(config: ValueConfig, global_step: int) -> float:
    """Return the share of random actions after `global_step` steps."""
    passed = min(1.0, global_step / config.epsilon_steps) if config.epsilon_steps else 1.0
    return config.epsilon_start + passed * (config.epsilon_end - config.epsilon_start)


def load_policy(config: ValueConfig, checkpoint: Checkpoint, battles: Battles) -> ValueAgent:
    """Return the agent of a checkpoint for `baselines evaluate`.

    Raises:
        UsageError: the battles have other sizes than those it was trained on.
    """
    agent = ValueAgent(config, battles.sizes)
    change_agent_layers(config, agent)
    weights = {
        name.removeprefix("agent."): value
        for name, value in checkpoint.weights.items()
        if name.startswith("agent.")
    }
    load_weights(agent, weights, battles.id)
    return agent.to(battles.device).eval()
