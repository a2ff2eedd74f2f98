"""The life that all multi-agent learners share: they stop, are killed, resume, train together."""

import json
import math
import re
import signal
from pathlib import Path

import pytest
import torch
from small_runs import (
    SMALL,
    STEPS,
    assert_same_run,
    config,
    cut,
    flags_of,
    last_checkpoint,
    metrics,
    replay_of,
    resume,
    start_command,
    train,
    wait_for_checkpoint,
    wait_for_metrics,
)

from baselines.algorithms import ALGORITHMS
from baselines.cli import main
from baselines.errors import TrainingError
from baselines.runs import checkpoints, loop
from baselines.runs.folder import RunGroup
from baselines.runs.loop import DIVERGED, over_seeds

LEARNERS = sorted(SMALL)


@pytest.fixture(scope="module", params=LEARNERS)
def command(request):
    return request.param


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    """Return the folder of an uninterrupted run with all its checkpoints."""
    made = config(command, tmp_path_factory.mktemp("runs"), keep_checkpoints=99)
    (path,), stopped = train(command, made)
    assert stopped is None
    assert last_checkpoint(path).global_step >= STEPS
    return path


@pytest.fixture(scope="module")
def group(command, tmp_path_factory):
    """Return the run folders of seeds 1 and 2, trained at once."""
    made = config(command, tmp_path_factory.mktemp("runs"), seeds=2, keep_checkpoints=99)
    runs, stopped = train(command, made)
    assert stopped is None
    return runs


@pytest.fixture(scope="module")
def second(command, tmp_path_factory):
    """Return the folder of a lone run of seed 2."""
    (path,), _ = train(command, config(command, tmp_path_factory.mktemp("runs"), seed=2))
    return path


# --- Resuming ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    command, finished, second, tmp_path
):
    (again,), _ = train(command, config(command, tmp_path))
    assert_same_run(finished, again)
    assert metrics(second) != metrics(again)


@pytest.mark.parametrize("keep", [1, 3])
def test_a_resumed_run_equals_the_uninterrupted_run(command, finished, tmp_path, keep):
    path = cut(tmp_path / "run", finished, keep=keep)
    resume(command, path)
    assert_same_run(finished, path)


def test_a_killed_run_goes_on_as_if_never_stopped(command, finished, command_environment, tmp_path):
    process = start_command(command_environment, command, tmp_path)
    path = wait_for_checkpoint(tmp_path, 2)
    process.kill()
    process.communicate()
    resume(command, path)
    assert_same_run(finished, path)


def test_sigterm_saves_and_the_run_goes_on_as_if_never_stopped(
    command, finished, command_environment, tmp_path
):
    slow = {"env_option": ("pause=0.003",)}
    process = start_command(command_environment, command, tmp_path, **slow)
    path = wait_for_checkpoint(tmp_path, 1)
    wait_for_metrics(path)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"SIGTERM: saved; continue with\n  baselines {command} --resume {path}" in output
    assert 0 < last_checkpoint(path).global_step == metrics(path)[-1]["global_step"] < STEPS
    resume(command, path)
    assert_same_run(finished, path)


# --- Several seeds -------------------------------------------------------------------------------


def test_seeds_that_train_at_once_equal_their_lone_runs(finished, second, group):
    """Also when one is done before the other: it waits, and does not train on."""
    assert len(metrics(finished)) != len(metrics(second))
    assert [path.name for path in group] == ["seed1", "seed2"]
    assert_same_run(finished, group[0])
    assert_same_run(second, group[1])


def test_a_resumed_group_equals_the_lone_runs(command, finished, second, group, tmp_path):
    """Each seed from its own last checkpoint, as a kill between two saves leaves them."""
    first = cut(tmp_path / "group" / "seed1", group[0], keep=2)
    other = cut(tmp_path / "group" / "seed2", group[1], keep=3)
    resume(command, tmp_path / "group")
    assert_same_run(finished, first)
    assert_same_run(second, other)


def test_a_group_goes_on_when_one_seed_is_done(command, finished, second, group, tmp_path):
    first = cut(tmp_path / "group" / "seed1", group[0], keep=99)
    (first / "metrics.jsonl").write_bytes((group[0] / "metrics.jsonl").read_bytes())
    other = cut(tmp_path / "group" / "seed2", group[1], keep=2)
    resume(command, tmp_path / "group")
    assert_same_run(finished, first)
    assert_same_run(second, other)


def test_a_seed_of_a_group_can_go_on_alone(command, second, group, tmp_path):
    path = cut(tmp_path / "seed2", group[1], keep=2)
    resume(command, path)
    assert_same_run(second, path)


def test_progress_shows_means_over_seeds():
    first, second = {"a": 1.0, "b": 5.0}, {"a": 3.0}
    assert over_seeds([first, second]) == {"a": 2.0}
    assert over_seeds([None, second]) == second


def test_progress_shows_the_speed_of_all_seeds_together(tmp_path, capsys):
    """Seeds take turns, so together they are never quicker than the quickest by itself."""
    runs, _ = train("mappo", config("mappo", tmp_path, seeds=2))
    lines = [line for line in capsys.readouterr().out.splitlines() if "steps/s" in line]
    shown = [float(re.search(r"steps/s ([\d,]+)", line)[1].replace(",", "")) for line in lines]
    texts = [(run / "metrics.jsonl").read_text().splitlines() for run in runs]
    rows = zip(*([json.loads(line) for line in text] for text in texts), strict=False)
    for speed, row in zip(shown, rows, strict=False):
        assert speed <= max(line["charts/SPS"] for line in row) + 1


# --- Losses that are NaN or diverge --------------------------------------------------------------


@pytest.mark.parametrize(("poison", "what"), [("nan", "nan"), ("1e12", r"-?[\d.]+e\+\d+")])
def test_a_broken_loss_stops_the_run_with_one_line(command, tmp_path, capsys, poison, what):
    plain = {"value_norm": False} if command == "mappo" else {}  # normalised, nothing explodes
    options = (f"poison={poison}",)
    made = config(command, tmp_path, seed=7, env_option=options, checkpoint_steps=60, **plain)
    assert main([command, *flags_of(made)]) == 1
    said = capsys.readouterr().err
    found = re.fullmatch(
        rf"baselines: seed 7: (losses/\w+) is ({what}) in iteration (\d+);"
        r" the last good checkpoint is (\S+)\n",
        said,
    )
    assert found, said
    name, value, iteration, path = found.groups()
    assert not abs(float(value)) < DIVERGED
    good = checkpoints.load(Path(path))
    assert all(weight.isfinite().all() for weight in good.weights.values())
    (run,) = tmp_path.iterdir()
    assert checkpoints.step_folders(run / "checkpoints")[-1] == Path(path)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == int(iteration) > good.trainer["iteration"] > 0
    assert lines[-1][name] is None or not abs(lines[-1][name]) < DIVERGED
    for line in lines[:-1]:
        losses = [value for name, value in line.items() if name.startswith("losses/")]
        assert all(math.isfinite(value) and abs(value) < DIVERGED for value in losses)


def test_the_line_names_the_seed_that_broke(tmp_path, capsys):
    made = config("qmix", tmp_path, seed=4, seeds=2, env_option=("poison=nan",), num_envs=1)
    assert main(["qmix", *flags_of(made)]) == 1
    said = capsys.readouterr().err
    found = re.findall(
        r"seed (\d): losses/\S+ is nan [^;]*; the last good checkpoint is (\S+)", said
    )
    assert said.startswith("baselines: seed ")
    assert said.count("\n") == 1
    for seed, path in found:
        assert f"/seed{seed}/checkpoints/step_" in path


def test_no_checkpoint_of_qmix_holds_a_reward_that_is_no_number(tmp_path, capsys):
    """Its replay would give it again and again, long after; here it is sampled rarely."""
    options = {"env_option": ("poison=nan",), "buffer_episodes": 200, "updates_per_rollout": 1}
    made = config("qmix", tmp_path, seed=4, checkpoint_steps=1, keep_checkpoints=99, **options)
    assert main(["qmix", *flags_of(made)]) == 1
    assert "losses/rewards is nan" in capsys.readouterr().err
    (run,) = tmp_path.iterdir()
    folders = checkpoints.step_folders(run / "checkpoints")
    replays = [replay_of(run, checkpoints.load(folder)) for folder in folders]
    assert any(replays)
    assert all(found["rewards"].isfinite().all() for found in replays if found)


def test_seeds_beside_a_broken_one_are_saved_and_can_go_on(tmp_path):
    made = config("qmix", tmp_path, seed=4, seeds=2)
    group = ALGORITHMS["qmix"].load("make_group")(made)
    runs = RunGroup.start("qmix", made, group.environment)
    loop.save_group(group, runs)
    group.iterate()
    with pytest.raises(TrainingError, match=r"^seed 4: losses/td_loss is nan in iteration 1"):
        loop.refuse(group, runs, {0: "losses/td_loss is nan"})
    runs.close()
    broken, healthy = (checkpoints.step_folders(path / "checkpoints") for path in runs.paths)
    assert checkpoints.load(broken[-1]).trainer["iteration"] == 0
    assert checkpoints.load(healthy[-1]).trainer["iteration"] == 1


def test_weights_that_are_no_numbers_are_not_saved(command, tmp_path):
    made = config(command, tmp_path)
    group = ALGORITHMS[command].load("make_group")(made)
    runs = RunGroup.start(command, made, group.environment)
    loop.save_group(group, runs)
    state = group.learners[0].network.state_dict()
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name].view(-1)[0] = torch.nan
    with pytest.raises(TrainingError, match=rf"seed 1: weight {name} is not finite in iteration 0"):
        loop.save_group(group, runs)
    runs.close()
    good = last_checkpoint(runs.path)
    assert all(weight.isfinite().all() for weight in good.weights.values())
