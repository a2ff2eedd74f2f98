"""Multi-agent learners: how fast they are, and what they have learnt after 2 M steps.

    python benchmarks/battle_learners.py speed             # steps/s and where the time goes
    python benchmarks/battle_learners.py train --jobs 2    # all runs, evaluated; resumes if stopped
    python benchmarks/battle_learners.py collect           # the runs' numbers to results/*.json

`train` starts `baselines` commands, so its runs are what a user would get. docs/results.md shows
the numbers.
"""

import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ppo_speed import machine

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STEPS, BATTLES = 2_000_000, 1024
CURVE = 250_000  # steps between the points of the stored learning curves
RACES, SEEDS = ("protoss", "terran", "zerg"), (1, 2, 3)
# name: command, its flags, iterations between measurements of plasticity (about 20 in a run)
LEARNERS: dict[str, tuple[str, list[str], int]] = {
    "MAPPO, published settings": ("mappo", ["--profile", "smacv2_paper"], 200),
    "QMIX, published settings": ("qmix", ["--profile", "smacv2_paper"], 200),
    "MAPPO": ("mappo", [], 12),
    "MAPPO, attention": ("mappo", ["--encoder", "attention"], 12),
    "QMIX": ("qmix", [], 13),
    "VDN": ("qmix", ["--mixer", "sum"], 13),
    "IQL": ("qmix", ["--mixer", "none"], 13),
    "IPPO": ("mappo", ["--critic-input", "obs"], 12),
    "PQN": ("pqn", [], 25),
    "PQN-VDN": ("pqn", ["--mixer", "sum"], 25),
    "PQN, 64 units": ("pqn", ["--hidden-size", "64"], 25),
    "PQN-VDN, 64 units": ("pqn", ["--mixer", "sum", "--hidden-size", "64"], 25),
    "PQN, attention": ("pqn", ["--encoder", "attention"], 25),
}
PACKAGES = ("numpy", "torch")
PARTS = ("env", "inference", "learn")
PLASTICITY = {
    "rank": "approximate_rank",  # the paper's feature rank (PCA)
    "dead": "dead_units",
    "norm": "feature_norm",
    "weight_norm": "weight_norm",
}


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "train", "collect"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/results"))
    parser.add_argument("--learners", nargs="*", default=list(LEARNERS), choices=list(LEARNERS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--threads", type=int, default=2, help="threads of each")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each speed measurement")
    options = parser.parse_args()
    {"speed": speed, "train": train, "collect": collect}[options.what](options)


# --- Speed ---------------------------------------------------------------------------------------


def speed(options: argparse.Namespace) -> None:
    """Measure each learner in a process of its own, print and store beside what is stored."""
    path = RESULTS / "battle_speed.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    found |= {"machine": machine(PACKAGES) | {"threads": options.threads}}
    for name in options.learners:
        for size in (5, 10):
            env = f"smacv2/terran_{size}_vs_{size}"
            arguments = (name, env, options.threads, options.seconds)
            with concurrent.futures.ProcessPoolExecutor(1) as pool:
                found.setdefault(name, {})[env] = row = pool.submit(measure, *arguments).result()
            print(f"{name:<28}{env:<24}{summary_line(row)}", flush=True)
    write(path, found)


def measure(name: str, env: str, threads: int, seconds: float) -> dict[str, Any]:
    """Return steps/s of a learner's iterations over five spans of time, and shares of time."""
    load = os.getloadavg()[0]
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command does
    from baselines.algorithms import ALGORITHMS
    from baselines.cli import training_config
    from baselines.runs.process import prepare_torch

    command, flags, _ = LEARNERS[name]
    config = training_config(command, [*flags, "--env", env, "--num-threads", str(threads)])
    prepare_torch(threads, config.device)
    group = ALGORITHMS[command].load("make_group")(config)
    (learner,) = group.learners
    warm = getattr(config, "batch_episodes", 0)  # QMIX learns once it has a batch
    while learner.iteration < 3 or getattr(learner, "episodes", warm) < 2 * warm:
        group.iterate()
    rates, spent = [], dict.fromkeys(PARTS, 0.0)
    for _ in range(5):
        before, lasted = learner.global_step, 0.0
        while lasted < seconds / 5:
            (metrics,) = group.iterate()
            for part in PARTS:
                spent[part] += metrics[f"time/{part}_seconds"]
                lasted += metrics[f"time/{part}_seconds"]
        rates.append((learner.global_step - before) / lasted)
    return {"load_before": load, **summary(rates, spent)}


def summary(rates: list[float], spent: dict[str, float]) -> dict[str, Any]:
    """Return median and range of steps/s, and each part's share of the seconds spent."""
    total = sum(spent.values())
    return {
        "median": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
        "shares": {part: seconds / total for part, seconds in spent.items()},
    }


def summary_line(row: dict[str, Any]) -> str:
    """Return a `summary` as text."""
    shares = "  ".join(f"{part} {share:.0%}" for part, share in row["shares"].items())
    return f"{row['median']:>8,.0f} steps/s [{row['min']:,.0f}, {row['max']:,.0f}]  {shares}"


# --- Training ------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> None:
    """Run everything that has no evaluation yet, `--jobs` at once."""
    names = [(n, race, seed) for n in options.learners for seed in SEEDS for race in RACES]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for line in pool.map(lambda name: run(options, *name), names):
            print(line, flush=True)


def run(options: argparse.Namespace, name: str, race: str, seed: int) -> str:
    """Train one seed, or resume it, and evaluate it; return the line to print."""
    command, flags, every = LEARNERS[name]
    folder = folder_of(options.runs_dir, name, race, seed)
    found = sorted(folder.glob("*/config.json"))
    if list(folder.glob("*/evaluations/*.json")):
        return f"{folder}: done"
    baselines = [sys.executable, "-m", "baselines"]
    if found:
        call([*baselines, command, "--resume", str(found[0].parent)], folder)
    else:
        flags = [*flags, "--env", f"smacv2/{race}_5_vs_5", "--seed", str(seed)]
        flags += ["--total-steps", str(STEPS), "--num-threads", str(options.threads)]
        flags += ["--probe", str(every), "--runs-dir", str(folder), "--keep-checkpoints", "1"]
        call([*baselines, command, *flags], folder)
    (path,) = (config.parent for config in folder.glob("*/config.json"))
    threads = ["--num-threads", str(options.threads)]
    said = call([*baselines, "evaluate", str(path), "--episodes", str(BATTLES), *threads], folder)
    return f"{folder}: {said.splitlines()[1]}"


def call(command: list[str], folder: Path) -> str:
    """Run a command and return its output, which is also kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    with (folder / "output.txt").open("a") as file:
        file.write(done.stdout[-20_000:] + done.stderr)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def folder_of(runs_dir: Path, name: str, race: str, seed: int) -> Path:
    """Return the folder of a run."""
    slug = name.lower().replace(", ", "_").replace(" ", "_").replace("-", "_")
    return runs_dir / slug / f"{race}_seed{seed}"


# --- Results -------------------------------------------------------------------------------------


def collect(options: argparse.Namespace) -> None:
    """Write what the runs found to results/battles.json, also of those that are not complete."""
    found: dict[str, Any] = {"learners": {}}
    for name in LEARNERS:
        for race in RACES:
            for seed in SEEDS:
                folders = list(folder_of(options.runs_dir, name, race, seed).glob("*/config.json"))
                if folders:
                    row = numbers_of(folders[0].parent)
                    place = found["learners"].setdefault(name, {}).setdefault(race, {})
                    place[str(seed)] = row
    write(RESULTS / "battles.json", found)


def numbers_of(path: Path) -> dict[str, Any]:
    """Return one run's result: held-out win rate, training win rates, time, plasticity."""
    text = (path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    record = json.loads((path / "config.json").read_text())
    timed = ("env", "inference", "learn")
    seconds = sum(line[f"time/{part}_seconds"] for line in lines for part in timed)
    row: dict[str, Any] = {
        "steps": lines[-1]["global_step"],
        "seconds": seconds,
        "threads": record["config"]["num_threads"],
        "device": record["config"]["device"].partition(":")[0],
        "machine": record["machine"]["platform"],
        "torch": record["versions"]["torch"],
        "engine_version": record["environment"]["fingerprint"]["engine_version"],
        "steps_per_second": lines[-1]["global_step"] / seconds,
        "curve": [training_win_rate(lines, step) for step in range(CURVE, STEPS + 1, CURVE)],
        "plasticity": plasticity(lines),
    }
    for file in path.glob("evaluations/*greedy*.json"):
        result = json.loads(file.read_text())
        names = ("win_rate", "win_rate_interval_95", "episodes", "episodic_return", "timeouts")
        row |= {name: result[name] for name in names}
        tested_in = result["environment"]["fingerprint"]["engine_version"]
        row["tested_engine_version"] = tested_in
    return row


def training_win_rate(lines: list[dict[str, Any]], step: int) -> float | None:
    """Return the share of battles won in training in the CURVE steps before a step."""
    last = [line for line in lines if step - CURVE < line["global_step"] <= step]
    battles = sum(line["charts/episodes"] for line in last)
    won = sum(line["charts/episodes"] * (line.get("charts/win_rate") or 0.0) for line in last)
    return won / battles if battles else None


def plasticity(lines: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return first and last measurement of each network, the last one as the mean of three."""
    measured = [line for line in lines if any(name.startswith("plasticity/") for name in line)]
    found: dict[str, dict[str, float]] = {}
    if not measured:
        return found
    networks = {name.rpartition("/")[2] for name in measured[0] if "/approximate_rank/" in name}
    for network in sorted(networks):
        found[network] = {}
        for short, metric in PLASTICITY.items():
            values = [line[f"plasticity/{metric}/{network}"] for line in measured]
            found[network][f"{short}_first"] = values[0]
            found[network][short] = statistics.mean(values[-3:])
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    main()
