"""The network of action values that all agents share, and how it chooses actions."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.config import ValueConfig
from baselines.learners.mixers import make_mixer
from baselines.networks.network import (
    MASKED_LOGIT,
    Forward,
    Network,
    agent_ids,
    load_weights,
    make_agent_network,
)
from baselines.plasticity import change_layers, interventions_of
from baselines.runs.checkpoints import Checkpoint
from ppo_plasticity.interventions import Interventions

NETWORK = "agent"  # its name for plasticity flags
LOSSES = (
    "losses/td_loss",
    "losses/q_taken",
    "losses/target",
    "losses/pfo",
    "losses/interventions",
    "losses/grad_norm",
)


class ValueAgent(nn.Module):
    """Action values of every agent from its own observations.

    Its memory between steps holds the hidden state and the one-hot of the last action side by side,
    so that both are zero at the start of an episode.

    Args:
        config: which network, and what it sees.
        sizes: an environment's sizes, and its `layout` where the encoder reads entities.
    """

    samples = False  # it has no probabilities

    def __init__(self, config: ValueConfig, sizes: Any) -> None:
        super().__init__()
        self.num_agents, self.num_actions = sizes.num_agents, sizes.num_actions
        self.last_action, self.agent_id = config.shows_last_action, config.shows_agent_id
        self.network: Network = make_agent_network(
            sizes,
            hidden_size=config.hidden_size,
            recurrent=config.network == "gru",
            encoder=config.encoder,
            last_action=self.last_action,
            agent_id=self.agent_id,
        )

    @property
    def networks(self) -> dict[str, Network]:
        """The network by the name that plasticity flags use."""
        return {NETWORK: self.network}

    @property
    def memory_size(self) -> int:
        """Numbers that are carried from step to step for each agent."""
        return self.network.memory_size + self.num_actions * self.last_action

    def initial_hidden(self, num_envs: int) -> Tensor:
        """Return the memory at the start of episodes: zeros (num_envs, num_agents, memory_size)."""
        weight = next(self.network.parameters())
        return weight.new_zeros(num_envs, self.num_agents, self.memory_size)

    def one_hot(self, actions: Tensor) -> Tensor:
        """Return (..., num_actions) float32 of int64 actions; zeros for action -1."""
        return functional.one_hot(actions + 1, self.num_actions + 1)[..., 1:].float()

    def inputs(self, obs: Tensor, last_actions: Tensor) -> Tensor:
        """Return what the network sees.

        Args:
            obs: (..., num_agents, obs_size).
            last_actions: (..., num_agents, num_actions) one-hot; not read without `last_action`.

        Returns:
            (..., num_agents, obs_size [+ num_actions] [+ num_agents]).
        """
        parts = [obs, last_actions] if self.last_action else [obs]
        parts += [agent_ids(obs)] if self.agent_id else []
        return torch.cat(parts, -1)

    def act(
        self,
        obs: Tensor,
        action_mask: Tensor,
        memory: Tensor,
        noise: Tensor | None = None,
        network: Forward | None = None,
    ) -> tuple[Tensor, None, Tensor]:
        """Choose actions for one step.

        Args:
            obs: (num_envs, num_agents, obs_size).
            action_mask: (num_envs, num_agents, num_actions) bool, True = allowed.
            memory: (num_envs, num_agents, memory_size).
            noise: (num_envs, num_agents, num_actions) from `exploration`; None is greedy.
            network: what makes the values, if not the agent's own: with the networks of several
                seeds (`NetworkStack`) all tensors begin with a seed axis.

        Returns:
            Actions int64 (num_envs, num_agents), no log-probabilities, the next memory.
        """
        size = self.network.memory_size
        inputs = self.inputs(obs, memory[..., size:]).flatten(-3, -2)
        hidden = memory[..., :size].flatten(-3, -2)
        values, hidden = (network or self.network).step(inputs, hidden)
        values = values.view(action_mask.shape)
        scores = values if noise is None else torch.where(noise >= 0, noise, values)
        actions = mask_values(scores, action_mask).argmax(-1)
        parts = [hidden.view(*obs.shape[:-1], size)]
        parts += [self.one_hot(actions)] if self.last_action else []
        return actions, None, torch.cat(parts, -1)


class TeamValues(nn.Module):
    """What a learner of values learns: the agents' network, and the mixer of the team's value.

    Args:
        config: which.
        sizes: an environment's sizes.
    """

    def __init__(self, config: ValueConfig, sizes: Any) -> None:
        super().__init__()
        self.agent = ValueAgent(config, sizes)
        widths = (config.mixer_size, config.hypernet_size)
        self.mixer = make_mixer(config.mixer, sizes.num_agents, sizes.state_size, *widths)


def make_optimizer(
    config: ValueConfig, learned: TeamValues, hooks: Interventions
) -> torch.optim.Optimizer:
    """Return one Adam over network and mixer, with the options that interventions change."""
    options = hooks.optimizer_options({"lr": config.learning_rate})
    parameters = {"params": list(learned.parameters()), "initial_lr": options["lr"]}
    return torch.optim.Adam([parameters], **options, fused=True)


class Learns(Protocol):
    """One seed of a learner of values, as a gradient step needs it."""

    config: ValueConfig
    learned: TeamValues
    optimizer: torch.optim.Optimizer


def gradient_step(learners: Sequence[Learns], totals: Sequence[Tensor]) -> list[Tensor]:
    """Take one step of each seed's optimizer, after one way back through all losses.

    Returns:
        Each seed's gradient norm (1,), without waiting for it.
    """
    for one in learners:
        one.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(list(totals))
    norms = []
    for one in learners:
        norm = nn.utils.clip_grad_norm_(one.learned.parameters(), one.config.max_grad_norm)
        one.optimizer.step()
        norms.append(norm.detach().view(1))
    return norms


def total_loss(
    joint: Tensor, returns: Tensor, pfo: Tensor, extra: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the loss, and its parts in the order of LOSSES but for the gradient norm.

    Args:
        joint: (steps, 1) the team's value of the actions taken, or (steps, num_agents) without a
            mixer.
        returns: what it is drawn to, likewise.
        pfo: PFO's term.
        extra: the interventions' terms.
        keep: (steps, num_agents) bool, agents that may still train; a step does while all of its
            agents may. None: all.
    """
    errors = 0.5 * (joint - returns).square()
    td = (errors if keep is None else errors * keep.all(-1, keepdim=True)).mean()
    parts = [td, joint.mean(), returns.mean(), pfo, extra]
    return td + pfo + extra, torch.stack(parts).detach()


def load_agent(config: ValueConfig, checkpoint: Checkpoint, env: Any, device: str) -> ValueAgent:
    """Build the agent of a checkpoint.

    Raises:
        UsageError: the environment has other sizes than the one it was trained on.
    """
    agent = ValueAgent(config, env.unwrapped)
    change_agent_layers(config, agent)
    weights = {
        name.removeprefix("agent."): value
        for name, value in checkpoint.weights.items()
        if name.startswith("agent.")
    }
    load_weights(agent, weights, env.spec.id)
    return agent.to(device).eval()


def change_agent_layers(config: ValueConfig, agent: ValueAgent) -> Interventions:
    """Give the agent's network the layers that interventions ask for; return those."""
    hooks = interventions_of(config, NETWORK, (NETWORK,))
    if "layers" in hooks.changes:
        agent.network.change_layers(lambda chain: change_layers(hooks, chain))
    return hooks


def mask_values(values: Tensor, action_mask: Tensor) -> Tensor:
    """Return values with those of forbidden actions so low that no maximum takes them."""
    return values.masked_fill(~action_mask, MASKED_LOGIT)


def exploration(shape: tuple[int, ...], epsilon: float, generator: torch.Generator) -> Tensor:
    """Return random scores (..., num_actions) in [0, 1) for agents that explore, else -1.

    Args:
        shape: (..., num_actions).
        epsilon: share of agents that act at random, each for itself.
        generator: where numbers come from, and their device.
    """
    device = generator.device
    scores = torch.rand(shape, generator=generator, device=device)
    explores = torch.rand(shape[:-1], generator=generator, device=device) < epsilon
    return scores.masked_fill_(~explores.unsqueeze(-1), -1.0)


def epsilon_at(config: ValueConfig, global_step: int) -> float:
    """Return the share of random actions after `global_step` steps."""
    passed = min(1.0, global_step / config.epsilon_steps) if config.epsilon_steps else 1.0
    return config.epsilon_start + passed * (config.epsilon_end - config.epsilon_start)
