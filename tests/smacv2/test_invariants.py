"""Properties of every battle, whatever the seed and the actions; and the starts of battles."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smacv2.battle import SPOTTER
from smacv2.engine.fixed import ONE
from smacv2.engine.sandbox import Sandbox, Unit
from smacv2.gymnasium_env import SMACv2VectorEnv
from smacv2.scenario import load_scenario, load_unit_types, parse_scenario
from tests.smacv2.golden import legal_actions

SEEDS = st.integers(0, 2**40)
SCENARIOS = st.sampled_from(
    [f"{race}_{size}" for race in ("terran", "protoss", "zerg") for size in ("5_vs_5", "10_vs_11")]
    + ["terran_5_vs_5_conic", "zerg_6_vs_5_epo_05", "protoss_20_vs_23"]
)
KINDS = list(load_unit_types().values())
FULL = {
    name: np.array([getattr(kind, f"{name}_max") for kind in KINDS])
    for name in ("health", "shield", "energy")
}
RADIUS = np.array([kind.radius for kind in KINDS])
COLLISION = np.array([kind.collision_radius for kind in KINDS])
LAYERS = [set(kind.layers) for kind in KINDS]


def check_bounds(state):
    """Assert that every living unit is on the map and has sensible numbers."""
    alive = state.health > 0
    kind = state.unit_type
    x, y = state.x / ONE, state.y / ONE
    margin = COLLISION[kind]
    for position in (x, y):
        assert (~alive | ((position >= margin) & (position <= 32 - margin))).all()
    for name, full in FULL.items():
        value = getattr(state, name) / ONE
        assert (value >= 0).all()
        assert (value <= full[kind]).all()
    facing = np.hypot(state.face_x, state.face_y) / ONE
    assert (abs(facing - 1) < 0.02)[alive].all()
    assert (state.cooldown >= 0).all()


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(scenario=SCENARIOS, seed=SEEDS)
def test_masked_random_play_is_legal_and_keeps_every_number_in_bounds(scenario, seed):
    env = SMACv2VectorEnv(scenario, 4, num_threads=1)
    rng = np.random.default_rng(seed)
    obs, info = env.reset(seed=seed)
    dead = np.zeros_like(env.backend.state.health, bool)
    over = np.zeros(4, bool)
    for _ in range(60):
        obs, reward, terminated, truncated, info = env.step(legal_actions(info["action_mask"], rng))
        state = env.backend.state
        check_bounds(state)
        assert (info["illegal_actions"] == 0).all()
        assert (info["action_mask"].sum(-1) > 0).all()
        now_dead = state.health == 0
        dead[over] = False
        assert (now_dead | ~dead).all()
        dead = now_dead
        over = terminated | truncated
        assert np.isfinite(obs).all()
        assert np.isfinite(info["state"]).all()
        assert env.observation_space.contains(obs)
        assert ((reward >= 0) & (reward <= 20)).all()
        assert np.array_equal(info["dead_allies"], now_dead[:, : env.num_agents].sum(1))


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(scenario=SCENARIOS, seed=SEEDS, low=st.integers(-(2**40), 0), high=st.integers(1, 2**40))
def test_unmasked_play_never_crashes_and_counts_what_was_illegal(scenario, seed, low, high):
    env = SMACv2VectorEnv(scenario, 2, num_threads=1)
    rng = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    shape = (2, env.num_agents)
    over = np.zeros(2, bool)
    for turn in range(40):
        wide = rng.integers(low, high, shape)
        actions = wide if turn % 2 else rng.integers(0, env.num_actions, shape)
        inside = (actions >= 0) & (actions < env.num_actions)
        chosen = np.where(inside, actions, 0)
        taken = np.take_along_axis(info["action_mask"], chosen[..., None], -1)[..., 0] != 0
        illegal = (~(inside & taken)).sum(1)
        _, _, terminated, truncated, info = env.step(actions)
        assert np.array_equal(info["illegal_actions"], np.where(over, 0, illegal))
        over = terminated | truncated
        check_bounds(env.backend.state)


# --- Fairness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["marine marine marauder", "zealot stalker zealot"])
def test_mirrored_teams_win_equally_often(kinds):
    copies, kinds = 2000, kinds.split()
    west = [Unit(kind, 11, 14 + 2 * n, passive=False) for n, kind in enumerate(kinds)]
    east = [Unit(kind, 21, 14 + 2 * n, passive=False) for n, kind in enumerate(kinds)]
    battle = Sandbox(west, east, num_envs=copies)
    state = battle.state
    everyone = np.arange(6)
    for _ in range(150):
        for unit in range(6):
            idle = (state.order[:, unit] == 0) & (state.health[:, unit] > 0)
            foes = everyone[3:] if unit < 3 else everyone[:3]
            away = (state.x[:, foes] - state.x[:, [unit]]).astype(float) ** 2
            away += (state.y[:, foes] - state.y[:, [unit]]).astype(float) ** 2
            away[state.health[:, foes] == 0] = np.inf
            nearest = foes[away.argmin(1)]
            free = idle & np.isfinite(away.min(1))
            state.order[free, unit] = 2
            state.order_target[free, unit] = nearest[free]
        battle.tick(8)
    alive = state.health > 0
    wins, losses = alive[:, :3].any(1), alive[:, 3:].any(1)
    assert not (wins & losses).any()
    decided = (wins | losses).sum()
    assert decided > 0.9 * copies
    assert abs(wins.sum() - decided / 2) < 5 * np.sqrt(decided) / 2


# --- Starts ---------------------------------------------------------------------------------------


def starts(scenario, num_envs, **options):
    """Return the state right after a reset of many battles."""
    env = SMACv2VectorEnv(scenario, num_envs, num_threads=1, **options)
    env.reset(seed=0)
    return env.backend.state


def close(count, trials, probability):
    return abs(count - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("scenario", ["terran_20_vs_23", "protoss_20_vs_23", "zerg_20_vs_23"])
def test_no_unit_starts_on_top_of_another(scenario):
    state = starts(scenario, 64)
    x, y, kind = state.x / ONE, state.y / ONE, state.unit_type
    for env in range(64):
        for i in range(1, 43):
            apart = np.hypot(x[env, :i] - x[env, i], y[env, :i] - y[env, i])
            reach = RADIUS[kind[env, :i]] + RADIUS[kind[env, i]]
            layers = LAYERS[kind[env, i]]
            shared = np.array([bool(LAYERS[other] & layers) for other in kind[env, :i]])
            # One game loop has passed: half a relaxing step, or a tick of walking.
            assert (~shared | (apart >= reach - 0.2)).all()


@pytest.mark.parametrize("race", ["terran", "protoss", "zerg"])
def test_unit_types_are_drawn_with_their_weights_and_enemies_copy_the_allies(race):
    copies = 2000
    state = starts(f"{race}_10_vs_10", copies)
    team = load_scenario(f"{race}_10_vs_10").team
    kinds = load_unit_types()
    for name, weight in zip(team.unit_types, team.weights, strict=True):
        count = (state.unit_type[:, :10] == kinds[name].index).sum()
        assert close(count, copies * 10, weight)
    allies, enemies = np.sort(state.unit_type[:, :10]), np.sort(state.unit_type[:, 10:])
    assert np.array_equal(allies, enemies)


def test_a_team_never_consists_of_exceptions_only():
    # With these weights 59% of the draws of two would be medivacs only.
    source = load_scenario("terran_5_vs_5").source
    weights = [0.13, 0.1, 0.77]
    source = {
        **source, "num_agents": 2, "num_enemies": 2, "team": {**source["team"], "weights": weights}
    }  # fmt: skip
    state = starts(parse_scenario(source, name="pair", file="pair"), 2000)
    medivac = load_unit_types()["medivac"].index
    both = (state.unit_type[:, :2] == medivac).all(1)
    assert not both.any()
    mixed = (state.unit_type[:, :2] == medivac).any(1).sum()
    assert close(mixed, 2000, 2 * 0.77 * 0.23 / (1 - 0.77**2))


@pytest.mark.parametrize(
    ("race", "others", "never"),
    [
        ("terran", ("marine", "marauder"), "medivac"),
        ("zerg", ("zergling", "hydralisk"), "baneling"),
    ],
)
def test_the_eleventh_enemy_is_either_common_type_equally_often(race, others, never):
    state = starts(f"{race}_10_vs_11", 2000)
    kinds = load_unit_types()
    last = state.unit_type[:, 20]
    assert (last != kinds[never].index).all()
    for name in others:
        assert close((last == kinds[name].index).sum(), 2000, 0.5)


def test_all_multisets_of_types_are_equally_likely():
    source = load_scenario("zerg_5_vs_5").source
    team = {"kind": "all_teams", "unit_types": source["team"]["unit_types"]}
    source = {**source, "num_agents": 3, "num_enemies": 3, "team": team}
    state = starts(parse_scenario(source, name="all", file="all"), 3000)
    _, counts = np.unique(np.sort(state.unit_type[:, :3]), axis=0, return_counts=True)
    assert len(counts) == 10  # 3 types, 3 units: C(5, 2)
    assert all(close(count, 3000, 0.1) for count in counts)


def positions_of(kind, num_agents=5, num_enemies=5, num_envs=500):
    source = load_scenario("terran_5_vs_5").source
    source = {
        **source,
        "num_agents": num_agents,
        "num_enemies": num_enemies,
        "start_positions": {"kind": kind},
        "team": {**source["team"], "weights": [1.0, 0.0, 0.0]},
    }
    state = starts(parse_scenario(source, name=kind, file=kind), num_envs)
    return state.x / ONE, state.y / ONE


def test_reflected_enemies_start_opposite_to_the_allies():
    x, y = positions_of("reflect_position")
    allies = np.stack([x[:, :5], y[:, :5]], -1)
    enemies = np.stack([32 - x[:, 5:], y[:, 5:]], -1)
    # Each ally has a mirrored enemy, up to what resolving overlaps and the map's edge shift.
    gap = np.hypot(*(allies[:, :, None] - enemies[:, None]).transpose(3, 0, 1, 2)).min(2)
    assert np.median(gap) < 0.01
    assert (gap < 0.2).mean() > 0.9
    assert (x[:, :5] < 15 + 1).all()
    assert (x[:, 5:] > 16 - 1).all()
    assert abs(x[:, :5].mean() - 7.5) < 5 * 15 / np.sqrt(12 * 2500)
    assert abs(y[:, :5].mean() - 16) < 5 * 32 / np.sqrt(12 * 2500)


def test_surrounded_allies_start_in_the_centre_and_enemies_in_groups_on_diagonals():
    x, y = positions_of("surrounded", num_agents=3, num_enemies=8)
    assert (np.hypot(x[:, :3] - 16, y[:, :3] - 16) < 1.5).all()
    east, north = x[:, 3:] - 16, y[:, 3:] - 16
    off = abs(abs(east) - abs(north)) / np.sqrt(2)
    assert (off < 2.2).all()  # up to eight marines around one point
    assert np.median(off) < 0.6
    assert (np.hypot(east, north) > 2 * np.sqrt(2) - 2.2).all()
    quadrant = 2 * (north > 0) + (east > 0)
    used = np.array([len(set(row)) for row in quadrant])
    assert set(used) == {1, 2, 3, 4}
    # One group with odds 1/4, or everyone in one of g groups: 1/4 * sum of g * (1 / g)**8.
    alone = 0.25 * sum(g * (1 / g) ** 8 for g in (1, 2, 3, 4))
    assert close((used == 1).sum(), 500, alone)


def test_half_of_the_battles_reflect_and_half_surround():
    state = starts("terran_5_vs_5", 2000)
    x, y = state.x[:, :5] / ONE, state.y[:, :5] / ONE
    centred = (np.hypot(x - 16, y - 16) < 3).all(1)
    assert close(centred.sum(), 2000, 0.5)


def test_agents_are_numbered_by_type_then_x_then_y():
    state = starts("protoss_10_vs_10", 200)
    order = np.lexsort((state.y[:, :10], state.x[:, :10], state.unit_type[:, :10]))
    # The first loop may have moved overlapping friends by a relaxing step; types are exact.
    assert (np.diff(state.unit_type[:, :10]) >= 0).all()
    assert (order == np.arange(10)).mean() > 0.95


def test_episodes_and_seeds_differ():
    env = SMACv2VectorEnv("zerg_10_vs_10", 200, num_threads=1)
    env.reset(seed=0)
    first = env.backend.state.x.copy()
    assert len({row.tobytes() for row in first}) == 200
    env.reset()
    assert not (env.backend.state.x == first).all(1).any()
    env.reset(seed=1)
    assert np.array_equal(env.backend.state.x[:-1], first[1:])
    assert (env.backend.state.units[:, SPOTTER] == -1).all()
