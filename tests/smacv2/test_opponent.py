"""Behaviour of units without orders: acquire, help, heal (mechanics 6, 11, 12)."""

import numpy as np
import pytest

from smacv2.battle import (
    ORDER_ACQUIRED,
    ORDER_ATTACK,
    ORDER_FOLLOW,
    ORDER_HEAL,
    ORDER_IDLE,
    ORDER_RETALIATE,
    PHASE_CHANNEL,
)
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit

X, Y = 16.0, 16.0


def order(battle, unit):
    """Return a unit's order and its target."""
    return battle.state.order[0, unit], battle.state.order_target[0, unit]


@pytest.mark.parametrize(
    ("kind", "scan", "radius"),
    [("marine", 5, 0.375), ("zealot", 5, 0.5), ("marauder", 6, 0.5625), ("stalker", 6, 0.625)],
)
def test_an_idle_standard_unit_attacks_units_within_its_scan_range(kind, scan, radius):
    reach = scan + radius + 0.375
    battle = Sandbox([Unit("marine", X - reach - 0.01, Y)], [Unit(kind, X, Y)])
    battle.tick(16)
    assert order(battle, 1)[0] == ORDER_IDLE
    battle = Sandbox([Unit("marine", X - reach, Y)], [Unit(kind, X, Y)])
    battle.tick()
    assert order(battle, 1) == (ORDER_ACQUIRED, 0)


def test_of_several_threats_the_nearest_is_acquired():
    agents = [Unit("marine", X - 5, Y), Unit("marine", X, Y - 3), Unit("marine", X + 4, Y)]
    battle = Sandbox(agents, [Unit("marine", X, Y)])
    battle.tick()
    assert order(battle, 3) == (ORDER_ACQUIRED, 1)


def test_an_idle_medivac_is_as_much_a_threat_as_a_marine():
    agents = [Unit("marine", X - 4, Y), Unit("medivac", X + 3, Y)]
    battle = Sandbox(agents, [Unit("marine", X, Y)])
    battle.tick()
    assert order(battle, 2) == (ORDER_ACQUIRED, 1)


def test_a_hydralisk_prefers_targets_of_its_first_weapon():
    # Claws hit the ground only; the medivac is nearer, and is a threat too.
    agents = [Unit("marine", X - 4, Y), Unit("medivac", X + 3, Y)]
    battle = Sandbox(agents, [Unit("hydralisk", X, Y)])
    battle.tick()
    assert order(battle, 2) == (ORDER_ACQUIRED, 0)


def test_a_marauder_ordered_onto_a_medivac_follows_it_without_shooting():
    battle = Sandbox([Unit("medivac", X - 8, Y)], [Unit("marauder", X, Y)], trigger=True)
    battle.tick(8)
    assert order(battle, 1) == (ORDER_FOLLOW, 0)
    battle.tick(60)
    assert battle.health(0) == 150
    # 0.140625 per loop for 60 to 67 loops would lead past the edge of the medivac, where it stops.
    assert battle.position(1)[0] == pytest.approx(X - 8 + 0.75 + 0.5625, abs=0.001)


def test_a_following_marauder_acquires_the_first_agent_within_6_that_it_can_hit():
    agents = [Unit("medivac", X - 8, Y), Unit("marine", X - 9, Y)]
    battle = Sandbox(agents, [Unit("marauder", X, Y)], trigger=True)
    for _ in range(40):
        battle.tick()
        if order(battle, 2)[0] == ORDER_ACQUIRED:
            break
    assert order(battle, 2) == (ORDER_ACQUIRED, 1)
    # 6 and the radii 0.375 and 0.5625 from the marine, at most a step nearer.
    gap = battle.position(2)[0] - (X - 9)
    assert 6.9375 - 0.140625 <= gap <= 6.9375


def test_enemy_medivacs_stay_unless_the_rules_let_them_go_with_their_side():
    enemies = [Unit("marine", X, Y, passive=True), Unit("medivac", X + 8, Y)]
    for rule, moves in (("stay", False), ("with_side", True)):
        battle = Sandbox([Unit("marine", 2, 2)], enemies, trigger=True, enemy_medivacs=rule)
        battle.tick(60)
        assert (battle.position(2)[0] < X + 4) == moves


def test_an_acquired_target_is_kept_when_another_comes_nearer():
    agents = [Unit("marine", X - 4, Y, health=1000), Unit("marine", X + 9, Y)]
    battle = Sandbox(agents, [Unit("marine", X, Y)])
    battle.tick()
    battle.move(1, X + 2, Y)
    battle.tick(60)
    assert order(battle, 2) == (ORDER_ACQUIRED, 0)


def test_a_chased_target_is_dropped_beyond_scan_range_plus_one():
    battle = Sandbox([Unit("stalker", X - 5, Y)], [Unit("zealot", X, Y)])
    battle.tick()
    assert order(battle, 1)[0] == ORDER_ACQUIRED
    battle.move(0, 1, Y)
    gaps = []
    while order(battle, 1)[0] == ORDER_ACQUIRED and len(gaps) < 90:
        gaps.append(battle.position(1)[0] - battle.position(0)[0] - 1.125)
        battle.tick()
    assert order(battle, 1)[0] == ORDER_IDLE
    assert 6 < gaps[-1] < 6 + 0.2
    assert max(gaps[:-1]) <= 6


def test_an_idle_unit_retaliates_beyond_its_scan_range():
    # A stalker reaches 6; the zealot would notice it at 5.
    battle = Sandbox([Unit("stalker", X - 7, Y)], [Unit("zealot", X, Y)])
    battle.tick(5)
    assert order(battle, 1)[0] == ORDER_IDLE
    battle.attack(0, 1)
    battle.tick(12)
    assert battle.shield(1) == 40
    assert order(battle, 1) == (ORDER_RETALIATE, 0)
    battle.tick(16)
    assert battle.position(1)[0] < X - 1


def test_a_unit_under_fire_calls_idle_friends_within_4_cells():
    enemies = [
        Unit("zealot", X, Y),
        Unit("zealot", X + 2, Y + 3),
        Unit("zealot", X + 1, Y + 4.5),
        Unit("zealot", X + 1, Y - 2, passive=True),
    ]
    battle = Sandbox([Unit("stalker", X - 7, Y)], enemies)
    battle.attack(0, 1)
    battle.tick(14)
    assert order(battle, 1) == (ORDER_RETALIATE, 0)
    assert order(battle, 2) == (ORDER_RETALIATE, 0)
    assert order(battle, 3)[0] == ORDER_IDLE
    assert order(battle, 4)[0] == ORDER_IDLE


def test_calls_for_help_are_2_seconds_apart():
    victim = Unit("zealot", X, Y, shield=10_000)
    battle = Sandbox([Unit("stalker", X - 7, Y)], [victim], regeneration=False)
    calls = set()
    for _ in range(200):
        battle.attack(0, 1)
        battle.attack(1, 0)  # busy, and too slow to get near
        battle.state.x[:, 1] = X * ONE
        battle.tick(6)
        calls.add(int(battle.state.helped_at[0, 1]))
    gaps = np.diff(sorted(calls)[1:])
    assert len(gaps) > 5
    assert gaps.min() >= 32


def test_the_trigger_orders_only_idle_enemies_to_attack_the_nearest_agent():
    agents = [Unit("marine", 2, Y), Unit("marine", X, Y - 12), Unit("marine", 24, 30)]
    enemies = [Unit("zealot", X, Y), Unit("zealot", 24, 16)]
    battle = Sandbox(agents, enemies, trigger=True)
    battle.attack(4, 0)
    battle.tick(8)
    assert order(battle, 3) == (ORDER_ATTACK, 1)
    assert order(battle, 4) == (ORDER_ATTACK, 0)


def test_an_enemy_medivac_stays_and_heals_its_hurt_friends():
    enemies = [Unit("medivac", X, Y), Unit("marine", X + 3, Y, health=20, passive=True)]
    battle = Sandbox([Unit("marine", 2, Y)], enemies, trigger=True)
    battle.stop(2)
    battle.state.order[:, 2] = ORDER_ATTACK  # keep the marine busy: its target is far away
    battle.state.order_target[:, 2] = 0
    battle.tick(8)
    assert order(battle, 1) == (ORDER_HEAL, 2)
    assert battle.position(1) == (X, Y)
    assert battle.health(2) > 20


def test_an_agents_medivac_heals_only_when_ordered():
    agents = [Unit("medivac", X, Y), Unit("marine", X + 2, Y, health=20)]
    battle = Sandbox(agents, [Unit("marine", 2, 2)])
    battle.tick(32)
    assert battle.health(1) == 20
    battle.heal(0, 1)
    battle.tick(32)
    assert battle.health(1) > 30


def test_autocast_prefers_the_lowest_life_fraction_then_the_nearest():
    enemies = [
        Unit("medivac", X, Y),
        Unit("marine", X + 2, Y, health=30, passive=True),  # 0.667
        Unit("marauder", X - 3, Y, health=75, passive=True),  # 0.6
        Unit("marine", X, Y + 4, health=27, passive=True),  # 0.6 as well, farther
    ]
    battle = Sandbox([Unit("marine", 2, 2)], enemies)
    battle.tick()
    assert order(battle, 1) == (ORDER_HEAL, 3)


def test_autocast_reaches_6_cells_and_needs_5_energy():
    patient = Unit("marine", X + 6 + 1.125, Y, health=20, passive=True)
    agents = [Unit("marine", 2, 2)]
    near = Sandbox(agents, [Unit("medivac", X, Y), patient])
    near.tick()
    assert order(near, 1) == (ORDER_HEAL, 2)
    far = Sandbox(agents, [Unit("medivac", X - 0.01, Y), patient])
    far.tick()
    assert order(far, 1)[0] == ORDER_IDLE
    tired = Sandbox(agents, [Unit("medivac", X, Y, energy=4.7), patient])
    tired.tick(8)
    assert order(tired, 1)[0] == ORDER_IDLE
    tired.tick(2)  # 0.03516 energy per loop
    assert order(tired, 1) == (ORDER_HEAL, 2)


def test_one_medivac_at_a_time_heals_a_unit():
    agents = [Unit("medivac", X, Y), Unit("medivac", X, Y + 3), Unit("marine", X + 2, Y, health=5)]
    battle = Sandbox(agents, [Unit("marine", 2, 2, passive=True)])
    battle.heal(0, 2)
    battle.heal(1, 2)
    battle.tick(4)
    health = battle.health(2)
    for _ in range(20):
        battle.tick()
        assert battle.health(2) - health == 0.5625
        health = battle.health(2)
    assert (battle.state.phase[0, :2] == PHASE_CHANNEL).sum() == 1


def test_a_medivac_cannot_be_healed():
    agents = [Unit("medivac", X, Y), Unit("medivac", X + 2, Y, health=50)]
    battle = Sandbox([Unit("marine", 2, 2)], agents)
    battle.tick(40)
    assert battle.health(2) == 50


def test_a_colossus_looks_for_its_next_target_around_the_last_one():
    agents = [
        Unit("marine", X - 5, Y, health=1),
        Unit("marine", X - 4, Y - 4),  # 4.1 from the old target, 5.7 from the colossus
        Unit("marine", X + 3, Y),  # 8 from the old target, 3 from the colossus
    ]
    battle = Sandbox(agents, [Unit("colossus", X, Y)], regeneration=False)
    battle.attack(3, 0)
    while battle.health(0) > 0:
        battle.tick()
    battle.tick()
    assert order(battle, 3) == (ORDER_ACQUIRED, 1)
