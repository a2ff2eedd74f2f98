"""Compare the return of learners with that of real ones that win as often.

    python benchmarks/return_at_win_rate.py --jobs 3 --steps 3000000  # trains MAPPO itself
    python benchmarks/return_at_win_rate.py --runs runs/mappo         # finished runs, 5 against 5

Prints, per race and win rate, the return of the published QMIX and MAPPO and of each run here, and
writes `results/return_at_win_rate_rules_N.json`, where N is the version of the engine's rules.

Both sides are computed alike: battles are grouped by win rate, and the mean returns of the groups
are interpolated. A real group has tests of 32 greedy battles, ours has spans of training. Published
returns carry defect B2: rewards are scaled by the enemies of each env's first battle.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from battle_learners import write
from race_runs import (
    RESULTS,
    Run,
    add_options,
    conditions,
    evaluations,
    finished_runs,
    published_returns,
    read_run,
    training_battles,
)

from smacv2 import ENGINE_VERSION

SPAN = 25_000  # environment steps of training whose battles make one point
RATES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.32, 0.35, 0.37, 0.4, 0.46, 0.5, 0.6, 0.7)
"""Win rates of the table: round ones, and those of the scripted policies."""
REAL = ("QMIX", "MAPPO")

Rows = list[list[float]]  # win rate, return, number of tests or spans; by rising win rate


def main() -> None:
    """Train or read runs, print and store."""
    options = read_options()
    real = published_returns()
    found: dict[str, Any] = {"published": real["return_at_win_rate"], "results": {}}
    if not options.runs:
        found = conditions(options) | found
    for run in check(given(options.runs)) if options.runs else finished_runs(options):
        rows = grouped(run, real["edges"])
        runs = found["results"].setdefault(run.scenario, [])
        runs.append(numbers_of(run, rows))
        print(f"{run.scenario}, run {len(runs)}: {run.steps:,} steps, {run.path}", flush=True)
        write(options.output, found)
    for scenario, runs in sorted(found["results"].items()):
        print_table(scenario, found["published"][scenario], runs)
    print(f"stored in {options.output}")


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="*", type=Path, help="run folders, or folders of such")
    add_options(parser, seeds=1)
    output = RESULTS / f"return_at_win_rate_rules_{ENGINE_VERSION}.json"
    parser.add_argument("--output", type=Path, default=output, help="JSON file to write")
    return parser.parse_args()


def given(folders: Iterable[Path]) -> list[Run]:
    """Return the runs below the given folders."""
    records = [path for folder in folders for path in sorted(folder.rglob("config.json"))]
    return [read_run(path.parent) for path in records]


def check(runs: list[Run]) -> list[Run]:
    """Return the runs; refuse several engine versions or rules modes, and unpublished scenarios."""
    prints = [run.record["environment"]["fingerprint"] for run in runs]
    kinds = {(fingerprint["engine_version"], fingerprint["rules"]) for fingerprint in prints}
    if len(kinds) != 1:
        raise SystemExit(f"runs of one engine version and rules mode are needed, not {kinds}")
    if others := {run.scenario for run in runs} - published_returns()["open_loop"].keys():
        raise SystemExit(f"no published returns of {', '.join(sorted(others))}")
    return runs


# --- Returns -------------------------------------------------------------------------------------


def grouped(run: Run, edges: list[float]) -> Rows:
    """Return mean win rate and return of a run's spans, grouped by win rate at the edges.

    A group lies above an edge, up to the next. Spans without a win are left out: at the start of
    training their returns are those of random play, which the real curves do not have.
    """
    starts = range(0, run.steps, SPAN)
    spans = [training_battles(run, start, start + SPAN) for start in starts]
    points = np.array(
        [(span["win_rate"], span["episodic_return"]) for span in spans if span and span["win_rate"]]
    ).reshape(-1, 2)
    group = np.searchsorted(edges, points[:, 0])
    return [
        [*points[group == number].mean(axis=0).tolist(), int((group == number).sum())]
        for number in np.unique(group)
    ]


def return_at(rows: Rows, rate: float) -> float | None:
    """Return the interpolated return at a win rate, None outside of the rows' win rates."""
    if not rows or not rows[0][0] <= rate <= rows[-1][0]:
        return None
    rates, returns, _ = zip(*rows, strict=True)
    return float(np.interp(rate, rates, returns))


def numbers_of(run: Run, rows: Rows) -> dict[str, Any]:
    """Return a run's stored numbers: settings, speed, rows and held-out battles."""
    fingerprint = run.record["environment"]["fingerprint"]
    return {
        "algorithm": run.record["algorithm"],
        "open_loop": run.record["config"]["open_loop"],
        "seed": run.seed,
        "steps": run.steps,
        "seconds": round(run.seconds, 1),
        "steps_per_second": round(run.steps / run.seconds),
        "engine_version": fingerprint["engine_version"],
        "rules": fingerprint["rules"],
        "return_at_win_rate": rows,
        **evaluations(run),
    }


# --- Table ---------------------------------------------------------------------------------------


def print_table(scenario: str, real: dict[str, Rows], runs: list[dict[str, Any]]) -> None:
    """Print the returns of real learners and runs at each win rate.

    Further lines are at the win rates of the runs' own greedy, held-out battles.
    """
    names = [f"run {number}" for number in range(1, len(runs) + 1)]
    print(
        f"\n{scenario}, return\n{'win rate':>10}{cells([f'real {name}' for name in REAL])}"
        f"{cells(names)}"
    )
    for rate in RATES:
        ours = [return_at(run["return_at_win_rate"], rate) for run in runs]
        if any(value is not None for value in ours):
            print(table_line(rate, real, ours))
    print("  greedy, held-out battles")
    for number, run in enumerate(runs):
        if greedy := run.get("greedy"):
            ours = [None] * len(runs)
            ours[number] = greedy["episodic_return"]
            print(table_line(greedy["win_rate"], real, ours))


def table_line(rate: float, real: dict[str, Rows], ours: list[float | None]) -> str:
    """Return one line of the table."""
    values = [*(return_at(real[name], rate) for name in REAL), *ours]
    texts = ["-" if value is None else f"{value:.1f}" for value in values]
    return f"{100 * rate:>8.1f} %{cells(texts)}"


def cells(texts: list[str]) -> str:
    """Return texts in columns."""
    return "".join(f"{text:>12}" for text in texts)


if __name__ == "__main__":
    main()
