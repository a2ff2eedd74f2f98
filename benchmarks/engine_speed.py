"""Measure the engine on three sizes of every race: `make bench`.

    python benchmarks/engine_speed.py
    python benchmarks/engine_speed.py --scenarios terran_5_vs_5 --runs 1 --seconds 0.5

Each run is `smacv2 speed` in a process of its own. Prints a table and writes
`benchmarks/results/engine_speed_<device>.json`. Keep the machine otherwise idle.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smacv2 import ENGINE_VERSION

RESULTS = Path(__file__).parent / "results"
SCENARIOS = [
    f"{race}_{size}_vs_{size}" for size in (5, 10, 20) for race in ("terran", "protoss", "zerg")
]
HEADER = (
    f"{'scenario':<18}{'median':>12}{'min':>12}{'max':>12}{'simulate':>10}{'observe':>9}{'MB':>7}"
)


def main() -> None:
    """Measure, print and store."""
    options = read_options()
    print(f"env steps/s, {options.num_envs} battles, {options.runs} runs; stages in µs per step")
    print(HEADER)
    rows = []
    for scenario in options.scenarios:
        runs = [run(scenario, options) for _ in range(options.runs)]
        rows.append(summary(scenario, runs))
        print(line(rows[-1]), flush=True)
    output = options.output or RESULTS / f"engine_speed_{options.device}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine(), "results": rows}, indent=2) + "\n")
    print(f"stored in {output}")


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description="Measure the engine on three sizes of every race.")
    add = parser.add_argument
    add("--scenarios", nargs="+", default=SCENARIOS, metavar="NAME", help="default: nine")
    add("--runs", type=int, default=5, help="processes per scenario (default: 5)")
    add("--num-envs", type=int, default=1024, help="battles at once (default: 1024)")
    add("--threads", type=int, help="CPU threads (default: every core)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--seconds", type=float, default=5.0, help="timed seconds per run (default: 5)")
    add("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def run(scenario: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one `smacv2 speed --json`."""
    command = [sys.executable, "-m", "smacv2", "speed", "--json", "--scenario", scenario]
    for name in ("num_envs", "threads", "device", "seconds"):
        value = getattr(options, name)
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # the command has printed its error
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def summary(scenario: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over runs, with the extremes of the rate."""
    rates = [result["env_steps_per_second"] for result in runs]
    stages = {
        name: statistics.median(result["stages"][name] for result in runs)
        for name in runs[0]["stages"]
    }
    return {
        "scenario": scenario,
        "env_steps_per_second": {
            "median": statistics.median(rates),
            "min": min(rates),
            "max": max(rates),
        },
        "stages": stages,
        "peak_memory_mb": max(result["peak_memory_mb"] for result in runs),
        "runs": runs,
    }


def line(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    rate, stages = row["env_steps_per_second"], row["stages"]
    parts = [f"{stages[name]:.2f}" if name in stages else "-" for name in ("simulate", "observe")]
    return (
        f"{row['scenario']:<18}{rate['median']:>12,.0f}{rate['min']:>12,.0f}{rate['max']:>12,.0f}"
        f"{parts[0]:>10}{parts[1]:>9}{row['peak_memory_mb']:>7.0f}"
    )


def machine() -> dict[str, Any]:
    """Return the hardware and the versions of the measurement."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "usable_threads": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "numba", "smacv2-suite")},
        "engine_version": ENGINE_VERSION,
    }


if __name__ == "__main__":
    main()
