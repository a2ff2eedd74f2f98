"""Rewards and ends of battles against closed forms (interface 2.6)."""

import numpy as np
import pytest

from smacv2.battle import ORDER_ATTACK, OUTCOME_DRAWN, OUTCOME_LOST, OUTCOME_TIMEOUT, OUTCOME_WON
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.scenario import load_scenario, parse_scenario

STOP = 1
DUELS = {"terran": "marine", "protoss": "zealot", "zerg": "zergling"}


def arena(ally, enemy, num_allies=2, num_enemies=2, **options):
    """Return far-apart passive teams."""
    allies = [Unit(ally, 3 + n, 3) for n in range(num_allies)]
    enemies = [Unit(enemy, 28 + n, 28, passive=True) for n in range(num_enemies)]
    settings = {"regeneration": False, **options}
    return Sandbox(allies, enemies, **settings)


def step(box):
    """Play a step in which all agents stop; return the reward."""
    agents = box.backend.layout.num_agents
    box.backend.step(np.full((len(box.state.world), agents), STOP, np.int32))
    return float(box.backend.outputs.reward[0])


def hurt(box, unit, health=0.0, shield=0.0):
    box.state.health[:, unit] -= int(health * ONE)
    box.state.shield[:, unit] -= int(shield * ONE)


def kill(box, *units):
    for unit in units:
        box.state.health[:, unit] = 0


# --- Closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["marine", "zealot", "zergling"])
def test_killing_all_enemies_without_regeneration_returns_the_scale_rate(kind):
    box = arena(kind, kind)
    rewards = []
    hurt(box, 2, health=7)
    rewards.append(step(box))
    hurt(box, 3, health=20.25)
    rewards.append(step(box))
    kill(box, 3)
    rewards.append(step(box))
    rewards.append(step(box))
    kill(box, 2)
    rewards.append(step(box))
    assert box.state.outcome[0] == OUTCOME_WON
    life = {"marine": 45, "zealot": 150, "zergling": 35}[kind]
    full = 2 * life + 2 * 10 + 200
    points = [7, 20.25, life - 20.25 + 10, 0, life - 7 + 10 + 200]
    assert rewards == pytest.approx([20 * value / full for value in points], rel=1e-6)
    assert sum(rewards) == pytest.approx(20, rel=1e-6)


def test_the_scale_rate_can_be_changed_and_scaling_switched_off():
    for options, full in (({"reward_scale_rate": 7.0}, 7), ({"reward_scale": False}, 310)):
        box = arena("marine", "marine", **options)
        kill(box, 2, 3)
        assert step(box) == pytest.approx(full)


def test_a_regenerated_shield_is_subtracted_but_no_reward_is_below_zero():
    box = arena("zealot", "zealot", regeneration=True)
    scale = 20 / (2 * 150 + 220)
    box.state.damaged_at[:] = -1000
    hurt(box, 2, shield=30)
    # 8 loops regain 8 * 0.125 = 1 point of shield.
    assert step(box) == pytest.approx((30 - 1) * scale)
    assert step(box) == 0
    hurt(box, 3, health=5)
    assert step(box) == pytest.approx((5 - 1) * scale)


def test_regenerated_life_of_a_zergling_is_subtracted():
    box = arena("zergling", "zergling", regeneration=True)
    hurt(box, 2, health=10)
    regained = 8 * 70 / 4096  # 0.2734 per second in steps of 1/4096
    assert step(box) == pytest.approx((10 - regained) * 20 / 290, rel=1e-6)
    assert step(box) == 0


def test_healed_life_of_an_enemy_is_subtracted():
    allies = [Unit("marine", 3, 3)]
    medivac = Unit("medivac", 28, 26, facing=(0, 1))
    enemies = [Unit("marine", 28, 28, passive=True), medivac]
    box = Sandbox(allies, enemies)
    hurt(box, 1, health=20)
    first = step(box)
    healed = 8 * 0.5625
    assert first == pytest.approx((20 - healed) * 20 / (45 + 150 + 20 + 200))
    assert step(box) == 0


def test_own_losses_count_half_when_rewards_may_be_negative():
    box = arena("marine", "marine", reward_only_positive=False, reward_scale=False)
    hurt(box, 0, health=12)
    hurt(box, 2, health=8)
    assert step(box) == pytest.approx(8 - 6)
    kill(box, 0)
    assert step(box) == pytest.approx(-0.5 * (33 + 10))
    box.state.health[:, 2] += ONE  # the enemy regains a point
    assert step(box) == pytest.approx(-1)


def test_a_lost_battle_adds_the_defeat_value():
    box = arena("marine", "marine", reward_defeat=-50.0, reward_scale=False)
    kill(box, 0, 1)
    assert step(box) == pytest.approx(-50)
    assert box.state.outcome[0] == OUTCOME_LOST


def test_the_sparse_reward_is_one_minus_one_or_zero():
    for losers, outcome, expected in (
        ((2, 3), OUTCOME_WON, 1),
        ((0, 1), OUTCOME_LOST, -1),
        ((0, 1, 2, 3), OUTCOME_DRAWN, 0),
    ):
        box = arena("zealot", "zealot", reward_sparse=True)
        hurt(box, 2, health=10)
        assert step(box) == 0
        kill(box, *losers)
        assert step(box) == expected
        assert box.state.outcome[0] == outcome


# --- Ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("race", "outcome"),
    [("terran", OUTCOME_LOST), ("protoss", OUTCOME_DRAWN), ("zerg", OUTCOME_DRAWN)],
)
def test_a_double_wipe_out_is_a_draw_but_a_loss_with_medivacs_in_the_scenario(race, outcome):
    if race == "terran":
        units = [Unit("marine", 3, 3), Unit("medivac", 4, 3)]
        box = Sandbox(units, [Unit("marine", 28, 28, passive=True)])
        kill(box, 0, 1, 2)
    else:
        box = arena(DUELS[race], DUELS[race])
        kill(box, 0, 1, 2, 3)
    step(box)
    assert box.state.outcome[0] == outcome
    assert box.backend.outputs.terminated[0]
    assert not box.backend.outputs.truncated[0]


def test_a_side_with_only_medivacs_left_has_lost():
    teams = (
        [Unit("marine", 3, 3), Unit("medivac", 4, 3)],
        [Unit("marine", 28, 28, passive=True), Unit("medivac", 28, 27)],
    )
    for dead, outcome in ((0, OUTCOME_LOST), (2, OUTCOME_WON)):
        box = Sandbox(*teams)
        kill(box, dead)
        step(box)
        assert box.state.outcome[0] == outcome


def test_a_battle_is_truncated_at_the_limit_unless_it_has_just_been_decided():
    box = arena("marine", "marine")
    box.state.step[:] = 198
    step(box)
    assert not box.backend.outputs.truncated[0]
    step(box)
    assert box.state.outcome[0] == OUTCOME_TIMEOUT
    assert box.backend.outputs.truncated[0]
    assert not box.backend.outputs.terminated[0]

    box = arena("marine", "marine")
    box.state.step[:] = 199
    kill(box, 2, 3)
    assert step(box) > 0
    assert box.backend.outputs.terminated[0]
    assert not box.backend.outputs.truncated[0]


def test_every_won_battle_returns_the_scale_rate_if_nothing_regenerates():
    # Terrans without medivacs regain nothing; agents that cannot die win every battle. They hunt
    # the first living enemy: an order out of the mask's reach is dropped, so the old one continues.
    source = load_scenario("terran_5_vs_5").source
    source = {**source, "team": {**source["team"], "weights": [0.5, 0.5, 0.0]}}
    scenario = parse_scenario(source, name="duels", file="duels")
    env = SMACv2VectorEnv(scenario, 32, num_threads=1, action_mask=False)
    returns = np.zeros(32)
    won = np.zeros(32, bool)
    _, info = env.reset(seed=0)
    state = env.backend.state
    state.health[:, :5] = 100_000 * ONE
    for _ in range(150):
        target = (state.health[:, 5:] > 0).argmax(-1)[:, None]
        state.order[:, :5] = ORDER_ATTACK
        state.order_target[:, :5] = 5 + target
        _, rewards, _, _, info = env.step(np.repeat(6 + target, 5, axis=1))
        returns += np.where(won, 0, rewards)
        won |= info["battle_won"]
    assert won.all()
    assert returns == pytest.approx(20, rel=1e-5)
