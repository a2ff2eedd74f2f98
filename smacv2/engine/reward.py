"""The reward of an environment step, and the end of a battle (interface 2.6)."""

from smacv2.battle import (
    DEAD_ALLIES,
    DEAD_ENEMIES,
    FINISHED,
    FIRST_MAX_REWARD,
    HEALTH,
    MAX_REWARD,
    OUTCOME,
    OUTCOME_DRAWN,
    OUTCOME_LOST,
    OUTCOME_RUNNING,
    OUTCOME_TIMEOUT,
    OUTCOME_WON,
    OVER,
    SEEN_HEALTH,
    SEEN_SHIELD,
    SHIELD,
    STEP,
    UNIT_TYPE,
)
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import ONE, mul
from smacv2.engine.tables import (
    DEATH_POINTS,
    DEFEAT_POINTS,
    EPISODE_LIMIT,
    FIRST_SCALE,
    HAS_HEALERS,
    K_HEALS,
    K_HEALTH,
    K_SHIELD,
    NEGATIVE_SCALE,
    NUM_AGENTS,
    NUM_ENEMIES,
    ONLY_POSITIVE,
    REWARD_SCALED,
    SCALE_RATE,
    SPARSE,
    WIN_POINTS,
)

LARGEST_SCALE = 1 << 30
"""Limit of the growing sum of defect B2, so that it cannot overflow."""


@rule
def set_reward_scale(unit, world, kinds, rules):
    """Store the points of killing all of this episode's enemies (fixed-point).

    Under defect B2 the first episode's enemies set the scale of all later episodes, and every
    reset before the first episode has ended adds the enemies' life once more.
    """
    life = 0
    for i in range(rules[NUM_AGENTS], unit.shape[1]):
        kind = unit[UNIT_TYPE, i]
        life += kinds[kind, K_HEALTH] + kinds[kind, K_SHIELD]
    bonus = rules[NUM_ENEMIES] * rules[DEATH_POINTS] + rules[WIN_POINTS]
    if rules[FIRST_SCALE]:
        if world[FINISHED] == 0:
            world[FIRST_MAX_REWARD] = min(world[FIRST_MAX_REWARD] + life, LARGEST_SCALE)
        world[MAX_REWARD] = bonus + world[FIRST_MAX_REWARD]
    else:
        world[MAX_REWARD] = bonus + life


@rule
def decide(unit, world, kinds, rules):
    """Count the dead, set the outcome and return the step's points (fixed-point)."""
    num_agents = rules[NUM_AGENTS]
    allies, fighting_allies = count_living(unit, kinds, 0, num_agents)
    enemies, fighting_enemies = count_living(unit, kinds, num_agents, unit.shape[1])
    world[DEAD_ALLIES] = num_agents - allies
    world[DEAD_ENEMIES] = rules[NUM_ENEMIES] - enemies
    if rules[SPARSE]:
        points = 0
    else:
        points = battle_points(unit, rules)
    only_healers_count = rules[HAS_HEALERS] != 0
    if (allies == 0 and enemies > 0) or (only_healers_count and fighting_allies == 0):
        world[OUTCOME] = OUTCOME_LOST
        points = -ONE if rules[SPARSE] else points + rules[DEFEAT_POINTS]
    elif (enemies == 0 and allies > 0) or (only_healers_count and fighting_enemies == 0):
        world[OUTCOME] = OUTCOME_WON
        points = ONE if rules[SPARSE] else points + rules[WIN_POINTS]
    elif allies == 0 and enemies == 0:
        world[OUTCOME] = OUTCOME_DRAWN
    elif world[STEP] >= rules[EPISODE_LIMIT]:
        world[OUTCOME] = OUTCOME_TIMEOUT
    if world[OUTCOME] != OUTCOME_RUNNING:
        world[OVER] = 1
        world[FINISHED] += 1
    return points


@rule
def count_living(unit, kinds, first, last):
    """Return the number of living units of a team, and of living units that are not healers."""
    living = 0
    fighting = 0
    for i in range(first, last):
        if unit[HEALTH, i] > 0:
            living += 1
            if not kinds[unit[UNIT_TYPE, i], K_HEALS]:
                fighting += 1
    return living, fighting


@rule
def battle_points(unit, rules):
    """Return the points of damage and kills since the last observation."""
    num_agents = rules[NUM_AGENTS]
    dealt = team_losses(unit, rules, num_agents, unit.shape[1])
    if rules[ONLY_POSITIVE]:
        return max(dealt, 0)
    return dealt - mul(team_losses(unit, rules, 0, num_agents), rules[NEGATIVE_SCALE])


@rule
def team_losses(unit, rules, first, last):
    """Return the life and shield a team has lost, plus the value of its newly dead.

    A unit that died counts with all its life and shield; regeneration is subtracted.
    """
    lost = 0
    for i in range(first, last):
        if unit[SEEN_HEALTH, i] > 0:
            lost += unit[SEEN_HEALTH, i] + unit[SEEN_SHIELD, i]
            if unit[HEALTH, i] > 0:
                lost -= unit[HEALTH, i] + unit[SHIELD, i]
            else:
                lost += rules[DEATH_POINTS]
    return lost


@inline_rule
def remember(unit, i):
    """Store a unit's health and shield at this observation, for the next step's reward."""
    unit[SEEN_HEALTH, i] = unit[HEALTH, i]
    unit[SEEN_SHIELD, i] = unit[SHIELD, i]


@rule
def scale_reward(world, rules, points):
    """Return points as a float; with ``reward_scale``, times reward_scale_rate / max_reward."""
    if not rules[REWARD_SCALED]:
        return float(points) / ONE
    return float(points) * float(rules[SCALE_RATE]) / (float(world[MAX_REWARD]) * ONE)
