"""Train MAPPO that sees only the clock, and compare it with the same learner in the real game.

    python benchmarks/open_loop.py --jobs 3
    python benchmarks/open_loop.py --races terran --seeds 1 --steps 20000

Prints win rates in percent and returns beside the published ones near 1 million steps, and writes
`results/open_loop_rules_N.json`, where N is the version of the engine's rules. Both sides carry
defect B2 unless `--rules fixed`: rewards are scaled by the enemies of each env's first battle.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from battle_learners import write
from race_runs import (
    RESULTS,
    Run,
    add_options,
    conditions,
    evaluations,
    finished_runs,
    published_returns,
    training_battles,
)

from smacv2 import ENGINE_VERSION

LAST = 0.1  # share of the steps whose battles count as the end of training
HEADER = f"{'':<16}{'seed':>5}{'training':>15}{'greedy':>15}{'sampled':>15}{'steps/s':>10}"


def main() -> None:
    """Train, evaluate, print and store."""
    options = read_options()
    found: dict[str, Any] = conditions(options) | {"published": published(), "results": {}}
    print(f"win rate in percent, return\n{HEADER}")
    for run in finished_runs(options, ["--open-loop"]):
        row = numbers_of(run)
        found["results"].setdefault(run.scenario, {})[str(run.seed)] = row
        print(line(run.scenario, str(run.seed), row), flush=True)
        write(options.output, found)
    print("\nmeans over seeds; the published tests are greedy")
    for scenario, rows in sorted(found["results"].items()):
        print(line(scenario, "all", mean_row(list(rows.values()))), flush=True)
        print(published_line(found["published"][scenario]))
    print(f"stored in {options.output}")


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, seeds=3)
    output = RESULTS / f"open_loop_rules_{ENGINE_VERSION}.json"
    parser.add_argument("--output", type=Path, default=output, help="JSON file to write")
    return parser.parse_args()


def published() -> dict[str, list[dict[str, float]]]:
    """Return tests, win rate and return of each published run between 0.7 and 1.3 M steps."""
    return published_returns()["open_loop"]


def numbers_of(run: Run) -> dict[str, Any]:
    """Return a run's win rate and return at the end of training and on held-out battles."""
    return {
        "steps": run.steps,
        "seconds": round(run.seconds, 1),
        "steps_per_second": round(run.steps / run.seconds),
        "training": training_battles(run, (1 - LAST) * run.steps, run.steps),
        **evaluations(run),
    }


def mean_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over seeds of what `line` prints."""
    modes = {
        mode: {
            name: statistics.mean(row[mode][name] for row in rows)
            for name in ("win_rate", "episodic_return")
        }
        for mode in ("training", "greedy", "stochastic")
    }
    return {"steps_per_second": statistics.mean(row["steps_per_second"] for row in rows), **modes}


def line(scenario: str, seed: str, row: dict[str, Any]) -> str:
    """Return one line of the table."""
    columns = "".join(f"{pair(row[mode]):>15}" for mode in ("training", "greedy", "stochastic"))
    return f"{scenario:<16}{seed:>5}{columns}{row['steps_per_second']:>10,.0f}"


def published_line(runs: list[dict[str, float]]) -> str:
    """Return the published mean over runs, and the range of the runs, as a line of the table."""
    mean = {
        name: statistics.mean(run[name] for run in runs) for name in ("win_rate", "episodic_return")
    }
    each = ", ".join(pair(run) for run in runs)
    return f"{'  real game':<16}{'all':>5}{'':>15}{pair(mean):>15}   (runs: {each})"


def pair(battles: dict[str, float]) -> str:
    """Return win rate in percent and return as text."""
    return f"{100 * battles['win_rate']:.1f} {battles['episodic_return']:6.2f}"


if __name__ == "__main__":
    main()
