"""Sight, reach and targets by the wrapper's ranges, not the weapons' (interface 2.3 to 2.8)."""

from smacv2.battle import CHANCE_ONE, HEALTH, LOOKING, SIGHT_SHARED, SPOTTER, STEP, UNIT_TYPE, X, Y
from smacv2.engine.compile import inline_rule, rule
from smacv2.engine.fixed import dot, length, square
from smacv2.engine.rng import STREAM_SIGHTING, below, word
from smacv2.engine.tables import (
    CONE,
    CONE_COS,
    CONE_ONE,
    FULLY_OBSERVABLE,
    K_HEALS,
    K_SHOOT,
    K_SIGHT,
    NUM_AGENTS,
    NUM_ENEMIES,
    SHARE_CHANCE,
    UPSTREAM_CONE,
)
from smacv2.engine.targets import distance_squared


@inline_rule
def target_of(unit, kinds, rules, agent, slot):
    """Return the unit that target action ``slot`` of an agent aims at, or -1 for none.

    Slots are enemies; for a unit that heals they are allies.
    """
    if kinds[unit[UNIT_TYPE, agent], K_HEALS]:
        return slot if slot < rules[NUM_AGENTS] else -1
    return rules[NUM_AGENTS] + slot if slot < rules[NUM_ENEMIES] else -1


@inline_rule
def valid_target(unit, kinds, agent, target):
    """Return whether a target is alive and, if the agent heals, is not a healer (or itself)."""
    if target < 0 or unit[HEALTH, target] <= 0:
        return False
    if kinds[unit[UNIT_TYPE, agent], K_HEALS]:
        return not kinds[unit[UNIT_TYPE, target], K_HEALS]
    return True


@inline_rule
def in_reach(unit, kinds, rules, cone, agent, target):
    """Return whether a target is within the wrapper's shoot range (and view cone)."""
    shoot = square(kinds[unit[UNIT_TYPE, agent], K_SHOOT])
    if distance_squared(unit, agent, target) > shoot:
        return False
    return not rules[CONE] or in_cone(unit, rules, cone, agent, target)


@inline_rule
def in_sight(unit, kinds, rules, cone, agent, target):
    """Return whether a unit, dead or alive, is within sight of an agent."""
    if rules[FULLY_OBSERVABLE]:
        return True
    sight = square(kinds[unit[UNIT_TYPE, agent], K_SIGHT])
    distance = distance_squared(unit, agent, target)
    if rules[CONE]:
        return distance <= sight and in_cone(unit, rules, cone, agent, target)
    return distance < sight


@rule
def in_cone(unit, rules, cone, agent, target):
    """Return whether a target is in the agent's view cone of half angle pi / directions."""
    dx = unit[X, target] - unit[X, agent]
    dy = unit[Y, target] - unit[Y, agent]
    looking = unit[LOOKING, agent]
    if rules[UPSTREAM_CONE]:
        return in_upstream_cone(rules, cone, looking, dx, dy)
    ahead = dot(dx, dy, cone[looking, 0], cone[looking, 1])
    return ahead > 0 and ahead >= int(rules[CONE_COS]) * length(dx, dy)


@rule
def in_upstream_cone(rules, cone, looking, dx, dy):
    """Return upstream's answer: it compares slopes, which confuses opposite directions (B6).

    If the view's x has another sign than the target's, it becomes 0: the view turns vertical, or a
    horizontal view sees behind.
    """
    east = dx > 0
    view_x, view_y = int(cone[looking, 0]), int(cone[looking, 1])
    same_half = view_x > 0 if east else view_x < 0
    view_x = abs(view_x) if same_half else 0
    if not east:
        dx, dy, view_y = -dx, -dy, -view_y
    if view_x == 0 and view_y == 0:
        view_x = CONE_ONE
    lengths = int(length(dx, dy)) * length(view_x, view_y)
    return dot(dx, dy, view_x, view_y) * CONE_ONE >= int(rules[CONE_COS]) * lengths


@rule
def spot(unit, world, sights, kinds, rules, cone, agent):
    """Tag the enemies that an agent is the first to see; draw who may see them (interface 2.8)."""
    num_agents = rules[NUM_AGENTS]
    for enemy in range(rules[NUM_ENEMIES]):
        target = num_agents + enemy
        if unit[SPOTTER, target] >= 0 or not in_sight(unit, kinds, rules, cone, agent, target):
            continue
        unit[SPOTTER, target] = agent
        for other in range(num_agents):
            pair = enemy * num_agents + other
            counter = (world[STEP] * rules[NUM_ENEMIES] * num_agents) + pair
            roll = below(word(world, STREAM_SIGHTING, counter), CHANCE_ONE)
            if other == agent or roll < rules[SHARE_CHANCE]:
                sights[other, enemy] |= SIGHT_SHARED


@rule
def forget(unit, sights, rules):
    """Clear the tags of dead enemies and of enemies whose spotter has died (interface 2.8)."""
    num_agents = rules[NUM_AGENTS]
    for enemy in range(rules[NUM_ENEMIES]):
        target = num_agents + enemy
        spotter = unit[SPOTTER, target]
        if spotter < 0:
            continue
        if unit[HEALTH, spotter] <= 0:
            for other in range(rules[NUM_ENEMIES]):
                sights[spotter, other] &= ~SIGHT_SHARED
        if unit[HEALTH, spotter] <= 0 or unit[HEALTH, target] <= 0:
            unit[SPOTTER, target] = -1
            for agent in range(num_agents):
                sights[agent, enemy] &= ~SIGHT_SHARED
