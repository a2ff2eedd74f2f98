"""The hand-computed tests of the battle's rules (mechanics 17), in their order.

Orders are given before loop 1. Wind-up of d loops that starts in loop 1 is due at time 1 + d, and
fires in loop 1 + ceil(d); a delay of x loops after loop n ends in loop n + ceil(x). A weapon of
period p without its random delay is due p loops after it was last due, whole or not. Nothing
regenerates unless a test says so.
"""

import numpy as np
import pytest

from smacv2.battle import ORDER_ACQUIRED, ORDER_ATTACK, ORDER_IDLE, TRIGGER_PHASE
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit
from smacv2.scenario import load_unit_types

X, Y = 8.0, 16.0
COPIES = 2000
SIGMAS = 5  # a binomial count leaves this bound once in two million runs


def duel(attacker, victim, distance, **settings):
    """Return a battle in which unit 0 is about to attack the passive unit 1 east of it."""
    settings = {"jitter": False, "regeneration": False, **settings}
    target = Unit(victim, X + distance, Y, passive=True)
    battle = Sandbox([Unit(attacker, X, Y)], [target], **settings)
    battle.attack(0, 1)
    return battle


def watch(battle, unit, loops):
    """Play and return the health and shield of a unit after loops 0, 1, ...: ``(loops + 1, 2)``."""
    seen = [(battle.health(unit), battle.shield(unit))]
    for _ in range(loops):
        battle.tick()
        seen.append((battle.health(unit), battle.shield(unit)))
    return np.array(seen)


def hit_loops(seen):
    """Return the loops in which a watched unit lost health or shield."""
    return (np.flatnonzero(np.diff(seen.sum(axis=1)) < 0) + 1).tolist()


def hits_until_death(attacker, victim, distance):
    """Return the (health, shield) lost to each hit of a duel that ends with the victim's death."""
    seen = watch(duel(attacker, victim, distance), 1, 1000)
    assert seen[-1, 0] == 0
    losses = -np.diff(seen, axis=0)
    return [tuple(loss) for loss in losses if loss.sum() > 0]


def within(count, trials, probability):
    """Return whether a binomial count lies within SIGMAS of its mean."""
    spread = np.sqrt(trials * probability * (1 - probability))
    return abs(count - trials * probability) < SIGMAS * spread


# --- 1-10: one against one -----------------------------------------------------------------------


def test_a_marine_kills_a_marine_with_8_shots_in_loop_99():
    seen = watch(duel("marine", "marine", 5), 1, 120)
    # Due at 1.8, 15.573, 29.346, 43.119, 56.892, 70.665, 84.438 and 98.211.
    assert hit_loops(seen) == [2, 16, 30, 44, 57, 71, 85, 99]
    assert seen[2, 0] == 39
    assert seen[98, 0] == 3
    assert seen[99, 0] == 0


def test_intervals_of_marine_shots_are_12_to_16_loops_as_the_random_delay_predicts():
    battle = duel("marine", "marine", 5, num_envs=COPIES, jitter=True)
    health = []
    for _ in range(120):
        health.append(battle.state.health[:, 1].copy())
        battle.tick()
    hits = np.diff(np.array(health), axis=0) < 0
    assert (hits.sum(axis=0) == 8).all()
    loops = (np.argwhere(hits.T)[:, 1] + 1).reshape(COPIES, 8)
    assert (loops[:, 0] == 2).all()
    intervals = np.diff(loops, axis=1)
    # Gaps between due times are uniform in [12.773, 15.773). From the second shot on, the fraction
    # of a due time is uniform too, so a gap g takes k loops with probability 1 - |k - g|.
    odds = {12: 0.0258 / 3, 13: 0.7012 / 3, 14: 1 / 3, 15: 0.9742 / 3, 16: 0.2988 / 3}
    assert set(np.unique(intervals)) == set(odds)
    later = intervals[:, 1:]
    for interval, probability in odds.items():
        assert within((later == interval).sum(), later.size, probability)
    assert loops[:, -1].min() >= 92
    assert loops[:, -1].max() <= 113
    assert loops[:, -1].mean() == pytest.approx(1.8 + 7 * 14.273 + 0.5, abs=0.3)


def test_a_marauder_kills_a_stalker_with_9_grenades_in_loop_199():
    seen = watch(duel("marauder", "stalker", 7.1875), 1, 210)
    assert hit_loops(seen) == [7 + 24 * shot for shot in range(9)]
    assert seen[7].tolist() == [80, 60]
    assert seen[7 + 4 * 24].tolist() == [61, 0]
    assert seen[198, 0] == 4
    assert seen[199, 0] == 0


def test_a_stalker_needs_10_shots_of_13_for_a_marauder():
    hits = hits_until_death("stalker", "marauder", 7)
    assert hits == [(13, 0)] * 9 + [(8, 0)]


def test_a_stalker_needs_17_shots_for_a_zealot():
    hits = hits_until_death("stalker", "zealot", 7)
    assert hits == [(0, 10)] * 5 + [(9, 0)] * 11 + [(1, 0)]


def test_a_stalker_needs_12_shots_for_a_stalker_and_hits_first_in_loop_11():
    hits = hits_until_death("stalker", "stalker", 7.25)
    assert hits == [(0, 14)] * 5 + [(3, 10)] + [(13, 0)] * 5 + [(12, 0)]
    assert hit_loops(watch(duel("stalker", "stalker", 7.25), 1, 20)) == [11]


def test_a_zealot_hits_a_marine_twice_per_swing_and_kills_it_in_loop_45():
    seen = watch(duel("zealot", "marine", 0.875), 1, 60)
    # Swings are due at 1, 20.199 and 39.398; the second hit lands 5 loops later.
    assert hit_loops(seen) == [1, 6, 21, 26, 40, 45]
    assert seen[45, 0] == 0


def test_a_zealot_kills_a_marine_in_loops_43_to_49():
    battle = duel("zealot", "marine", 0.875, num_envs=COPIES, jitter=True)
    deaths = np.zeros(COPIES, int)
    for loop in range(1, 61):
        battle.tick()
        deaths[(battle.state.health[:, 1] == 0) & (deaths == 0)] = loop
    # The third swing is due at 1 and two gaps of 18.199 to 21.199: in loops 38 to 44. Its second
    # hit lands 5 loops later.
    assert deaths.min() == 43
    assert deaths.max() == 49


def test_a_zealot_needs_21_hits_for_a_zealot():
    hits = hits_until_death("zealot", "zealot", 1.0)
    assert hits == [(0, 8)] * 6 + [(5, 2)] + [(7, 0)] * 13 + [(4, 0)]


def test_a_zergling_needs_35_hits_for_a_zealot():
    assert hits_until_death("zergling", "zealot", 0.9) == [(0, 5)] * 10 + [(4, 0)] * 25


def test_a_marine_needs_29_shots_for_a_zealot():
    hits = hits_until_death("marine", "zealot", 5)
    assert hits == [(0, 6)] * 8 + [(3, 2)] + [(5, 0)] * 19 + [(2, 0)]


def test_a_marine_needs_30_shots_for_a_stalker():
    hits = hits_until_death("marine", "stalker", 5)
    assert hits == [(0, 6)] * 13 + [(3, 2)] + [(5, 0)] * 15 + [(2, 0)]


def test_a_marine_needs_30_shots_of_5_for_a_medivac():
    assert hits_until_death("marine", "medivac", 5) == [(5, 0)] * 30


# --- 11: hydralisks ------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [1.2, 5.0])
def test_a_hydralisk_needs_14_hits_for_a_zealot_with_claws_or_spines(distance):
    hits = hits_until_death("hydralisk", "zealot", distance)
    assert hits == [(0, 12)] * 4 + [(9, 2)] + [(11, 0)] * 8 + [(3, 0)]


def test_a_hydralisk_uses_claws_only_within_half_a_cell():
    # Claws hit at once after a wind-up of 4.8 loops; spines leave after 3.33 and fly 2.5 per loop.
    claws = watch(duel("hydralisk", "zealot", 1.125 + 0.5), 1, 10)
    spines = watch(duel("hydralisk", "zealot", 1.125 + 0.51), 1, 10)
    assert hit_loops(claws) == [1 + 5]
    assert hit_loops(spines) == [1 + 4 + 1]
    far = watch(duel("hydralisk", "zealot", 1.125 + 5), 1, 10)
    assert hit_loops(far) == [1 + 4 + 3]


def test_a_zealot_needs_10_hits_for_a_hydralisk():
    assert hits_until_death("zealot", "hydralisk", 1.125) == [(8, 0)] * 10


# --- 13-16: the colossus -------------------------------------------------------------------------


def volley(*offsets):
    """Return a colossus about to fire at unit 1, with marines beside it at lateral offsets."""
    x = X + 7.375
    row = [Unit("marine", x, Y + offset, passive=True) for offset in offsets]
    battle = Sandbox([Unit("colossus", X, Y)], row, jitter=False)
    battle.attack(0, 1)
    return battle


def test_a_colossus_kills_a_zergling_with_one_volley():
    battle = duel("colossus", "zergling", 7.375, regeneration=True)
    battle.tick(14)
    assert battle.health(1) == 35
    battle.tick()
    assert battle.health(1) == 0


def test_a_volley_hits_five_marines_in_a_row_twice_and_the_second_kills_them():
    battle = volley(0, -1.5, -0.75, 0.75, 1.5)
    battle.tick(3 + 12)
    assert [battle.health(unit) for unit in range(1, 6)] == [5] * 5
    battle.tick(36)
    assert [battle.health(unit) for unit in range(1, 6)] == [0] * 5


def test_beams_hit_the_main_target_in_loop_15_and_its_neighbours_in_loops_8_to_13():
    offsets = (0, -1.5, -0.75, 0.75, 1.5)
    battle = volley(*offsets)
    assert watch(battle, 1, 14)[:, 0].tolist() == [45] * 15
    battle.tick()
    assert battle.health(1) == 5
    for unit in range(2, 6):
        loops = hit_loops(watch(volley(*offsets), unit, 20))
        assert len(loops) == 2
        assert loops[0] >= 8
        assert loops[1] <= 13


def test_beams_reach_a_marine_1_58_beside_the_target_and_miss_one_at_1_60():
    # The last point is 1.25 from the target; the beam's radius and half the marine's: 0.3375.
    battle = volley(0, 1.58, -1.60)
    battle.tick(15)
    assert battle.health(2) == 5
    assert battle.health(3) == 45


def test_an_idle_agents_colossus_fires_at_an_enemy_within_6_by_itself():
    # Centre distance 7.375 is 6 from edge to edge; it fires in loop 3, both beams land in loop 15.
    for distance, health in ((7.375, 5), (7.376, 45)):
        target = Unit("marine", X + distance, Y, passive=True)
        battle = Sandbox([Unit("colossus", X, Y)], [target], jitter=False)
        battle.tick(15)
        assert battle.health(1) == health
        assert battle.position(0) == (X, Y)


def test_an_idle_agents_colossus_does_not_chase_and_any_order_replaces_its_target():
    battle = Sandbox([Unit("colossus", X, Y)], [Unit("marine", X + 7, Y, passive=True)])
    battle.tick()
    assert battle.state.order[0, 0] == ORDER_ACQUIRED
    battle.move(1, X + 12, Y)
    battle.tick(20)
    assert battle.state.order[0, 0] == ORDER_IDLE
    assert battle.position(0) == (X, Y)
    battle = Sandbox([Unit("colossus", X, Y)], [Unit("marine", X + 7, Y, passive=True)])
    battle.tick()
    battle.move(0, X - 2, Y)
    battle.tick(20)
    assert battle.position(0) == (X - 2, Y)
    assert battle.health(1) == 45


def test_other_idle_agents_stay_passive_beside_an_enemy():
    for kind in ("stalker", "zealot", "marine", "hydralisk"):
        battle = Sandbox([Unit(kind, X, Y)], [Unit("marine", X + 1, Y, passive=True)])
        battle.tick(40)
        assert battle.health(1) == 45


def test_beams_die_with_the_colossus_but_scheduled_hits_still_land():
    x = X + 7.375
    row = [Unit("marine", x, Y, passive=True), Unit("marine", x, Y + 0.75, passive=True)]
    killer = Unit("marine", X + 4, Y + 4, passive=True)
    battle = Sandbox([Unit("colossus", X, Y, health=1, shield=0)], [*row, killer], jitter=False)
    battle.attack(0, 1)
    battle.tick(5)
    battle.attack(3, 0)  # kills in loop 7; in loop 4 the first beam has touched the neighbour
    battle.tick(20)
    assert battle.health(0) == 0
    assert battle.health(1) == 45
    assert battle.health(2) < 45


def test_a_neighbour_hit_by_a_beam_retaliates_against_the_colossus_that_fired():
    x = X + 7.375
    allies = [Unit("colossus", 2, 2), Unit("colossus", X, Y)]
    neighbour = Unit("stalker", x, Y + 1)
    target = Unit("marine", x, Y, passive=True)
    # Out of the stalker's scan range of 6: it reacts only to being hit.
    battle = Sandbox(allies, [target, neighbour], jitter=False)
    battle.state.order_target[:, 3] = -1
    battle.attack(1, 2)
    battle.tick(8)
    assert battle.state.order_target[0, 3] == 1


# --- 17, 18: banelings ---------------------------------------------------------------------------


def test_a_burst_hits_enemies_whose_hull_it_touches_and_no_friend():
    marines = [
        Unit("marine", X + 0.8, Y, passive=True),
        Unit("marine", X, Y + 2.575, passive=True),
        Unit("marine", X, Y - 2.58, passive=True),
    ]
    friend = Unit("zergling", X - 0.8, Y)
    battle = Sandbox([Unit("baneling", X, Y), friend], marines, jitter=False)
    battle.attack(0, 2)
    battle.tick()
    assert [battle.health(unit) for unit in range(5)] == [0, 35, 10, 10, 45]


def test_two_bursts_kill_a_marine_and_each_baneling_bursts_once():
    bombs = [Unit("baneling", X, Y + 0.4), Unit("baneling", X, Y - 0.4)]
    battle = Sandbox(bombs, [Unit("marine", X + 0.8, Y, passive=True)], jitter=False)
    battle.attack(0, 2)
    battle.tick(10)
    assert battle.health(2) == 10
    battle.attack(1, 2)
    battle.tick(10)
    assert battle.health(2) == 0


def test_a_burst_takes_20_from_a_stalkers_shield_and_35_from_a_zealots():
    bombs = [Unit("baneling", X, Y + 0.4), Unit("baneling", X, Y - 0.4)]
    targets = [
        Unit("stalker", X + 0.9, Y, passive=True),
        Unit("zealot", X + 1.5, Y + 1, passive=True),
    ]
    battle = Sandbox(bombs, targets, jitter=False, regeneration=False)
    battle.attack(0, 2)
    battle.tick()
    assert (battle.health(2), battle.shield(2)) == (80, 60)
    assert (battle.health(3), battle.shield(3)) == (100, 15)
    battle.attack(1, 2)
    battle.tick(4)
    assert (battle.health(2), battle.shield(2)) == (80, 40)
    assert (battle.health(3), battle.shield(3)) == (81, 0)


def test_a_zealot_that_kills_a_baneling_takes_its_death_burst():
    battle = duel("zealot", "baneling", 0.875)
    battle.tick(25)
    assert battle.health(1) == 30 - 3 * 8
    assert battle.shield(0) == 50
    battle.tick()
    assert battle.health(1) == 0
    assert battle.shield(0) == 15
    assert battle.health(0) == 100


# --- 19-21: medivacs -----------------------------------------------------------------------------


def hospital(*patients, num_attackers=0, **settings):
    """Return a battle in which medivac 0 heals unit 1; passive enemy marines attack unit 1."""
    attackers = [
        Unit("marine", X + 5, Y + 0.8 * n, passive=True) for n in range(max(num_attackers, 1))
    ]
    battle = Sandbox([Unit("medivac", X, Y, facing=(0, 1)), *patients], attackers, **settings)
    battle.heal(0, 1)
    for attacker in range(num_attackers):
        battle.attack(1 + len(patients) + attacker, 1)
    return battle


def test_a_medivac_heals_a_marine_from_5_to_45_in_72_loops_for_13_2_energy():
    battle = hospital(Unit("marine", X, Y + 2, health=5))
    battle.tick(71)
    assert battle.health(1) == pytest.approx(5 + 71 * 0.5625)
    battle.tick()
    assert battle.health(1) == 45
    gross = 40 * 0.33
    assert battle.value("energy", 0) == pytest.approx(50 - gross + 72 * 0.5625 / 16, abs=0.02)
    battle.tick()
    assert battle.state.order[0, 0] == ORDER_IDLE


def test_50_energy_heal_186_9_life_in_332_loops_and_then_the_beam_breaks():
    battle = hospital(Unit("marauder", X, Y + 2, health=1))
    healed, loops = 0.0, 0
    for loop in range(1, 401):
        battle.tick()
        gain = battle.health(1) - 1
        battle.state.health[:, 1] = ONE
        healed += gain
        loops = loop if gain > 0 else loops
    assert healed == pytest.approx(186.9, abs=0.5)
    assert loops in (332, 333)
    assert battle.state.order[0, 0] == ORDER_IDLE


def test_a_medivac_without_energy_heals_no_more_than_it_regains():
    battle = hospital(Unit("marauder", X, Y + 2, health=1))
    battle.state.energy[:, 0] = 0
    for _ in range(100):
        battle.heal(0, 1)
        battle.tick(8)
    # 800 loops regain 28.1 energy, which is 85.2 life.
    assert battle.health(1) - 1 <= 800 * 0.5625 / 16 / 0.33 + 0.1


def test_a_healed_marine_outlives_one_marine():
    battle = hospital(Unit("marine", X, Y + 2), num_attackers=1, num_envs=64)
    for _ in range(40):
        battle.tick(8)
        assert (battle.state.health[:, 1] >= (45 - 2 * 6) * ONE).all()
        battle.heal(0, 1)


def test_a_healed_marine_loses_4_life_per_second_to_two_marines():
    battle = hospital(Unit("marine", X, Y + 2, health=40), num_attackers=2, num_envs=500)
    battle.tick(9)  # between the first and the second pair of shots
    before = battle.state.health[:, 1].mean()
    battle.tick(74)  # five mean intervals of 14.773 loops
    lost = (before - battle.state.health[:, 1].mean()) / ONE
    assert lost == pytest.approx(5 * 2 * 6 - 74 * 0.5625, abs=0.5)
    assert lost / (74 / 16) == pytest.approx(4.0, abs=0.15)


# --- 22-24: approach and range -------------------------------------------------------------------


def test_a_zealot_crosses_8_025_cells_in_58_loops_under_three_marine_shots():
    marine = Unit("marine", X + 9, Y, passive=False)
    battle = Sandbox([Unit("zealot", X, Y)], [marine], jitter=False, regeneration=False)
    battle.attack(0, 1)
    arrival, shots, total = 0, [], 150.0
    for loop in range(1, 60):
        battle.tick()
        gap = X + 9 - battle.position(0)[0] - 0.875
        if gap <= 0.1 and not arrival:
            arrival = loop
        now = battle.health(0) + battle.shield(0)
        if now < total and loop <= 58:
            shots.append(loop)
        total = now
    assert arrival == 58
    assert len(shots) == 3
    assert shots[0] in (24, 25)
    assert np.diff(shots).tolist() == [14, 14]


@pytest.mark.parametrize(
    ("kind", "after_8_loops", "arrival"),
    [("marine", 1.125, 15), ("stalker", 1.4766, 11), ("baneling", 1.25, 13)],
)
def test_a_move_of_two_cells_takes_its_time_and_ends_on_the_point(kind, after_8_loops, arrival):
    battle = Sandbox([Unit(kind, X, Y)], [Unit("marine", 30, 30, passive=True)])
    battle.move(0, X + 2, Y)
    battle.tick(8)
    assert battle.position(0)[0] - X == pytest.approx(after_8_loops, abs=0.002)
    battle.tick(arrival - 9)
    assert battle.position(0)[0] < X + 2
    battle.tick()
    assert battle.position(0) == (X + 2, Y)
    battle.tick(10)
    assert battle.position(0) == (X + 2, Y)
    assert battle.state.order[0, 0] == ORDER_IDLE


def test_a_marine_sent_east_every_step_walks_1_125_cells_per_step():
    battle = Sandbox([Unit("marine", X, Y)], [Unit("marine", 30, 30, passive=True)])
    for step in range(1, 9):
        battle.move(0, battle.position(0)[0] + 2, Y)
        battle.tick(8)
        assert battle.position(0) == (X + 1.125 * step, Y)


def test_a_medivac_starts_slowly_and_keeps_its_speed_when_sent_east_again():
    battle = Sandbox([Unit("medivac", X, Y)], [Unit("marine", 30, 30, passive=True)])
    battle.move(0, X + 2, Y)
    battle.tick(8)
    # Acceleration 2.3125 / 256 per loop: between sums of 0..7 and of 1..8 of it.
    assert 0.25 <= battle.position(0)[0] - X <= 0.33
    battle.move(0, battle.position(0)[0] + 2, Y)
    battle.tick(8)
    assert 1.08 <= battle.position(0)[0] - X <= 1.24
    for _ in range(3):
        before = battle.position(0)[0]
        battle.move(0, before + 2, Y)
        battle.tick(8)
    assert battle.position(0)[0] - before == pytest.approx(8 * 2.75 / 16, abs=0.01)


def test_a_marine_fires_from_5_75_cells_and_walks_in_from_6():
    edge = duel("marine", "marine", 5.75)
    assert hit_loops(watch(edge, 1, 10)) == [2]
    assert edge.position(0) == (X, Y)
    beyond = duel("marine", "marine", 6)
    assert hit_loops(watch(beyond, 1, 10)) == [4]
    assert beyond.position(0)[0] == pytest.approx(X + 0.25, abs=0.001)


# --- Pursuit (mechanics 4.3) ---------------------------------------------------------------------


def chase(pursuer, fugitive, distance, **settings):
    """Return a battle in which unit 1 walks away, ``distance`` cells out of unit 0's range."""
    radius, reach = load_unit_types()[fugitive].radius, {"zergling": 0.1, "stalker": 6, "marine": 5}
    gap = load_unit_types()[pursuer].radius + reach[pursuer] + radius + distance
    battle = duel(pursuer, fugitive, gap, **settings)
    battle.move(1, 31, Y)
    return battle


@pytest.mark.parametrize(
    ("pursuer", "fugitive"), [("stalker", "zealot"), ("zergling", "hydralisk")]
)
def test_a_faster_pursuer_catches_up_with_a_walking_target_and_shoots(pursuer, fugitive):
    # 2.953125 - 2.25 cells per second are 0.04395 per loop: 23 to get in range, 2.67 of wind-up.
    battle = chase(pursuer, fugitive, 1, num_envs=64)
    battle.tick(26)
    assert (battle.state.cooldown[:, 0] == 0).all()
    battle.tick()
    assert (battle.state.cooldown[:, 0] > 0).all()


def test_a_pursuer_of_equal_speed_just_out_of_range_never_shoots():
    battle = chase("marine", "marine", 1 / 64, num_envs=64)
    battle.tick(100)
    assert (battle.state.cooldown[:, 0] == 0).all()
    gap = (battle.state.x[:, 1] - battle.state.x[:, 0]) / ONE - 5.75
    # One step more if the pursuer's first was cut short before the target had begun to walk.
    assert ((gap > 0) & (gap < 0.141)).all()


def test_a_pursuer_stops_at_the_edge_of_its_range_to_a_standing_target():
    battle = duel("stalker", "zealot", 9)
    battle.tick(40)
    assert battle.position(0)[0] == pytest.approx(X + 9 - 7.125, abs=0.001)


def test_a_medivac_catches_up_with_a_walking_marine_and_heals_it():
    patient = Unit("marine", X + 6.125, Y, health=5)  # one cell out of range
    battle = Sandbox([Unit("medivac", X, Y), patient], [Unit("marine", 8, 30, passive=True)])
    battle.heal(0, 1)
    battle.move(1, 31, Y)
    # It gains its top speed in loop 19 at sum(1..19) * 2.3125 / 256 = 1.72 cells, 0.95 behind the
    # marine's; the 1.95 missing cells take 62 loops more at 0.03125 per loop.
    battle.tick(79)
    assert battle.health(1) == 5
    battle.tick(5)
    assert battle.health(1) > 5


def test_a_medivac_continues_healing_while_it_follows_within_the_slop():
    patient = Unit("marine", X + 5, Y, health=5)
    medivac = Unit("medivac", X, Y, facing=(1, 0))
    battle = Sandbox([medivac, patient], [Unit("marine", 8, 30, passive=True)])
    battle.heal(0, 1)
    battle.tick()
    battle.state.x[:, 1] += ONE * 3 // 4  # 4.625 cells edge to edge: beyond 4, within 4 + 1
    battle.tick(20)
    assert battle.health(1) == pytest.approx(5 + 21 * 0.5625)
    assert battle.position(0)[0] == pytest.approx(X + 0.625, abs=0.01)


# --- Crowds and healers (mechanics 5.7, 12.4) ----------------------------------------------------


def test_ten_stalkers_in_a_clump_all_come_to_shoot_one_standing_target():
    # Two rows of five, a hull and a half apart; 49 hulls of 0.5 cells fit on the circle of range.
    clump = [
        Unit("stalker", X - 1.5 * row, Y + 1.5 * (n - 2)) for row in range(2) for n in range(5)
    ]
    target = Unit("marauder", X + 14, Y, health=100_000, passive=True)
    battle = Sandbox(clump, [target], num_envs=32, jitter=False, regeneration=False)
    for stalker in range(10):
        battle.attack(stalker, 10)
    shot = np.zeros((32, 10), bool)
    for _ in range(200):
        battle.tick()
        shot |= battle.state.cooldown[:, :10] > 0
    assert shot.all()


@pytest.mark.parametrize("kind", ["marine", "zealot", "stalker"])
def test_two_friends_that_meet_head_on_pass_each_other(kind):
    battle = Sandbox([Unit(kind, X, Y), Unit(kind, X + 6, Y)], [Unit("marine", 30, 30)], num_envs=8)
    battle.move(0, X + 6, Y)
    battle.move(1, X, Y)
    battle.tick(80)
    assert (battle.state.order[:, :2] == ORDER_IDLE).all()


def test_two_idle_enemy_medivacs_choose_two_patients():
    enemies = [
        *(Unit("medivac", X + side, Y) for side in (-1, 1)),
        Unit("marine", X - 1, Y + 2, health=5, passive=True),
        Unit("marine", X + 1, Y + 2, health=10, passive=True),
    ]
    battle = Sandbox([Unit("marine", 2, 2)], enemies, num_envs=32)
    battle.tick(40)
    assert (battle.state.health[:, 3:] > 25 * ONE).all()  # 40 loops heal 22.5


def test_two_agents_medivacs_with_one_patient_heal_it_once_per_loop():
    medivacs = [Unit("medivac", X + side, Y, facing=(0, 1)) for side in (-1, 1)]
    patient = Unit("marine", X, Y + 2, health=5)
    battle = Sandbox([*medivacs, patient], [Unit("marine", X, 30, passive=True)], num_envs=32)
    for medivac in (0, 1):
        battle.heal(medivac, 2)
    battle.tick()
    assert (battle.state.health[:, 2] == 5.5625 * ONE).all()
    battle.tick(31)
    assert (battle.state.health[:, 2] == (5 + 32 * 0.5625) * ONE).all()
    # 32 loops of healing cost 5.94 energy in all, and each medivac regains 1.125.
    spent = 2 * (50 + 32 * 0.5625 / 16) - battle.state.energy[:, :2].sum(axis=1) / ONE
    assert spent == pytest.approx(18 * 0.33, abs=0.05)


@pytest.mark.parametrize(("rule", "moved"), [("stay", 0.0), ("with_side", 1.2285)])
def test_enemy_medivacs_wait_or_follow_the_nearest_fighter_of_their_side(rule, moved):
    # A medivac gains 2.3125 / 256 cells per loop each loop: sum(1..16) of that are 1.2285 cells.
    # The kept speed is rounded down to 1/4096 per loop: at most sum(0..15) / 4096 = 0.03 are lost.
    enemies = [Unit("marine", X, Y, passive=True), Unit("medivac", X + 9, Y)]
    battle = Sandbox([Unit("marine", 2, Y)], enemies, trigger=True, enemy_medivacs=rule)
    battle.state.world[:, TRIGGER_PHASE] = 0
    battle.tick(16)
    assert X + 9 - battle.position(2)[0] == pytest.approx(moved, abs=0.03)


# --- 25: regeneration ----------------------------------------------------------------------------


def test_a_shield_waits_160_loops_and_regenerates_in_80():
    battle = Sandbox([Unit("stalker", X, Y)], [Unit("zealot", X + 6, Y, passive=True)])
    battle.attack(0, 1)
    loop = 0
    while battle.shield(1) == 50:
        battle.tick()
        loop += 1
    battle.stop(0)
    assert battle.shield(1) == 40
    seen = watch(battle, 1, 250)[:, 1]
    assert (seen[:161] == 40).all()
    assert seen[161:241].tolist() == [40 + 0.125 * n for n in range(1, 81)]
    assert (seen[240:] == 50).all()


def test_a_zergling_regains_a_life_every_58_5_loops_even_under_fire():
    zergling = Unit("zergling", X + 5, Y, health=20, passive=True)
    battle = Sandbox([Unit("marine", X, Y)], [zergling], jitter=False)
    battle.tick(585)
    assert battle.health(1) == pytest.approx(30, abs=0.05)
    battle.attack(0, 1)
    battle.tick(30)  # three shots
    assert battle.health(1) == pytest.approx(30 - 18 + 30 / 58.5, abs=0.05)


# --- 26: ties ------------------------------------------------------------------------------------


def test_if_two_dying_marines_fire_in_the_same_loop_each_survives_half_the_time():
    battle = Sandbox(
        [Unit("marine", X, Y, health=1)], [Unit("marine", X + 5, Y, health=1)], num_envs=COPIES
    )
    battle.attack(0, 1)
    battle.attack(1, 0)
    battle.tick(2)
    alive = battle.state.health > 0
    assert (alive.sum(axis=1) == 1).all()
    assert within(alive[:, 0].sum(), COPIES, 0.5)


def test_two_dying_stalkers_with_missiles_in_flight_both_die():
    units = [Unit("stalker", x, Y, health=1, shield=0) for x in (X, X + 7)]
    battle = Sandbox(units[:1], units[1:], num_envs=64)
    battle.attack(0, 1)
    battle.attack(1, 0)
    battle.tick(12)
    assert (battle.state.health == 0).all()


def test_a_stalker_that_dies_in_the_loop_in_which_it_would_fire_launches_no_missile():
    # Wind-up of 2.67 loops: the stalker fires in loop 4, if it lands before the marine does. The
    # marine's order, two loops later, makes it fire in loop 4 as well.
    stalker = Unit("stalker", X, Y, health=1, shield=0)
    battle = Sandbox([stalker], [Unit("marine", X + 5, Y, passive=True)], num_envs=COPIES)
    battle.attack(0, 1)
    battle.tick(2)
    battle.attack(1, 0)
    battle.tick()
    assert (battle.state.health > 0).all()
    battle.tick()
    assert (battle.state.health[:, 0] == 0).all()
    launched = battle.state.missile_target[:, 0] >= 0
    assert within(launched.sum(), COPIES, 0.5)
    battle.tick(10)
    assert ((battle.state.health[:, 1] == 35 * ONE) == launched).all()


# --- 27: the map's trigger -----------------------------------------------------------------------


def test_the_trigger_sends_an_idle_zealot_within_8_loops_straight_at_its_target():
    battle = Sandbox([Unit("marine", 8, Y)], [Unit("zealot", 24, Y)], num_envs=256, trigger=True)
    places = []
    for _ in range(30):
        places.append(battle.state.x[:, 1].copy())
        battle.tick()
    steps = -np.diff(np.array(places), axis=0)  # (loops, copies) westward
    assert (battle.state.y[:, 1] == Y * ONE).all()
    waited = (steps == 0).sum(axis=0)
    assert set(waited) == set(range(8))
    for copy, wait in enumerate(waited):
        assert (steps[wait:, copy] == 0.140625 * ONE).all()


def test_after_its_target_has_died_an_enemy_waits_at_most_8_loops_for_the_next_order():
    agents = [Unit("marine", 10, Y, health=1), Unit("marine", 28, Y)]
    battle = Sandbox(agents, [Unit("zealot", 11, Y)], num_envs=256, trigger=True)
    idle = np.zeros(256, int)
    for _ in range(40):
        battle.tick()
        dead = battle.state.health[:, 0] == 0
        idle += dead & (battle.state.order[:, 2] == ORDER_IDLE)
    assert (battle.state.health[:, 0] == 0).all()
    assert (battle.state.order_target[:, 2] == 1).all()
    assert set(idle) == set(range(1, 9))


def test_a_committed_enemy_keeps_its_target_when_others_attack_it():
    agents = [Unit("marine", 8, Y), Unit("stalker", 16, Y + 12)]
    battle = Sandbox(agents, [Unit("zealot", 16, Y, passive=False)], trigger=True)
    battle.tick(8)
    assert battle.state.order_target[0, 2] == 0
    battle.attack(1, 2)
    for _ in range(90):
        battle.tick()
        if battle.health(0) > 0:
            assert battle.state.order_target[0, 2] == 0
            assert battle.state.order[0, 2] == ORDER_ATTACK
    assert battle.shield(2) < 50


# --- 28-30: orders -------------------------------------------------------------------------------


def test_a_move_before_the_shot_leaves_cancels_it_and_costs_no_cooldown():
    battle = duel("stalker", "marine", 6)
    battle.tick(3)
    battle.move(0, X, Y + 2)
    battle.tick(20)
    assert battle.health(1) == 45
    assert battle.value("cooldown", 0) == 0


def test_a_move_after_a_zealots_first_hit_does_not_cancel_the_second():
    battle = duel("zealot", "marine", 0.875)
    battle.tick()
    battle.move(0, X - 2, Y)
    assert hit_loops(watch(battle, 1, 20)) == [5]  # loop 6
    assert battle.position(0)[0] < X - 1


def test_the_second_hit_of_a_zealot_that_has_died_still_lands():
    battle = duel("zealot", "marine", 0.875)
    battle.state.health[:, 0] = ONE
    battle.state.shield[:, 0] = 0
    battle.attack(1, 0)  # fires in loop 2
    battle.tick(5)
    assert battle.health(0) == 0
    assert battle.health(1) == 45 - 8
    battle.tick(30)
    assert battle.health(1) == 45 - 2 * 8


def test_a_passive_unit_under_fire_does_nothing_without_orders():
    battle = Sandbox([Unit("marine", X, Y, health=200)], [Unit("marine", X + 1, Y)])
    battle.attack(1, 0)
    battle.tick(160)
    assert battle.health(0) < 200
    assert battle.position(0) == (X, Y)
    assert battle.health(1) == 45


@pytest.mark.parametrize("kind", ["marauder", "zealot", "zergling", "baneling", "colossus"])
def test_ground_weapons_cannot_hurt_a_medivac(kind):
    battle = duel(kind, "medivac", 1.5)
    battle.tick(80)
    assert battle.health(1) == 150
    assert battle.health(0) > 0


@pytest.mark.parametrize("kind", ["marine", "stalker", "hydralisk"])
@pytest.mark.parametrize("victim", ["medivac", "colossus"])
def test_weapons_against_air_hurt_a_medivac_and_a_colossus(kind, victim):
    battle = duel(kind, victim, 5)
    before = battle.health(1) + battle.shield(1)
    battle.tick(40)
    assert battle.health(1) + battle.shield(1) < before


@pytest.mark.parametrize("kind", ["marauder", "zealot", "zergling", "colossus"])
def test_weapons_against_the_ground_hurt_a_colossus(kind):
    battle = duel(kind, "colossus", 2)
    battle.tick(60)
    assert battle.health(1) + battle.shield(1) < 350
