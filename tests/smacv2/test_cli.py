"""The command `smacv2`: its output, and one line with exit status 2 for bad input."""

import json
import subprocess
import sys

import pytest

from smacv2 import scenario
from smacv2.cli import COMMANDS, main

SPEED_KEYS = [
    "scenario",
    "num_envs",
    "threads",
    "device",
    "env_steps_per_second",
    "agent_steps_per_second",
    "compile_seconds",
    "stages",
    "peak_memory_mb",
]
PLAY_KEYS = [
    "scenario",
    "policy",
    "seed",
    "num_envs",
    "episodes",
    "wins",
    "draws",
    "timeouts",
    "win_rate",
    "win_rate_interval_95",
    "episodic_return",
    "episodic_length",
]


def run(*arguments):
    command = [sys.executable, "-m", "smacv2", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def printed_json(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- Help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_every_option_and_exits_zero(capsys, command):
    assert main([*command.split(), "--help"]) == 0
    assert f"usage: smacv2 {command}".strip() in capsys.readouterr().out


def test_help_loads_neither_compiler_nor_environment():
    code = (
        "import sys; from smacv2.cli import main; main(['speed', '--help'])\n"
        "heavy = {'numba', 'torch', 'smacv2.gymnasium_env'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_command_shows_the_commands_and_exits_two(capsys):
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_the_module_runs_as_a_command():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("smacv2-suite ")


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("plya", ['unknown command "plya"', 'did you mean "play"?']),
        ("play", ["--scenario", "required"]),
        ("play --scenario terran_5v5", ['"terran_5v5"', 'did you mean "terran_5_vs_5"?']),
        ("play --scenario nowhere.toml", ["nowhere.toml: no such file"]),
        ("play --scenaro zerg_5_vs_5", ["unknown option --scenaro", 'mean "--scenario"?']),
        ("play --scenario zerg_5_vs_5 --policy nearst", ["nearst", 'did you mean "nearest"?']),
        ("play --scenario zerg_5_vs_5 --episodes 0", ["--episodes", "from 1", "'0'"]),
        ("play --scenario zerg_5_vs_5 --seed -1", ["--seed"]),
        ("play --scenario zerg_5_vs_5 --seed", ["--seed", "expected one argument"]),
        ("speed --num-envs many", ["--num-envs", "'many'"]),
        ("speed --num-envs 1.5", ["--num-envs", "whole number", "'1.5'"]),
        ("speed --num-envs 1048577", ["--num-envs", "to 1048576", "'1048577'"]),
        ("speed --threads 0", ["--threads", "from 1", "'0'"]),
        ("speed --threads 1025", ["--threads", "to 1024", "'1025'"]),
        ("speed --seconds nan", ["--seconds", "above 0", "'nan'"]),
        ("speed --device cudda", ["--device", 'did you mean "cuda"?']),
        ("list terran", ["unknown argument terran"]),
    ],
)
def test_bad_input_is_one_line_and_status_two(capsys, arguments, words):
    assert main(arguments.split()) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("smacv2: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


def test_a_mistake_in_a_scenario_file_names_file_and_key(capsys, tmp_path):
    source = (scenario.maps_folder() / "scenarios" / "zerg_5_vs_5.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(source.replace("num_agents", "num_agent"))
    assert main(["play", "--scenario", str(path)]) == 2
    assert f"{path}: num_agent is not a key" in capsys.readouterr().err


def test_bad_input_prints_no_traceback():
    done = run("play", "--scenario", "zrg_5_vs_5")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_not_an_error():
    command = f"{sys.executable} -m smacv2 list --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[", "")


# --- Commands ------------------------------------------------------------------------------------


def test_list_shows_every_scenario_with_its_sizes(capsys):
    rows = printed_json(capsys, "list")
    assert [row["scenario"] for row in rows] == scenario.scenario_names()
    row = next(row for row in rows if row["scenario"] == "terran_10_vs_11")
    sizes = {name: row[name] for name in ("allies", "enemies", "obs", "state", "actions")}
    assert sizes == {"allies": 10, "enemies": 11, "obs": 170, "state": 306, "actions": 17}
    assert row["id"] == "smacv2/terran_10_vs_11-v0"


def test_list_prints_a_line_per_scenario(capsys):
    assert main(["list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["scenario", "allies", "enemies"]
    assert [line.split()[0] for line in lines] == scenario.scenario_names()


def test_play_prints_counts_rates_and_means(capsys):
    result = printed_json(
        capsys, *"play --scenario zerg_5_vs_5 --policy nearest --episodes 7".split()
    )
    assert list(result) == PLAY_KEYS
    assert result["episodes"] == 7
    assert result["win_rate"] == result["wins"] / 7
    low, high = result["win_rate_interval_95"]
    assert low <= result["win_rate"] <= high
    assert result["episodic_length"] >= 1


def test_play_repeats_itself_for_a_seed_and_changes_with_it(capsys):
    arguments = "play --scenario zerg_5_vs_5 --episodes 6 --seed".split()
    first, again, other = (printed_json(capsys, *arguments, seed) for seed in ("1", "1", "2"))
    assert first == again
    assert first["episodic_return"] != other["episodic_return"]


def test_play_takes_a_scenario_file(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    source = (scenario.maps_folder() / "scenarios" / "zerg_5_vs_5.toml").read_text()
    path.write_text(source.replace("episode_limit = 200", "episode_limit = 2"))
    result = printed_json(capsys, "play", "--scenario", str(path), "--episodes", "3")
    assert (result["scenario"], result["timeouts"]) == ("mine", 3)
    assert result["episodic_length"] == 2


SPEED = "speed --scenario zerg_5_vs_5 --num-envs 4 --threads 1 --seconds 0.2".split()


def test_speed_prints_rates_stages_and_memory(capsys, monkeypatch):
    monkeypatch.setattr("smacv2.speed._stages", lambda *_: {"simulate": 2.0, "observe": 1.0})
    result = printed_json(capsys, *SPEED)
    assert list(result) == SPEED_KEYS
    assert (result["num_envs"], result["threads"], result["device"]) == (4, 1, "cpu")
    rates = result["env_steps_per_second"], result["agent_steps_per_second"]
    assert rates[1] == pytest.approx(5 * rates[0], rel=1e-3)
    assert result["stages"] == {"simulate": 2.0, "observe": 1.0}
    assert result["peak_memory_mb"] > 1
    assert main(SPEED) == 0
    assert "env steps/s" in capsys.readouterr().out


def test_a_missing_gpu_is_bad_input(capsys, monkeypatch):
    def measure(*_, **__):
        raise RuntimeError("device='cuda' needs an NVIDIA GPU")

    monkeypatch.setattr("smacv2.speed.measure", measure)
    assert main(["speed", "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("smacv2: speed: --device cuda: device='cuda' needs")


@pytest.mark.slow  # the stages are compiled separately: half a minute the first time
def test_speed_measures_its_stages(capsys):
    stages = printed_json(capsys, *SPEED)["stages"]
    assert set(stages) == {"simulate", "observe"}
    assert 0 < stages["observe"] < 10 * stages["simulate"]


# --- Doctor --------------------------------------------------------------------------------------


def test_doctor_checks_everything_that_can_be_wrong(capsys):
    main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    names = {finding["name"] for finding in report["findings"]}
    assert names >= {"python", "numpy", "numba", "gymnasium", "torch"}
    assert names >= {"cpu threads", "cuda driver", "torch cuda", "cuda-core", "compile cache"}
    assert names >= {"SC2PATH", "protobuf", "pysc2", "pys2clientprotocol"}


def test_doctor_imports_neither_torch_nor_protobuf():
    code = (
        "import sys; from smacv2.cli import main; main(['doctor'])\n"
        "assert not {'torch', 'google.protobuf'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ("cuda: str | None = '12.8'", "12.8"),
        ("cuda: Optional[str] = None", None),
    ],
)
def test_doctor_reads_the_cuda_version_of_pytorch_without_importing_it(
    tmp_path, monkeypatch, line, version
):
    from smacv2 import doctor

    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError")
    (tmp_path / "torch" / "version.py").write_text(f"debug = False\n{line}\nhip = None\n")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.torch_cuda() == version


def test_everything_wrong_has_a_cure_and_gives_status_one(capsys, monkeypatch):
    from smacv2 import doctor

    there = {"pygame": "2.6", "pygame-ce": "2.5", "enum34": "1.1", "SMACv2": "1.0.0"}
    monkeypatch.setattr(doctor, "installed", lambda name: there.get(name))
    monkeypatch.setenv("SC2PATH", "/nowhere")
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    wrong = {f["name"]: f["cure"] for f in report["findings"] if f["status"] == "wrong"}
    assert not report["healthy"]
    assert wrong.keys() >= {"pygame", "enum34", "upstream SMACv2", "numpy", "SC2PATH"}
    assert all(wrong.values())


def test_a_package_older_than_required_is_wrong(monkeypatch):
    from smacv2 import doctor

    monkeypatch.setattr(doctor, "installed", lambda name: "1.9.3")
    findings = {finding.name: finding for finding in doctor.check_packages()}
    if "numpy" not in findings:
        pytest.skip("runs from a checkout that is not installed (make install)")
    assert findings["numpy"].status == doctor.WRONG
    assert findings["numpy"].cure == 'pip install "numpy>=2.0"'
    assert findings["gymnasium"].status == doctor.OK
