"""The settings of an environment: game, observation, state, mask and reward.

The names are upstream SMACv2's constructor keywords. The defaults are the benchmark's settings
(upstream's example configurations), not upstream's constructor defaults.
"""

import dataclasses
from typing import Any

from smacv2.schema import Place, entry, read

RULES = ("fixed", "may_2022", "paper", "upstream")


class OptionError(ValueError):
    """An option that does not exist, or a value that it cannot take."""


@dataclasses.dataclass(frozen=True)
class Options:
    """All settings of one environment; immutable, compared and hashed by value."""

    step_mul: int = entry(default=8, low=1, high=1000)
    """Game loops per environment step; a game second has 16."""
    move_amount: float = entry(default=2.0, above=0, high=256)
    """Length of a move order, in cells."""

    obs_all_health: bool = True
    """Observe health and shield of visible units and of the agent itself."""
    obs_own_health: bool = True
    """Observe the agent's own health and shield, even if `obs_all_health` is off."""
    obs_last_action: bool = False
    """Observe the last action of visible allies, one-hot."""
    obs_pathing_grid: bool = False
    """Observe whether the 8 points around the agent can be walked on."""
    obs_terrain_height: bool = False
    """Observe the terrain height at the 8 points around the agent and under it."""
    obs_instead_of_state: bool = False
    """Make the state the concatenation of all agents' observations."""
    obs_timestep_number: bool = False
    """Append step / episode_limit to the observation."""
    obs_own_pos: bool = True
    """Observe the agent's own position, as a fraction of the arena."""
    obs_starcraft: bool = True
    """Observe the game at all; False leaves only the timestep (open-loop play)."""

    conic_fov: bool = False
    """See and shoot only inside a cone, and add actions that turn it."""
    num_fov_actions: int = entry(default=12, low=1, high=360)
    """View directions of the cone; its angle is 360 degrees / num_fov_actions."""

    state_last_action: bool = True
    """Append all agents' last actions, one-hot, to the state."""
    state_timestep_number: bool = False
    """Append step / episode_limit to the state."""

    reward_sparse: bool = False
    """Reward only the end of a battle: +1 won, -1 lost, 0 otherwise."""
    reward_only_positive: bool = True
    """Reward damage dealt only; False subtracts damage taken."""
    reward_death_value: float = entry(default=10.0, low=0, high=1000)
    """Reward for a killed enemy, before scaling."""
    reward_win: float = entry(default=200.0, low=0, high=100_000)
    """Reward for a won battle, before scaling."""
    reward_defeat: float = entry(default=0.0, low=-100_000, high=100_000)
    """Reward for a lost battle, before scaling; added as given."""
    reward_negative_scale: float = entry(default=0.5, low=0, high=100)
    """Weight of the agents' own losses if `reward_only_positive` is off."""
    reward_scale: bool = True
    """Scale rewards so that a perfect battle has the return `reward_scale_rate`."""
    reward_scale_rate: float = entry(default=20.0, above=0, high=100_000)
    """Return of a perfect battle with `reward_scale`."""

    use_unit_ranges: bool = True
    """Give each unit type its own sight and attack range; False: 9 and 6 cells for all."""
    min_attack_range: float = entry(default=2.0, low=0, high=256)
    """Lower bound of the attack ranges with `use_unit_ranges`, in cells."""
    kill_unit_step_mul: int = entry(default=2, low=0, high=1000)
    """Game loops of a step that follow the death of agents below their health level."""
    fully_observable: bool = False
    """Observe every living unit, whatever its distance."""
    prob_obs_enemy: float = entry(default=1.0, low=0, high=1)
    """Extended partial observability: chance to see an enemy that an ally spotted first."""
    enemy_medivacs: str = entry(default="stay", choices=("stay", "with_side"))
    """stay: enemy medivacs wait and heal in reach; with_side: they follow their side's fighters."""
    action_mask: bool = True
    """Allow attacks in range only; False allows every living target, so the mask says nothing."""

    rules: str = entry(default="fixed", choices=RULES)
    """fixed: upstream's defects repaired; may_2022: as of the recorded play of May 2022;
    paper: as of the published curves; upstream: as today."""
    strict: bool = False
    """Raise an error on an illegal action; False replaces it by stop and counts it."""

    def replace(self, **changes: Any) -> "Options":
        """Return a copy with some options changed.

        Raises:
            OptionError: A name that is not an option, or a value outside its type or range.
        """
        current = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return read(Options, {**current, **changes}, Place("options", OptionError))
