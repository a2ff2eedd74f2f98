"""Collisions, melee rings, pushing and walking around blockers (mechanics 5)."""

from math import asin, cos, floor, hypot, pi, sin

import numpy as np
import pytest

from smacv2.battle import ORDER_IDLE
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit

X, Y = 16.0, 16.0
RADIUS = {"zergling": 0.375, "zealot": 0.5, "marine": 0.375, "stalker": 0.625, "hydralisk": 0.625}
COLLISION = 0.375  # hard radius of marines, zerglings and zealots
OVERLAP = 0.1  # cells by which hard radii may overlap in a crowd


def circle(kind, count, radius, **settings):
    """Return units spread evenly on a circle around (X, Y)."""
    angles = [2 * pi * n / count for n in range(count)]
    return [Unit(kind, X + radius * cos(a), Y + radius * sin(a), **settings) for a in angles]


def places(battle, env=0):
    """Return the positions of all units, ``(units, 2)`` cells."""
    return np.stack([battle.state.x[env], battle.state.y[env]], axis=1) / ONE


def deepest_overlap(battle, units, reach):
    """Return the overlap of the closest pair of units: ``reach`` minus their distance, in cells."""
    points = places(battle)[units]
    distances = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    return reach - distances[np.triu_indices(len(units), 1)].min()


RINGS = [
    ("zergling", "marine", 6),
    ("zergling", "zergling", 6),
    ("zergling", "zealot", 7),
    ("zealot", "marine", 7),
    ("zealot", "stalker", 10),
    ("zealot", "hydralisk", 10),
]


def besieged(attacker, target, count, *, unevenness=0.0, seed=0):
    """Return the number of ``count`` attackers from all sides that end up in reach of a unit."""
    shifts = np.random.default_rng(seed).normal(0, unevenness, (count, 2))
    attackers = [
        Unit(attacker, unit.x + dx, unit.y + dy)
        for unit, (dx, dy) in zip(circle(attacker, count, 5.0), shifts, strict=True)
    ]
    victim = Unit(target, X, Y, health=100_000, passive=True)
    battle = Sandbox(attackers, [victim], regeneration=False, seed=seed)
    for unit in range(count):
        battle.attack(unit, count)
    battle.tick(240)
    distances = np.hypot(*(places(battle)[:-1] - (X, Y)).T)
    return int((distances <= reach_of(attacker, target) + 2 / ONE).sum())


def reach_of(attacker, target):
    return RADIUS[attacker] + RADIUS[target] + 0.1


@pytest.mark.parametrize(("attacker", "target", "ring"), RINGS)
def test_as_many_attackers_as_fit_side_by_side_reach_a_unit(attacker, target, ring):
    assert floor(pi / asin(COLLISION / reach_of(attacker, target))) == ring
    assert besieged(attacker, target, ring) == ring


@pytest.mark.parametrize(("attacker", "target", "ring"), RINGS)
def test_a_crowd_fills_most_of_a_ring_and_squeezes_in_at_most_one_more(attacker, target, ring):
    for seed in range(4):
        count = besieged(attacker, target, ring + 4, unevenness=0.05, seed=seed)
        assert 0.7 * ring <= count <= ring + 1


def test_a_crowd_sent_to_one_point_never_piles_up():
    crowd = [Unit("marine", 12 + 0.8 * (n % 5), 14 + 0.8 * (n // 5)) for n in range(20)]
    battle = Sandbox(crowd, [Unit("marine", 30, 30, passive=True)])
    for _ in range(30):
        for unit in range(20):
            battle.move(unit, X, Y)
        battle.tick(8)
    # The densest known packing of 20 discs of radius 0.375 has its outermost centre 4.122 radii
    # from the middle; pressing inwards may squeeze it by a tenth.
    assert np.hypot(*(places(battle)[:20] - (X, Y)).T).max() > 0.9 * 4.122 * COLLISION
    for unit in range(20):
        battle.stop(unit)
    battle.tick(80)
    assert deepest_overlap(battle, np.arange(20), 2 * COLLISION) < OVERLAP
    battle.tick(160)
    assert deepest_overlap(battle, np.arange(20), 2 * COLLISION) < 0.002


def test_idle_friends_drift_apart_to_their_full_radii():
    pair = [Unit("zealot", X, Y), Unit("zealot", X + 0.8, Y)]
    battle = Sandbox(pair, [Unit("marine", 30, 30, passive=True)])
    battle.tick(80)
    (left, _), (right, _) = battle.position(0), battle.position(1)
    assert right - left == pytest.approx(1.0, abs=2 / ONE)
    assert left + right == pytest.approx(2 * X + 0.8, abs=2 / ONE)


def test_zerglings_walk_beneath_a_colossus_and_zealots_do_not_pass_through_a_zealot():
    walkers = [Unit("zergling", X - 4, Y), Unit("colossus", X, Y)]
    battle = Sandbox(walkers, [Unit("marine", X, 2, passive=True)])
    battle.move(0, X + 4, Y)
    battle.tick(44)  # 8 cells at 0.18457 per loop
    assert battle.position(0) == (X + 4, Y)
    assert battle.position(1) == (X, Y)

    battle = Sandbox([Unit("zealot", X - 4, Y)], [Unit("zealot", X, Y, passive=True)])
    battle.move(0, X + 4, Y)
    nearest = 9.0
    for _ in range(200):
        battle.tick()
        nearest = min(nearest, hypot(*(places(battle)[0] - (X, Y))))
    assert nearest > 2 * COLLISION - OVERLAP
    assert battle.position(0) == (X + 4, Y)


def test_a_medivac_flies_over_ground_units_and_not_through_a_medivac():
    battle = Sandbox([Unit("medivac", X - 4, Y)], [Unit("marine", X, Y, passive=True)])
    battle.move(0, X + 4, Y)
    battle.tick(120)
    assert battle.position(0) == (X + 4, Y)
    assert battle.position(1) == (X, Y)

    units = [Unit("medivac", X - 4, Y), Unit("medivac", X, Y)]
    battle = Sandbox(units, [Unit("marine", 30, 30, passive=True)])
    battle.move(0, X, Y)
    battle.tick(120)
    assert deepest_overlap(battle, [0, 1], 1.5) < OVERLAP


def test_a_walking_unit_pushes_an_idle_friend_along():
    friends = [Unit("marine", X - 2, Y), Unit("marine", X, Y)]
    battle = Sandbox(friends, [Unit("marine", 30, 30, passive=True)])
    battle.move(0, X, Y)
    battle.tick(40)
    assert hypot(*(places(battle)[1] - (X, Y))) > 0.3
    assert deepest_overlap(battle, [0, 1], 2 * COLLISION) < OVERLAP


def test_a_walking_unit_never_pushes_an_enemy():
    battle = Sandbox([Unit("marine", X - 2, Y)], [Unit("marine", X, Y, passive=True)])
    for _ in range(20):
        battle.move(0, X, Y)
        battle.tick(8)
        assert battle.position(1) == (X, Y)
    assert hypot(*(places(battle)[0] - (X, Y))) > 2 * COLLISION - OVERLAP


def test_a_walking_unit_never_pushes_a_fighting_friend():
    fighter = Unit("zealot", X, Y)
    target = Unit("colossus", X, Y + 1.5, health=100_000, passive=True)
    battle = Sandbox([Unit("zealot", X - 3, Y), fighter], [target])
    battle.attack(1, 2)
    battle.tick(2)
    start = battle.position(1)
    for _ in range(10):
        battle.move(0, battle.position(0)[0] + 2, Y)
        battle.tick(8)
        assert battle.position(1) == start
    assert battle.position(0)[0] > X + 1


def test_a_unit_behind_fighting_friends_walks_around_them_to_an_open_slot():
    target = Unit("marine", X, Y, health=100_000, passive=True)
    front = [
        Unit("zergling", X - 0.85 * cos(a), Y + 0.85 * sin(a)) for a in (-pi / 3.2, 0.0, pi / 3.2)
    ]
    battle = Sandbox([*front, Unit("zergling", X - 4, Y)], [target])
    for unit in range(4):
        battle.attack(unit, 4)
    battle.tick(100)
    assert hypot(*(places(battle)[3] - (X, Y))) <= 0.85 + 2 / ONE
    assert battle.state.damaged_at[0, 4] > 80
    for unit in range(3):
        assert hypot(*(places(battle)[unit] - (X, Y))) <= 0.85 + 2 / ONE


def test_units_stop_at_the_edge_of_the_map():
    units = [Unit("marine", 1, 16), Unit("marine", 16, 31)]
    battle = Sandbox(units, [Unit("marine", 30, 3, passive=True)])
    for _ in range(10):
        battle.move(0, battle.position(0)[0] - 2, 16)
        battle.move(1, 16, battle.position(1)[1] + 2)
        battle.tick(8)
    assert battle.position(0) == (COLLISION, 16)
    assert battle.position(1) == (16, 32 - COLLISION)
    battle.move(0, 4, 16)
    battle.tick(40)
    assert battle.position(0) == (4, 16)
    assert battle.state.order[0, 0] == ORDER_IDLE
