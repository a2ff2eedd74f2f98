"""The runs behind the tables of docs/plasticity.md and docs/ppo.md.

    python benchmarks/ppo_experiments.py scores --runs-dir runs/scores    # an hour on one core
    python benchmarks/ppo_experiments.py stress --runs-dir runs/stress    # an hour on one core
    python benchmarks/ppo_experiments.py mappo --runs-dir runs/mappo      # ten minutes

It trains the runs that are missing, then writes benchmarks/results/ppo_<name>.json and prints a
table. With `--summarise` it reads the existing runs only.
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
STRESS = (
    "ppo --env Hopper-v5 --profile paper --policy tanh_normal --activation relu"
    " --update-epochs 20 --learning-rate 1e-3 --total-steps 300000 --seed 101 --seeds 3"
)
MAPPO = "mappo --env smacv2/terran_5_vs_5 --total-steps 2000000 --probe 5 --seed 1 --num-threads 1"
# experiment: {cell: arguments of baselines}
CELLS = {
    "scores": {
        env: f"ppo --env {env} --profile cleanrl --seed 1 --seeds 3"
        for env in ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")
    },
    "stress": {
        "none": STRESS,
        "pfo_last": f"{STRESS} --pfo-coef 10",
        "pfo_all": f"{STRESS} --intervention actor.pfo:coef=10,scope=all",
        "reset_adam": f"{STRESS} --intervention reset_adam",
        "equal_betas": f"{STRESS} --intervention adam_betas",
        "shared_trunk": f"{STRESS} --shared-trunk",
    },
    "mappo": {"none": MAPPO, "pfo_last": f"{MAPPO} --pfo-coef 1"},
}
# name of a number: its metric, and the statistic over the metric's values in the window
NUMBERS: dict[str, tuple[str, Callable[[list[float]], float]]] = {
    "return": ("charts/episodic_return", statistics.median),
    "win_rate": ("charts/win_rate", statistics.mean),
    "norm": ("plasticity/preactivation_norm/actor", statistics.median),
    "kl": ("trust_region/kl", statistics.median),
    "excess": ("trust_region/excess_ratio", statistics.mean),
    "excess_median": ("trust_region/excess_ratio", statistics.median),
    "rank": ("plasticity/approximate_rank/actor", statistics.median),
    "dead": ("plasticity/dead_units/actor", statistics.median),
    "critic_norm": ("plasticity/preactivation_norm/critic", statistics.median),
    "critic_rank": ("plasticity/approximate_rank/critic", statistics.median),
}
OTHER_NUMBERS = ("capacity_actor", "capacity_critic", "episodes", "steps")


def main() -> None:
    """Train the missing runs and summarise all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", choices=CELLS)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--summarise", action="store_true", help="train nothing")
    args = parser.parse_args()
    for cell, arguments in CELLS[args.experiment].items():
        folder = args.runs_dir / cell
        if not args.summarise and not list(run_folders(folder)):
            train_cell(folder, arguments, with_capacity=args.experiment == "stress")
    cells = {
        cell: {"command": f"baselines {arguments}", "runs": summarise(args, cell)}
        for cell, arguments in CELLS[args.experiment].items()
    }
    path = RESULTS / f"ppo_{args.experiment}.json"
    path.write_text(json.dumps(cells, indent=1) + "\n")
    print(table(cells))


def train_cell(folder: Path, arguments: str, *, with_capacity: bool) -> None:
    """Train the runs of a cell into a folder, and measure their capacity loss if asked."""
    baselines = [sys.executable, "-m", "baselines"]
    command = [*baselines, *shlex.split(arguments), "--runs-dir", str(folder)]
    subprocess.run(command, check=True)
    if with_capacity:
        subprocess.run([*baselines, "capacity", *map(str, folder.iterdir())], check=True)


def run_folders(folder: Path) -> Iterable[Path]:
    """Yield the run folders below a folder, by seed."""
    found = [path.parent for path in folder.rglob("config.json")]
    yield from sorted(found, key=seed_of)


def seed_of(run: Path) -> int:
    """Return a run's seed."""
    return json.loads((run / "config.json").read_text())["config"]["seed"]


def summarise(args: argparse.Namespace, cell: str) -> dict[str, dict[str, float]]:
    """Return each seed's numbers: over the last third, or over the last 100 episodes (scores)."""
    found = {}
    for run in run_folders(args.runs_dir / cell):
        seed = seed_of(run)
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        if args.experiment == "scores":
            found[f"seed {seed}"] = {"steps": rows[-1]["global_step"], **last_episodes(rows)}
        else:
            found[f"seed {seed}"] = last_third(rows) | capacity(run)
    return found


def last_episodes(rows: list[dict[str, Any]], count: int = 100) -> dict[str, float]:
    """Return the mean training return of the last `count` episodes."""
    total = episodes = 0.0
    for row in reversed(rows):
        if row.get("charts/episodic_return") is not None and episodes < count:
            total += row["charts/episodic_return"] * row["charts/episodes"]
            episodes += row["charts/episodes"]
    return {"return": total / episodes, "episodes": episodes}


def last_third(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the measured ones of `NUMBERS` over the last third of a run."""
    window = [row for row in rows if row["global_step"] >= rows[-1]["global_step"] * 2 / 3]
    numbers = {}
    for name, (metric, reduce) in NUMBERS.items():
        values = [row[metric] for row in window if row.get(metric) is not None]
        if values:
            numbers[name] = reduce(values)
    return numbers


def capacity(run: Path) -> dict[str, float]:
    """Return the mean capacity loss (full set) of the last tenth of the snapshots, if measured."""
    path = run / "capacity.json"
    if not path.exists():
        return {}
    measured = json.loads(path.read_text())
    last = math.ceil(len(measured["steps"]) / 10)
    return {
        f"capacity_{name}": statistics.mean(measured[name]["full_set"][-last:])
        for name in ("actor", "critic")
    }


def table(cells: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with a row per cell: each number for seed 1 / 2 / 3."""
    runs = [numbers for cell in cells.values() for numbers in cell["runs"].values()]
    names = [name for name in (*NUMBERS, *OTHER_NUMBERS) if any(name in run for run in runs)]
    lines = [["", *names], ["---"] * (len(names) + 1)]
    for cell, content in cells.items():
        per_seed = content["runs"].values()
        texts = [" / ".join(f"{run.get(name, math.nan):.3g}" for run in per_seed) for name in names]
        lines.append([cell, *texts])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
