"""Runs of MAPPO on the three races, 5 against 5: trained and evaluated as a user would do it.

`open_loop.py` and `return_at_win_rate.py` share this module. A run that has finished is kept and
never repeated, a run that was stopped is resumed.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from battle_learners import PARTS, call
from ppo_speed import machine

from smacv2 import ENGINE_VERSION

PUBLISHED = Path(__file__).parent / "published_returns.json"
RESULTS = Path(__file__).parent / "results"
RACES = ("protoss", "terran", "zerg")
MODES = {"greedy": [], "stochastic": ["--stochastic"]}  # flags of `baselines evaluate`
EVALUATED = ("win_rate", "win_rate_interval_95", "episodic_return", "episodes", "episodic_length")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run: its folder, its record (config.json) and the rows of its metrics."""

    path: Path
    record: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def scenario(self) -> str:
        """The scenario's name, such as terran_5_vs_5."""
        return self.record["environment"]["fingerprint"]["scenario"]

    @property
    def seed(self) -> int:
        """The seed of training."""
        return self.record["config"]["seed"]

    @property
    def steps(self) -> int:
        """Environment steps done."""
        return self.rows[-1]["global_step"]

    @property
    def seconds(self) -> float:
        """Seconds of training, without start-up and writing checkpoints."""
        return sum(row[f"time/{part}_seconds"] for row in self.rows for part in PARTS)


def read_run(path: Path) -> Run:
    """Return the run of a folder."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return Run(path, json.loads((path / "config.json").read_text()), rows)


def training_battles(run: Run, low: float, high: float) -> dict[str, float] | None:
    """Return win rate and return of the battles that ended in training after `low` up to `high`.

    Args:
        run: run to read.
        low: environment steps.
        high: environment steps.

    Returns:
        Means over battles and their number, None without a battle.
    """
    rows = [row for row in run.rows if low < row["global_step"] <= high and row["charts/episodes"]]
    battles = sum(row["charts/episodes"] for row in rows)
    if not battles:
        return None
    names = ("win_rate", "episodic_return")
    means = {
        name: sum(row["charts/episodes"] * row[f"charts/{name}"] for row in rows) / battles
        for name in names
    }
    return {**means, "episodes": battles}


def evaluations(run: Run) -> dict[str, dict[str, Any]]:
    """Return the results on held-out battles of the last checkpoint, for each evaluated mode."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.path.glob("evaluations/*.json")):
        result = json.loads(path.read_text())
        found[result["mode"]] = {name: result[name] for name in EVALUATED}
    return found


# --- Training ------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser, *, seeds: int) -> None:
    """Add the options of `finished_runs` to a command, with a default number of seeds."""
    add = parser.add_argument
    add("--steps", type=int, default=1_000_000, help="steps of each run (default: 1 million)")
    add("--seeds", type=int, default=seeds, help=f"seeds 1 to N per race (default: {seeds})")
    add("--races", nargs="+", default=list(RACES), choices=RACES, help="default: all three")
    add("--rules", default="paper", choices=("paper", "fixed"), help="rules mode (default: paper)")
    add("--network", default="gru", choices=("gru", "mlp"), help="default: gru, as published")
    add("--battles", type=int, default=1024, help="held-out battles per mode (default: 1024)")
    add("--jobs", type=int, default=1, help="runs at once (default: 1)")
    add("--threads", type=int, default=0, help="threads of each (default: usable / jobs)")
    add("--device", default="auto", help="of the networks (default: auto, a GPU if there is one)")
    add("--runs-dir", type=Path, default=Path("runs/races"), help="folder of the run folders")


def finished_runs(options: argparse.Namespace, flags: Sequence[str] = ()) -> Iterator[Run]:
    """Yield a run per race and seed when it has been trained and evaluated, `--jobs` at once.

    Args:
        options: values of `add_options`.
        flags: further flags of `baselines mappo`.
    """
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = [
            pool.submit(finished_run, options, flags, race, seed)
            for seed in range(1, options.seeds + 1)
            for race in options.races
        ]
        for done in concurrent.futures.as_completed(waiting):
            yield done.result()


def finished_run(options: argparse.Namespace, flags: Sequence[str], race: str, seed: int) -> Run:
    """Train one seed on one race, or resume it, evaluate it, and return it."""
    folder = run_folder(options, flags, race, seed)
    resources = ["--device", device(options), "--num-threads", str(threads(options))]
    command = [sys.executable, "-m", "baselines"]
    started = sorted(folder.glob("*/checkpoints/*/manifest.json"))
    if not started:
        settings = ["--env", f"smacv2/{race}_5_vs_5", "--env-option", f"rules={options.rules}"]
        settings += ["--total-steps", str(options.steps), "--seed", str(seed)]
        settings += ["--network", options.network, "--keep-checkpoints", "1"]
        settings += ["--runs-dir", str(folder), *resources, *flags]
        call([*command, "mappo", *settings], folder)
        started = sorted(folder.glob("*/checkpoints/*/manifest.json"))
    path = started[-1].parents[2]
    if read_run(path).steps < options.steps:
        call([*command, "mappo", "--resume", str(path)], folder)
    for mode, mode_flags in MODES.items():
        if not list(path.glob(f"evaluations/*__{mode}__{options.battles}__*.json")):
            battles = ["--episodes", str(options.battles), *mode_flags, *resources]
            call([*command, "evaluate", str(path), *battles], folder)
    return read_run(path)


def run_folder(options: argparse.Namespace, flags: Sequence[str], race: str, seed: int) -> Path:
    """Return the parent of a run's folder; runs of other settings or engine rules are elsewhere."""
    words = ["mappo", *(flag.strip("-") for flag in flags), options.network, options.rules]
    settings = "_".join([*words, f"engine_{ENGINE_VERSION}", f"{options.steps}_steps"])
    return options.runs_dir / settings / f"{race}_seed{seed}"


def device(options: argparse.Namespace) -> str:
    """Return the PyTorch device to train on."""
    if options.device != "auto":
        return options.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def threads(options: argparse.Namespace) -> int:
    """Return the number of threads of each run."""
    return options.threads or max(1, len(os.sched_getaffinity(0)) // options.jobs)


# --- Results -------------------------------------------------------------------------------------


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return everything that decides or times the results, for the stored file."""
    names = ("steps", "network", "rules", "battles", "jobs")
    return {
        "engine_version": ENGINE_VERSION,
        "settings": {name: getattr(options, name) for name in names},
        "machine": {
            **machine(("numpy", "numba", "torch", "gymnasium")),
            "device": torch.cuda.get_device_name() if device(options) == "cuda" else "cpu",
            "threads_per_run": threads(options),
        },
    }


def published_returns() -> dict[str, Any]:
    """Return the content of `published_returns.json`, whose `provenance` explains it."""
    return json.loads(PUBLISHED.read_text())
