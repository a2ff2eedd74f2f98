"""Commands: quick help, and bad input answered in one line with exit status 2."""

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from toy import TOY

from baselines import cli
from baselines.algorithms import ALGORITHMS
from baselines.cli import TOOLS, main, training_config
from baselines.errors import UsageError
from baselines.experience.battles import make_env


def said_by(capsys, *arguments):
    """Return exit status and stderr of a command that must fail at once."""
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *ALGORITHMS, *TOOLS])
def test_help_exits_zero_without_importing_torch(command_environment, command):
    code = (
        "import sys\nfrom baselines.cli import main\n"
        "try:\n    status = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    status = stop.code\n"
        "assert not status, status\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"],
        env=command_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage: baselines" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mapo"], ["unknown command 'mapo'", "Did you mean 'mappo'?", "evaluate"]),
        (["mappo", "--num-env", "3"], ["--num-env", "Perhaps you meant: --num-envs INT"]),
        (["mappo", "--num-envs", "many"], ["--num-envs", "many"]),
        (["mappo", "--num-envs", "0"], ["--num-envs 0: it must be at least 1"]),
        (["mappo", "--num-envs", 2_000_000_000], ["--num-envs 2000000000", "at most 65536"]),
        (["mappo", "--hidden-size", 10**9], ["--hidden-size 1000000000", "at most 65536"]),
        (["mappo", "--network", "lstm"], ["lstm", "'gru', 'mlp'"]),
        (["mappo", "--seed", 2**32], ["--seed 4294967296", "between 0 and 2**32 - 1"]),
        (["mappo", "--gamma", "nan"], ["--gamma nan", "at least 0.0 and at most 1.0"]),
        (["mappo", "--num-minibatches", "999"], ["--num-minibatches 999", "at most 128"]),
        (["mappo", "--env", "smacv2/teran_5_vs_5"], ["Did you mean 'smacv2/terran_5_vs_5"]),
        (["mappo", "--env", "nowhere:x/y"], ["cannot import 'nowhere'"]),
        (["mappo", "--env", "CartPole-v1"], ["CartPole-v1 is not a multi-agent battle"]),
        (["mappo", "--env", TOY, "--env-option", "num_agents"], ["key=value"]),
        (["mappo", "--env", TOY, "--env-option", "num_envs=3"], ["num_envs=3", "use --num-envs"]),
        (["mappo", "--env", TOY, "--env-option", "agents=3"], ["agents"]),
        (["mappo", "--env", TOY, "--env-option", "num_agents=0"], ["at least one agent"]),
        (["mappo", "--env", TOY, "--device", "gpu"], ["--device gpu"]),
        (["mappo", "--env", TOY, "--device", "meta"], ["--device meta: not usable here"]),
        (["mappo", "--resume", "nowhere"], ["--resume nowhere: not a run folder"]),
        (["evaluate"], ["Run folder"]),
        (["evaluate", "nowhere"], ["nowhere: not a run folder"]),
        (["evaluate", "nowhere", "--episodes", "0"], ["--episodes 0: it must be at least 1"]),
        (["quickstart", "--seed", "-1"], ["--seed -1"]),
    ],
)
def test_bad_input_gets_one_line_and_status_two(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, said = said_by(capsys, *arguments)
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith("baselines: ")
    for word in words:
        assert word in said
    assert not list(tmp_path.iterdir())


def test_command_fails_with_status_two_from_the_shell(baselines_command):
    done = baselines_command("mappo", "--num-envs", "-3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == "baselines: mappo: --num-envs -3: it must be at least 1 and at most 65536\n"
    )


@pytest.mark.parametrize("failure", [RuntimeError, ImportError, MemoryError, OverflowError])
def test_an_environment_that_cannot_be_made_is_one_line(monkeypatch, failure):
    def fail(*_, **__):
        raise failure("no such driver\nand much more")

    monkeypatch.setattr(gymnasium, "make_vec", fail)
    with pytest.raises(UsageError, match=r"--env-option device=cuda: no such driver$"):
        make_env(TOY, 2, ["device=cuda"])


def test_ctrl_c_exits_130_without_a_traceback(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "imported", lambda _: interrupt)
    assert main(["mappo"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_stops_reading_is_no_error(command_environment):
    done = subprocess.run(
        ["bash", "-c", f"{{ sleep 0.1; {sys.executable} -m baselines --help; echo $? >&2; }} | :"],
        env=command_environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "0\n"


def test_version_names_package_and_engine(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("smacv2-suite ")


EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "ppo_experiments.py"


def test_the_commands_of_the_stored_experiments_are_still_understood():
    spec = importlib.util.spec_from_file_location("ppo_experiments", EXPERIMENTS)
    experiments = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(experiments)
    for cells in experiments.CELLS.values():
        for arguments in cells.values():
            name, *flags = arguments.split()
            assert f"--seed {training_config(name, flags).seed} " in arguments


def test_a_learner_without_networks_to_hold_refuses_plasticity_flags(capsys, monkeypatch):
    plain = dataclasses.replace(ALGORITHMS["mappo"], networks=())
    monkeypatch.setitem(ALGORITHMS, "mappo", plain)
    for flags in (["--probe", "1"], ["--pfo-coef", "1"], ["--intervention", "redo"]):
        assert said_by(capsys, "mappo", *flags) == (
            2,
            "baselines: mappo has neither a probe nor interventions\n",
        )
