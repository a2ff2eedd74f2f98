"""The promises that Gymnasium and its users rely on."""

import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import (
    NormalizeObservation,
    RecordEpisodeStatistics,
    TransformObservation,
)

import smacv2
from smacv2.battle import UNIT_FIELDS, WORLD_FIELDS, BattleState
from smacv2.battle import __dict__ as battle_names
from smacv2.gymnasium_env import IllegalAction, ResetNeeded, SMACv2Env, SMACv2VectorEnv
from smacv2.options import OptionError
from smacv2.registration import environment_id
from smacv2.scenario import ScenarioError, UnknownScenario, maps_folder, scenario_names
from tests.smacv2.golden import legal_actions

ID = "smacv2/terran_5_vs_5-v0"
STOP = 1


def make(num_envs=4, scenario="terran_5_vs_5", **options):
    return SMACv2VectorEnv(scenario, num_envs, num_threads=1, **options)


# --- Registration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", scenario_names())
def test_every_id_passes_gymnasiums_checker_and_its_spec_is_json(scenario):
    identifier = environment_id(scenario)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The checker's only complaint: it samples actions without looking at the mask.
        env = gymnasium.make(identifier)
        check_env(env.unwrapped, skip_render_check=True)
    text = gymnasium.spec(identifier).to_json()
    assert gymnasium.envs.registration.EnvSpec.from_json(text).id == identifier
    env.close()


def test_make_vec_makes_our_vector_class_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = gymnasium.make_vec(ID, num_envs=64)
    assert type(envs.unwrapped) is SMACv2VectorEnv
    obs, info = envs.reset(seed=0)
    assert obs.shape == (64, 5, 82)
    assert info["action_mask"].shape == (64, 5, 11)
    assert info["state"].shape == (64, 120)
    assert envs.observation_space.contains(obs)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_own_vector_modes_play_the_same_battles(mode):
    ours = make(3)
    theirs = gymnasium.make_vec(ID, num_envs=3, vectorization_mode=mode)
    rng = np.random.default_rng(0)
    obs, info = ours.reset(seed=5)
    their_obs, their_info = theirs.reset(seed=5)
    for _ in range(45):
        assert np.array_equal(obs, their_obs)
        assert np.array_equal(info["action_mask"], their_info["action_mask"])
        assert np.array_equal(info["state"], their_info["state"])
        actions = legal_actions(info["action_mask"], rng)
        obs, *flags, info = ours.step(actions)
        their_obs, *their_flags, their_info = theirs.step(actions)
        for flag, their_flag in zip(flags, their_flags, strict=True):
            assert np.allclose(flag, their_flag)
    theirs.close()


def test_importing_the_package_loads_neither_torch_nor_numba():
    code = "import sys, smacv2; print(*({'torch', 'numba', 'pysc2'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


# --- Autoreset and resets -------------------------------------------------------------------------


def test_the_step_after_an_end_ignores_its_actions_and_resets_with_reward_zero():
    env = make(2, max_episode_steps=3)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    _, info = env.reset(seed=0)
    for turn in range(1, 4):
        _, _, terminated, truncated, info = env.step(np.full((2, 5), STOP))
        assert (truncated | terminated).all() == (turn == 3)
    tick = env.backend.state.step.copy()
    assert (tick == 3).all()
    obs, reward, terminated, truncated, info = env.step(np.full((2, 5), 10**6))
    assert (reward == 0).all()
    assert not (terminated | truncated).any()
    assert (env.backend.state.step == 0).all()
    assert (env.backend.state.episode == 1).all()
    assert (info["illegal_actions"] == 0).all()
    assert info["alive"].all()

    fresh = make(2, max_episode_steps=3)
    fresh.reset(seed=0)
    expected, _ = fresh.reset()
    assert np.array_equal(obs, expected)


def test_a_reset_mask_resets_the_chosen_battles_only():
    env = make(4)
    _, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        obs, *_, info = env.step(legal_actions(info["action_mask"], rng))
    before = env.backend.state.units.copy()
    mask = np.array([True, False, True, False])
    new_obs, new_info = env.reset(options={"reset_mask": mask})
    assert np.array_equal(new_obs[~mask], obs[~mask])
    assert np.array_equal(new_info["state"][~mask], info["state"][~mask])
    assert np.array_equal(env.backend.state.units[~mask], before[~mask])
    assert env.backend.state.step.tolist() == [0, 5, 0, 5]
    assert env.backend.state.episode.tolist() == [1, 0, 1, 0]
    first, _ = make(4).reset(seed=0)
    again, _ = env.reset(seed=0, options={"reset_mask": mask})
    assert np.array_equal(again[mask], first[mask])
    assert np.array_equal(again[~mask], obs[~mask])


def test_seeds_may_be_a_sequence():
    env = make(3)
    listed, _ = env.reset(seed=[9, 4, 9])
    assert np.array_equal(listed[0], listed[2])
    lone, _ = make(1).reset(seed=4)
    assert np.array_equal(listed[1], lone[0])


def test_the_single_environment_is_the_vector_environment_without_its_first_axis():
    env, vector = SMACv2Env("zerg_5_vs_5"), make(1, "zerg_5_vs_5")
    rng = np.random.default_rng(0)
    obs, info = env.reset(seed=2)
    row, rows = vector.reset(seed=2)
    for _ in range(60):
        assert np.array_equal(obs, row[0])
        assert set(info) == {name for name in rows if not name.startswith("_")}
        assert isinstance(info["battle_won"], bool)
        actions = legal_actions(info["action_mask"], rng)
        obs, reward, terminated, truncated, info = env.step(actions)
        row, rewards, *_, rows = vector.step(actions[None])
        assert isinstance(reward, float)
        assert reward == rewards[0]
        if terminated or truncated:
            break
    assert terminated
    with pytest.raises(ResetNeeded, match="over"):
        env.step(actions)


# --- Wrappers -------------------------------------------------------------------------------------


def test_episode_statistics_count_returns_and_lengths():
    env = RecordEpisodeStatistics(make(4, max_episode_steps=6))
    env.reset(seed=0)
    total = np.zeros(4)
    for _ in range(6):
        _, reward, _, truncated, info = env.step(np.full((4, 5), STOP))
        total += reward
    assert truncated.all()
    assert info["episode"]["l"].tolist() == [6] * 4
    assert info["episode"]["r"] == pytest.approx(total)


def test_observations_can_be_normalized_and_transformed():
    normalized = NormalizeObservation(make(4))
    obs, _ = normalized.reset(seed=0)
    for _ in range(10):
        obs, *_ = normalized.step(np.full((4, 5), STOP))
    assert obs.shape == (4, 5, 82)
    assert np.isfinite(obs).all()
    base = make(4)
    doubled = TransformObservation(base, lambda obs: obs * 2)
    obs, _ = doubled.reset(seed=0)
    assert np.array_equal(obs, base.buffers["obs"] * 2)


# --- Illegal actions ------------------------------------------------------------------------------


def test_illegal_actions_become_stop_or_no_op_and_are_counted():
    env, reference = make(1), make(1)
    for each in (env, reference):
        each.reset(seed=0)
        each.backend.state.health[:, 4] = 0
        each.backend.state.radius[:, 4] = -(1 << 20)
        each.backend.driver.show()
    *_, info = env.step(np.array([[0, -1, 99, STOP, STOP]]))
    *_, expected = reference.step(np.array([[STOP, STOP, STOP, STOP, 0]]))
    assert info["illegal_actions"].tolist() == [4]
    assert expected["illegal_actions"].tolist() == [0]
    assert np.array_equal(env.buffers["obs"], reference.buffers["obs"])
    assert np.array_equal(env.buffers["state"], reference.buffers["state"])
    *_, info = env.step(np.array([[STOP, STOP, STOP, STOP, 0]]))
    assert info["illegal_actions"].tolist() == [0]


def test_strict_refuses_an_illegal_action_and_plays_nothing():
    env = make(2, strict=True)
    env.reset(seed=0)
    before = env.checkpoint()
    actions = np.full((2, 5), STOP)
    actions[1, 3] = 0
    with pytest.raises(IllegalAction, match=r"battle 1, agent 3: action 0 is illegal; allowed: 1"):
        env.step(actions)
    for name, array in env.checkpoint().items():
        assert np.array_equal(array, before[name])
    actions[1, 3] = 2**40
    with pytest.raises(IllegalAction, match="1099511627776"):
        env.step(actions)
    env.step(np.full((2, 5), STOP))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_any_integer_dtype_is_an_action(dtype):
    env = make(2)
    _, info = env.reset(seed=0)
    *_, info = env.step(np.full((2, 5), STOP, dtype))
    assert info["illegal_actions"].tolist() == [0, 0]


def test_action_masks_are_flat_bools_for_sb3():
    env = make(2)
    _, info = env.reset(seed=0)
    masks = env.action_masks()
    assert masks.dtype == bool
    assert np.array_equal(masks, info["action_mask"].reshape(2, -1) != 0)
    single = SMACv2Env("terran_5_vs_5")
    single.reset(seed=0)
    assert np.array_equal(single.action_masks(), masks[0])


# --- Checkpoints and buffers ----------------------------------------------------------------------


def test_a_restored_checkpoint_continues_bit_for_bit_in_another_environment():
    env = make(3, "protoss_10_vs_11")
    rng = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    for _ in range(20):
        *_, info = env.step(legal_actions(info["action_mask"], rng))
    saved = env.checkpoint()
    other = make(3, "protoss_10_vs_11")
    other.restore(saved)
    other_obs, other_info = other.last()
    assert np.array_equal(other_info["action_mask"], info["action_mask"])
    for _ in range(60):
        actions = legal_actions(info["action_mask"], rng)
        obs, reward, *_, info = env.step(actions)
        other_obs, other_reward, *_, other_info = other.step(actions)
        assert np.array_equal(obs, other_obs)
        assert np.array_equal(reward, other_reward)
        assert np.array_equal(info["state"], other_info["state"])
    with pytest.raises(ValueError, match=r"checkpoint: units must have shape .* not None"):
        other.restore({"game": saved["game"]})


def test_buffers_share_their_memory_with_torch_and_steps_overwrite_them():
    torch = pytest.importorskip("torch")
    env = make(2, copy=False)
    obs, info = env.reset(seed=0)
    tensors = {name: torch.from_dlpack(array) for name, array in env.buffers.items()}
    assert obs is env.buffers["obs"]
    assert info["state"] is env.buffers["state"]
    for _ in range(3):
        env.step(np.full((2, 5), STOP))
        for name, array in env.buffers.items():
            assert np.array_equal(tensors[name].numpy(), array)
    assert tensors["obs"].data_ptr() == env.buffers["obs"].ctypes.data


def test_copies_are_not_overwritten():
    env = make(2)
    obs, info = env.reset(seed=0)
    kept = obs.copy(), info["state"].copy(), info["action_mask"].copy()
    for _ in range(5):
        env.step(np.full((2, 5), STOP))
    for array, copy in zip((obs, info["state"], info["action_mask"]), kept, strict=True):
        assert np.array_equal(array, copy)


# --- Mistakes -------------------------------------------------------------------------------------


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert text
    return text


@pytest.mark.parametrize(
    "actions",
    [np.zeros((2, 4), int), np.zeros(5, int), np.zeros((2, 5)), np.zeros((2, 5), bool), None],
)
def test_actions_of_a_wrong_shape_or_dtype_are_refused_in_one_line(actions):
    env = make(2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must be integers of shape \(2, 5\)") as error:
        env.step(actions)
    one_line(error)


@pytest.mark.parametrize("seed", [-1, 2**63, [1], [1, 2, 3], [1.5, 2], "ab", 1.5, [1, -2], []])
def test_wrong_seeds_are_refused_in_one_line(seed):
    env = make(2)
    with pytest.raises(ValueError, match="seed") as error:
        env.reset(seed=seed)
    one_line(error)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reset_maks": None}, 'did you mean "reset_mask"'),
        ({"reset_mask": np.ones(3, bool)}, r"bool of shape \(2,\)"),
        ({"reset_mask": np.ones(2, int)}, r"bool of shape \(2,\)"),
    ],
)
def test_wrong_reset_options_are_refused_in_one_line(options, expected):
    with pytest.raises(ValueError, match=expected) as error:
        make(2).reset(options=options)
    one_line(error)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"conic_fow": True}, 'did you mean "conic_fov"'),
        ({"reward_win": "much"}, "reward_win"),
        ({"rules": "fixd"}, 'did you mean "fixed"'),
        ({"device": "tpu"}, "cpu, cuda"),
        ({"backend": "sc3"}, "engine"),
        ({"render_mode": "human"}, "render_mode"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, expected):
    with pytest.raises((ValueError, OptionError), match=expected) as error:
        SMACv2VectorEnv("terran_5_vs_5", **settings)
    one_line(error)


def test_an_unknown_scenario_names_the_nearest_one():
    with pytest.raises(UnknownScenario, match='did you mean "terran_5_vs_5"'):
        SMACv2VectorEnv("terran_5v5")
    with pytest.raises(ScenarioError, match="no such file"):
        SMACv2VectorEnv("nowhere.toml")


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(ResetNeeded, match="reset"):
        make(2).step(np.zeros((2, 5), int))


# --- The state's names ----------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [UNIT_FIELDS, WORLD_FIELDS])
def test_every_documented_field_has_a_constant_of_its_index(fields):
    for index, (name, description) in enumerate(fields.items()):
        assert battle_names[name.upper()] == index
        assert description


def test_every_field_is_a_writable_view_of_its_block():
    state = BattleState.empty(3, 5, 6)
    for name in UNIT_FIELDS:
        assert getattr(state, name).shape == (3, 11)
        assert np.shares_memory(getattr(state, name), state.units)
    for name in WORLD_FIELDS:
        assert getattr(state, name).shape == (3,)
        assert np.shares_memory(getattr(state, name), state.world)
    with pytest.raises(AttributeError, match="UNIT_FIELDS"):
        _ = state.mana


def test_a_checkpoint_of_another_game_is_refused():
    terran = SMACv2VectorEnv("terran_5_vs_5", num_envs=2)
    terran.reset(seed=0)
    for other in (
        SMACv2VectorEnv("zerg_5_vs_5", num_envs=2),
        SMACv2VectorEnv("terran_5_vs_5", num_envs=2, reward_win=100.0),
    ):
        with pytest.raises(ValueError, match="belongs to another scenario"):
            other.restore(terran.checkpoint())


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_envs", 2.0), ("num_envs", True), ("max_episode_steps", "3"), ("num_threads", 0)],
)
def test_a_wrong_count_is_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        SMACv2VectorEnv("terran_5_vs_5", **{name: value})


def test_a_file_may_not_take_the_id_of_another_scenario(tmp_path):
    folder = Path(maps_folder()) / "scenarios"
    own = tmp_path / "terran_5_vs_5.toml"
    own.write_text((folder / "zerg_5_vs_5.toml").read_text())
    with pytest.raises(ScenarioError, match="belongs to terran_5_vs_5 already"):
        smacv2.register_scenario(own)
    renamed = own.rename(tmp_path / "mine.toml")
    assert smacv2.register_scenario(renamed) == smacv2.register_scenario(renamed)
    assert gymnasium.make("smacv2/mine-v0").unwrapped.scenario.race == "zerg"
