"""One environment step and one game loop (tick): the table of contents of the battle.

A tick is a sequence of *phases*. In a phase, a **unit rule** may read any unit and writes only its
own column; it reads nothing of others that the phase writes. So the order of units cannot matter:
a CPU loops over them, a GPU gives each unit a lane, and ``meet()`` ends the phase. A **battle
rule** runs on lane 0 alone, because its order does matter: what lands, lands one after the other.

``lane`` and ``lanes`` say which units a caller plays: ``range(lane, num_units, lanes)``. One caller
that plays all of them passes 0 and 1.
"""

from smacv2.battle import (
    CHANCE_ONE,
    EPISODE,
    EVENT,
    HEALTH,
    HEALTH_LEVEL,
    ILLEGAL_ACTIONS,
    MISSILE_TARGET,
    OVER,
    SEEN_HEALTH,
    STEP,
    SWING_TICKS,
    TICK,
    TURN,
    UNIT_TYPE,
)
from smacv2.engine.compile import inline_rule, meet, rule
from smacv2.engine.effects import (
    advance_beams,
    advance_missile,
    advance_swing,
    deliver,
    die,
    regenerate,
    resolve_bursts,
)
from smacv2.engine.movement import RELAX_PERIOD, add_up_pushes, settle, step, take_stance
from smacv2.engine.observe import observe_all, write_state
from smacv2.engine.opponent import look, script_gives_orders
from smacv2.engine.orders import count_illegal, give_order, write_mask
from smacv2.engine.reward import decide, remember, scale_reward, set_reward_scale
from smacv2.engine.rng import STREAM_UPDATE_ORDER, shuffle
from smacv2.engine.spawn import spawn
from smacv2.engine.tables import (
    HAS_BEAMS,
    HAS_HEALTH_LEVEL,
    K_HEALTH,
    NUM_AGENTS,
    STALE_KILL,
    START_TICKS,
    TICKS_AFTER_KILL,
    TICKS_PER_STEP,
)
from smacv2.engine.weapons import act

LEAVE_COMMAND, STEP_COMMAND, RESET_COMMAND = range(3)
"""Commands to ``run_battle``: leave a battle alone, play a step, start its next episode."""


@rule
def run_battle(
    command, unit, world, sights, kinds, rules, teams, points, spiral, cone, pathing,
    actions, obs, state, mask,
):  # fmt: skip
    """Play one battle with ``play_battle``, then show it; return the reward."""
    reward = play_battle(
        command, unit, world, sights, kinds, rules, teams, points, spiral, cone, pathing,
        actions, mask,
    )  # fmt: skip
    show(unit, world, sights, kinds, rules, cone, pathing, obs, state, mask)
    return reward


@rule
def play_battle(
    command, unit, world, sights, kinds, rules, teams, points, spiral, cone, pathing,
    actions, mask,
):  # fmt: skip
    """Step one battle, or reset it if told to or if it is over (NEXT_STEP); return the reward."""
    if command == STEP_COMMAND and world[OVER] == 0:
        return play_step(unit, world, kinds, rules, cone, mask, actions, 0, 1)
    start_episode(unit, world, sights, kinds, rules, teams, points, spiral, pathing, 0, 1)
    return 0.0


@rule
def play_step(unit, world, kinds, rules, cone, mask, actions, lane, lanes):
    """Play one environment step of a battle; return the reward on lane 0, and 0 on others."""
    for agent in range(lane, rules[NUM_AGENTS], lanes):
        give_order(unit, world, kinds, rules, cone, mask, actions, agent)
    if lane == 0:
        world[ILLEGAL_ACTIONS] = count_illegal(rules, mask, actions)
    meet()
    kill_at = rules[TICKS_PER_STEP] - rules[TICKS_AFTER_KILL] if rules[HAS_HEALTH_LEVEL] else -1
    tick = world[TICK]
    for loop in range(rules[TICKS_PER_STEP] + 1):
        if loop == kill_at:
            if lane == 0:
                kill_below_level(unit, world, kinds, rules)
            meet()
        if loop < rules[TICKS_PER_STEP]:
            tick += 1
            play_tick(unit, world, kinds, rules, tick, lane, lanes)
    reward = 0.0
    if lane == 0:
        world[STEP] += 1
        reward = scale_reward(world, rules, decide(unit, world, kinds, rules))
    meet()
    for i in range(lane, unit.shape[1], lanes):
        remember(unit, i)
    meet()
    return reward


@rule
def start_episode(
    unit, world, sights, kinds, rules, teams, points, spiral, pathing, lane, lanes
):  # fmt: skip
    """Start the next episode of a battle; agents first see it after ``START_TICKS`` ticks."""
    if lane == 0:
        world[EPISODE] += 1
    meet()
    spawn(unit, world, sights, kinds, rules, teams, points, spiral, pathing, lane, lanes)
    meet()
    if lane == 0:
        set_reward_scale(unit, world, kinds, rules)
    meet()
    for loop in range(rules[START_TICKS]):
        play_tick(unit, world, kinds, rules, loop + 1, lane, lanes)
    for i in range(lane, unit.shape[1], lanes):
        remember(unit, i)
    meet()


@rule
def play_tick(unit, world, kinds, rules, tick, lane, lanes):
    """Play one game loop, number ``tick`` of the episode, phase by phase."""
    num_units = unit.shape[1]
    scripted = script_gives_orders(world, rules, tick)
    for i in range(lane, num_units, lanes):
        look(unit, kinds, rules, tick, scripted, i)
    meet()
    for i in range(lane, num_units, lanes):
        update(unit, world, kinds, rules, tick, i)
    meet()
    if lane == 0:
        world[TICK] = tick
        land(unit, world, kinds, rules)
    meet()
    for i in range(lane, num_units, lanes):
        step(unit, i)
    meet()
    relaxing = tick % RELAX_PERIOD == 0
    for i in range(lane, num_units, lanes):
        add_up_pushes(unit, kinds, rules, relaxing, i, lanes)
    meet()
    for i in range(lane, num_units, lanes):
        settle(unit, kinds, rules, i)
        regenerate(unit, kinds, tick, i)
        take_stance(unit, i)
    meet()


@inline_rule
def update(unit, world, kinds, rules, tick, i):
    """Advance a unit's shots under way, then let it act; note as events what it lands."""
    event = 0
    if unit[MISSILE_TARGET, i] >= 0:
        event |= advance_missile(unit, kinds, i)
    if unit[SWING_TICKS, i] > 0:
        event |= advance_swing(unit, i)
    if rules[HAS_BEAMS]:
        event |= advance_beams(unit, kinds, rules, tick, i)
    if unit[HEALTH, i] > 0:
        event |= act(unit, world, kinds, rules, tick, i)
    unit[EVENT, i] = event


@inline_rule
def land(unit, world, kinds, rules):
    """Land what units have noted as events, in random order of the units (mechanics 8.5)."""
    busy = 0
    for i in range(unit.shape[1]):
        if unit[EVENT, i] != 0:
            unit[TURN, busy] = i
            busy += 1
    if busy == 0:
        return
    shuffle(unit, world, busy, STREAM_UPDATE_ORDER, world[TICK])
    for turn in range(busy):
        deliver(unit, world, kinds, rules, unit[TURN, turn])
        resolve_bursts(unit, world, kinds, rules)


@rule
def kill_below_level(unit, world, kinds, rules):
    """Kill agents whose health has fallen below their health level (interface 2.6).

    Defect B7 judges by the health at the last observation.
    """
    for agent in range(rules[NUM_AGENTS]):
        health = unit[SEEN_HEALTH, agent] if rules[STALE_KILL] else unit[HEALTH, agent]
        full = int(kinds[unit[UNIT_TYPE, agent], K_HEALTH])
        low = int(health) * CHANCE_ONE < int(unit[HEALTH_LEVEL, agent]) * full
        if unit[HEALTH, agent] > 0 and low:
            die(unit, world, kinds, agent)
    resolve_bursts(unit, world, kinds, rules)


@rule
def show(unit, world, sights, kinds, rules, cone, pathing, obs, state, mask):
    """Write the mask of available actions, the observations and the state."""
    write_mask(unit, kinds, rules, cone, pathing, mask)
    observe_all(unit, world, sights, kinds, rules, cone, pathing, mask, obs)
    write_state(unit, world, kinds, rules, cone, obs, state)
