"""Agents' actions and the orders they give (interface 2.5, mechanics 3 and 4)."""

import numpy as np
import pytest

from smacv2.battle import (
    ORDER_ATTACK,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_MOVE,
    PHASE_WINDUP,
)
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.scenario import load_scenario, parse_scenario

STOP, NORTH, SOUTH, EAST, WEST, TARGET = range(1, 7)
X, Y = 16.0, 16.0


def act(box, *actions):
    """Play one step in which every agent of every copy takes its action."""
    box.backend.step(np.tile(np.array(actions, np.int32), (len(box.state.world), 1)))


def order(box, unit):
    return box.state.order[0, unit], box.state.order_target[0, unit]


@pytest.mark.parametrize(
    ("action", "dx", "dy"), [(NORTH, 0, 2), (SOUTH, 0, -2), (EAST, 2, 0), (WEST, -2, 0)]
)
def test_a_move_goes_two_cells_from_the_units_position(action, dx, dy):
    box = Sandbox([Unit("marine", X, Y)], [Unit("marine", 30, 30, passive=True)])
    act(box, action)
    assert order(box, 0)[0] == ORDER_MOVE
    assert box.value("order_x", 0) == X + dx
    assert box.value("order_y", 0) == Y + dy
    assert box.position(0) == (X + dx * 1.125 / 2, Y + dy * 1.125 / 2)


def test_stop_clears_the_order_and_the_unit_stands_still():
    box = Sandbox([Unit("marine", X, Y)], [Unit("marine", 30, 30, passive=True)])
    act(box, EAST)
    act(box, STOP)
    assert order(box, 0) == (ORDER_IDLE, -1)
    assert box.position(0) == (X + 1.125, Y)


def test_an_attack_ends_with_its_target_and_the_agent_waits_for_the_next_order():
    enemies = [
        Unit("marine", X + 4, Y, health=6, passive=True),
        Unit("marine", X, Y + 4, passive=True),
    ]
    box = Sandbox([Unit("marine", X, Y)], enemies)
    act(box, TARGET)
    assert box.health(1) == 0
    assert order(box, 0)[0] == ORDER_IDLE
    act(box, STOP)
    assert box.health(2) == 45


def test_an_attack_follows_its_target():
    box = Sandbox([Unit("stalker", X, Y)], [Unit("marine", X + 6, Y, passive=True)])
    act(box, TARGET)
    box.move(1, X + 13, Y)
    box.tick(50)
    assert order(box, 0) == (ORDER_ATTACK, 1)
    assert box.position(0)[0] > X + 3


def test_an_attack_that_no_weapon_allows_keeps_the_old_order():
    enemies = [Unit("medivac", X + 4, Y), Unit("marine", 2, 2, passive=True)]
    box = Sandbox([Unit("marauder", X, Y)], enemies)
    act(box, NORTH)
    assert box.backend.outputs.action_mask[0, 0, TARGET] == 1
    act(box, TARGET)
    assert box.state.illegal_actions[0] == 0
    assert box.position(0) == (X, Y + 2)  # in loop 15 of 16: it has walked on
    act(box, TARGET)
    assert order(box, 0)[0] == ORDER_IDLE
    assert box.health(1) == 150


@pytest.mark.parametrize(
    ("health", "energy", "expected"),
    [(45, 50, ORDER_MOVE), (20, 0, ORDER_MOVE), (20, 50, ORDER_HEAL)],
)
def test_healing_a_healthy_ally_or_without_energy_keeps_the_old_order(health, energy, expected):
    agents = [Unit("marine", X, Y + 3, health=health), Unit("medivac", X, Y, energy=energy)]
    box = Sandbox(agents, [Unit("marine", 2, 2, passive=True)], step_mul=1)
    act(box, STOP, NORTH)
    box.state.energy[:, 1] = energy * ONE
    act(box, STOP, TARGET)
    assert order(box, 1)[0] == expected


def test_repeating_an_attack_keeps_the_wind_up_and_another_target_cancels_it():
    enemies = [Unit("marine", X + 5, Y + n, passive=True) for n in (0, 1)]
    for second, still in ((TARGET, True), (TARGET + 1, False)):
        box = Sandbox([Unit("stalker", X, Y)], enemies, step_mul=1, jitter=False)
        act(box, TARGET)  # wind-up of 2.67 loops starts in loop 1
        act(box, TARGET)
        assert box.state.phase[0, 0] == PHASE_WINDUP
        act(box, second)
        act(box, second)
        assert (box.value("cooldown", 0) > 0) == still


def test_an_attack_is_sent_with_the_agents_chance_and_otherwise_the_old_order_continues():
    source = load_scenario("terran_5_vs_5").source
    chance = {"kind": "per_agent_uniform", "lower": 0.3, "upper": 0.3}
    pairs = [{"ally": ["marine"], "enemy": ["marine"]}]
    source = {
        **source,
        "num_agents": 1,
        "num_enemies": 1,
        "attack": chance,
        "team": {"kind": "fixed", "unit_types": ["marine"], "items": pairs},
        "start_positions": {
            "kind": "fixed",
            "items": [{"ally_points": [[16, 16]], "enemy_points": [[20, 16]]}],
        },
    }
    scenario = parse_scenario(source, name="shaky", file="shaky")
    env = SMACv2VectorEnv(scenario, 2000, num_threads=1, step_mul=1)
    env.reset(seed=0)
    env.step(np.full((2000, 1), NORTH))
    env.step(np.full((2000, 1), TARGET))
    orders = env.backend.state.order[:, 0]
    assert set(orders) == {ORDER_MOVE, ORDER_ATTACK}
    attacking = (orders == ORDER_ATTACK).sum()
    assert abs(attacking - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7)
    env.step(np.full((2000, 1), TARGET))
    again = (env.backend.state.order[:, 0] == ORDER_ATTACK).sum()
    assert abs(again - 2000 * (1 - 0.49)) < 5 * np.sqrt(2000 * 0.51 * 0.49)
    assert env.backend.state.y[orders == ORDER_MOVE, 0].min() > 16 * ONE
