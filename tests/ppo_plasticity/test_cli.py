"""The command `ppo-plasticity`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ppo_plasticity import cli
from ppo_plasticity.interventions import INTERVENTIONS

FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

def number():
    return 3

def empty():
    return nn.Sequential(nn.ReLU())
"""


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return arguments for a folder with two checkpoints of an actor."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory_of_networks.py").write_text(FACTORY)
    (tmp_path / "run").mkdir()
    torch.manual_seed(0)
    for step in (1, 2):
        state = {f"actor.{name}": value for name, value in network().state_dict().items()}
        torch.save(state, tmp_path / "run" / f"step_{step}.pt")
    frames = np.random.default_rng(0).integers(0, 255, (64, 4), np.uint8)
    np.save(tmp_path / "obs.npy", frames)
    yield {
        "folder": "run",
        "--network": "factory_of_networks:make",
        "--observations": "obs.npy",
        "--prefix": "actor.",
        "--scale": "255",
        "--minibatch": "16",
    }
    sys.modules.pop("factory_of_networks", None)


def capacity(arguments, *more):
    flags = [part for item in arguments.items() if item[0] != "folder" for part in item]
    return cli.main(["capacity", arguments["folder"], *flags, *more])


def refused(capsys, status):
    """Return the one line that a refused command prints."""
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_toy_command_prints_the_table_and_draws(tmp_path, capsys):
    assert cli.main(["toy", "--figure", str(tmp_path / "toy.png")]) == 0
    printed = capsys.readouterr().out
    assert "(1.042, 1.108)  (1.068, 1.173)  (1.103, 1.253)" in printed
    assert (tmp_path / "toy.png").stat().st_size > 0


def test_the_toy_command_prints_json(capsys):
    assert cli.main(["toy", "--json", "--figure", ""]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["alpha"] for row in printed["two_states"]] == [3, -2, -1]
    assert printed["ranks"][-1]["above"] == 0


def test_without_matplotlib_the_table_is_printed_with_a_hint(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["toy"]) == 0
    captured = capsys.readouterr()
    assert "(1.103, 1.253)" in captured.out
    assert captured.err == "no figure: pip install 'smacv2-suite[plots]'\n"


@pytest.mark.parametrize("path", ["missing/toy.png", "toy.nonsense"])
def test_a_figure_that_cannot_be_written_is_refused(tmp_path, capsys, path):
    assert cli.main(["toy", "--figure", str(tmp_path / path)]) == 2
    assert "--figure" in capsys.readouterr().err


def test_capacity_prints_a_row_per_checkpoint_and_target(folder, capsys):
    assert capacity(folder, "--target-seeds", "1", "2", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["checkpoint"], row["seed"]) for row in rows] == [
        *(("(fresh)", 1), ("(fresh)", 2)),
        *(("step_1.pt", 1), ("step_1.pt", 2), ("step_2.pt", 1), ("step_2.pt", 2)),
    ]
    assert all(row[name] > 0 for row in rows for name in (*cli.STATISTICS, "ratio"))


def test_capacity_prints_a_table(folder, capsys):
    assert capacity(folder) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["checkpoint", "seed", *cli.STATISTICS, "ratio"]
    assert len(rows) == 3


def test_capacity_reads_safetensors(folder, capsys):
    save_file = pytest.importorskip("safetensors.torch").save_file
    for path in Path("run").iterdir():
        save_file(torch.load(path), path.with_suffix(".safetensors"))
    assert capacity(folder, "--json") == 0
    _, *rows = json.loads(capsys.readouterr().out)
    losses = {row.pop("checkpoint"): row for row in rows}
    assert losses["step_1.pt"] == losses["step_1.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folder": "nowhere"}, "nowhere: no such folder"),
        ({"folder": "."}, "holds no *.pt or *.safetensors"),
        ({"--network": "make"}, "must be like my_module:make_network"),
        ({"--network": "missing_module:make"}, "No module named 'missing_module'"),
        ({"--network": "factory_of_networks:mak"}, "has no attribute 'mak'"),
        ({"--network": "factory_of_networks:number"}, "returned int, not nn.Module"),
        ({"--network": "factory_of_networks:empty"}, "the network has no parameters"),
        ({"--observations": "missing.npy"}, "missing.npy: "),
        ({"--minibatch": "65"}, "64 observations are less than one minibatch of 65"),
        ({"--minibatch": "0"}, "must be a whole number from 1, not '0'"),
        ({"--scale": "nan"}, "must be a number above 0"),
        ({"--prefix": "critic."}, "step_1.pt: Error(s) in loading state_dict"),
        ({"--loss": "categoric"}, "unknown loss 'categoric', did you mean categorical?"),
    ],
)
def test_wrong_input_of_capacity_gives_one_line(folder, capsys, change, message):
    assert message in refused(capsys, capacity(folder | change))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float32(1), "shape (), dtype float32; must be numbers of shape (rows, ...)"),
        (np.array(["a"] * 16), "shape (16,), dtype <U1; must be numbers of shape (rows, ...)"),
        (np.ones((16, 4), complex), "dtype complex128; must be numbers"),
        (np.ones((16, 4), object), "x.npy: "),
        (np.ones((0, 4), np.float32), "x.npy: "),
    ],
)
def test_arrays_that_are_not_rows_of_numbers_are_refused(folder, capsys, array, message):
    np.save("x.npy", array)
    assert message in refused(capsys, capacity(folder | {"--observations": "x.npy"}))


def test_files_without_a_single_array_are_refused(folder, capsys):
    np.savez("x.npz", obs=np.ones((16, 4)))
    message = refused(capsys, capacity(folder | {"--observations": "x.npz"}))
    assert "x.npz: an archive, must be one array, saved as .npy" in message
    for name, content in (("empty.npy", b""), ("text.npy", b"1 2 3")):
        Path(name).write_bytes(content)
        assert f"{name}: " in refused(capsys, capacity(folder | {"--observations": name}))


def test_observations_in_double_precision_give_the_results_of_single_precision(folder, capsys):
    printed = []
    for dtype in (np.float32, np.float64):
        np.save("x.npy", np.load("obs.npy").astype(dtype))
        for scale in ("1", "255"):
            assert capacity(folder | {"--observations": "x.npy", "--scale": scale}) == 0
            printed.append(capsys.readouterr().out)
    assert printed[0] == printed[2] != printed[1]


@pytest.mark.parametrize(("dtype", "hint"), [(np.uint8, True), (np.float32, False)])
def test_a_failed_forward_names_the_network_and_the_input_shape(folder, capsys, dtype, hint):
    wrong = np.zeros((64, 4 if hint else 5), dtype)
    np.save("x.npy", wrong)
    said = refused(capsys, capacity(folder | {"--observations": "x.npy", "--scale": "1"}))
    assert f"--network factory_of_networks:make failed on (16, {wrong.shape[1]})" in said
    assert f"{np.dtype(dtype)} of --observations x.npy" in said
    assert ("--scale 255" in said) == hint


def test_the_checkpoints_of_a_run_are_measured_in_the_order_of_their_names(folder, capsys):
    save_file = pytest.importorskip("safetensors.torch").save_file
    for step in (20, 3):
        path = Path("checkpoints") / f"step_{step:012d}"
        path.mkdir(parents=True)
        save_file(torch.load("run/step_1.pt"), path / "policy.safetensors")
    assert capacity(folder | {"folder": "checkpoints"}, "--json") == 0
    _, *rows = json.loads(capsys.readouterr().out)
    assert [row["checkpoint"] for row in rows] == [
        f"step_{step:012d}/policy.safetensors" for step in (3, 20)
    ]


def test_a_file_that_is_not_a_state_dict_is_named(folder, capsys):
    Path("run/step_0.pt").write_text("not a checkpoint")
    assert "step_0.pt: " in refused(capsys, capacity(folder))


def test_all_interventions_are_listed(capsys):
    assert cli.main(["interventions"]) == 0
    printed = capsys.readouterr().out
    assert "redo:every=100,threshold=0.1\n" in printed
    assert cli.main(["interventions", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(INTERVENTIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["capasity"], "unknown command 'capasity', did you mean capacity?"),
        (["toy", "--figur", "x"], "toy: unknown option '--figur', did you mean --figure?"),
        (["toy", "extra"], "toy: unrecognized arguments: extra"),
        (["capacity"], "capacity: the following arguments are required"),
    ],
)
def test_wrong_commands_give_one_line(capsys, arguments, message):
    assert message in refused(capsys, cli.main(arguments))


@pytest.mark.parametrize("arguments", [["--help"], ["toy", "--help"], ["nonsense"]])
def test_help_and_mistakes_do_not_import_torch(arguments):
    code = (
        "import runpy, sys; sys.dont_write_bytecode = True;"
        f" main = runpy.run_path({cli.__file__!r})['main']; main({arguments!r});"
        " assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_python_m_is_the_same_command():
    command = [sys.executable, "-m", "ppo_plasticity", "--help"]
    root = Path(cli.__file__).parent.parent
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout == cli.overview() + "\n"
