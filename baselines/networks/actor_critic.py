"""Actor and critic of a team, and the noise with which the actor's actions are drawn."""

from typing import Any

import torch
from torch import Tensor, nn

from baselines.networks.entities import obs_entities, state_entities
from baselines.networks.network import Network, agent_ids, masked_log_probs
from baselines.networks.normalise import ValueNorm
from smacv2.layout import Layout


class Agent(nn.Module):
    """A shared actor, a critic, and the statistics of the critic's targets.

    Args:
        obs_size: features of one agent's observation.
        state_size: features of the global state.
        num_agents: agents that share the actor.
        num_actions: actions of each agent.
        hidden_size: width of all hidden layers.
        recurrent: put a GRU into actor and critic.
        critic_input: `"state"` or `"obs"`.
        agent_id: append the agent's one-hot index to its observation; attention always does.
        value_norm: normalise the critic's targets.
        encoder: see `Network`.
        layout: columns of the entities in observations and state, for attention.
    """

    def __init__(
        self,
        *,
        obs_size: int,
        state_size: int,
        num_agents: int,
        num_actions: int,
        hidden_size: int,
        recurrent: bool,
        critic_input: str,
        agent_id: bool,
        value_norm: bool,
        encoder: str = "mlp",
        layout: Layout | None = None,
    ) -> None:
        super().__init__()
        self.num_agents, self.num_actions = num_agents, num_actions
        self.critic_input, self.agent_id = critic_input, agent_id or encoder == "attention"
        sees_state = critic_input == "state"
        actor_size = obs_size + num_agents * self.agent_id
        critic_size = state_size if sees_state else actor_size
        options = {"recurrent": recurrent, "encoder": encoder}
        seen: dict[str, Any] = {"actor": {}, "critic": {}}
        if encoder == "attention":
            entities = obs_entities(layout)
            seen["actor"] = {
                "entities": entities,
                "num_targets": layout.num_actions - layout.num_actions_no_attack,
            }
            seen["critic"] = {"entities": state_entities(layout) if sees_state else entities}
        self.actor = Network(
            actor_size, hidden_size, num_actions, output_gain=0.01, **options, **seen["actor"]
        )
        self.critic = Network(
            critic_size, hidden_size, 1, output_gain=1.0, **options, **seen["critic"]
        )
        self.value_norm = ValueNorm(enabled=value_norm)

    @property
    def networks(self) -> dict[str, Network]:
        """Actor and critic by name."""
        return {"actor": self.actor, "critic": self.critic}

    samples = True  # it has action probabilities

    def initial_hidden(self, num_envs: int) -> Tensor:
        """Return the actor's hidden state at the start of episodes."""
        return self.actor.initial_hidden(num_envs, self.num_agents)

    @property
    def num_values(self) -> int:
        """Number of values that the critic predicts per env: 1 (state) or num_agents (obs)."""
        return 1 if self.critic_input == "state" else self.num_agents

    def actor_inputs(self, obs: Tensor) -> Tensor:
        """Return the actor's input.

        Args:
            obs: (..., num_agents, obs_size).

        Returns:
            (..., num_agents, obs_size [+ num_agents]).
        """
        return torch.cat([obs, agent_ids(obs)], -1) if self.agent_id else obs

    def critic_inputs(self, obs: Tensor, state: Tensor, alive: Tensor) -> Tensor:
        """Return the critic's input; for dead agents it is zeros (and their id), to hide them.

        Args:
            obs: (..., num_agents, obs_size).
            state: (..., state_size).
            alive: (..., num_agents) bool.

        Returns:
            (..., num_values, critic_size).
        """
        if self.critic_input == "state":
            return state.unsqueeze(-2)  # (..., 1, state_size)
        return self.actor_inputs(obs * alive.unsqueeze(-1))

    def act(
        self, obs: Tensor, action_mask: Tensor, hidden: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose actions for one step.

        Args:
            obs: (num_envs, num_agents, obs_size).
            action_mask: (num_envs, num_agents, num_actions) bool, True = allowed.
            hidden: (num_envs, num_agents, memory_size).
            noise: (num_envs, num_agents, num_actions) standard Gumbel noise to sample with (see
                `gumbel_noise`); None takes the most likely action.

        Returns:
            Actions int64 (num_envs, num_agents), their log-probabilities, the next hidden state.
        """
        inputs = self.actor_inputs(obs).flatten(0, 1)  # (num_envs * num_agents, input_size)
        logits, after = self.actor.step(inputs, hidden.flatten(0, 1))
        logits = logits.view(action_mask.shape)  # (num_envs, num_agents, num_actions)
        log_probs = masked_log_probs(logits, action_mask)
        scores = log_probs if noise is None else log_probs + noise  # the Gumbel-max trick
        actions = scores.argmax(-1)  # (num_envs, num_agents)
        chosen = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)  # (num_envs, num_agents)
        return actions, chosen, after.view(hidden.shape)  # (num_envs, num_agents, memory_size)


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise: the argmax of log p + noise is a draw from p."""
    noise = torch.empty(shape, device=generator.device)
    tiny = torch.finfo(noise.dtype).tiny
    return noise.exponential_(generator=generator).clamp_(min=tiny).log_().neg_()
