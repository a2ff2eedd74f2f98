"""Play the scripted policies on the 15 benchmark scenarios: a floor for every result.

    python benchmarks/floors.py
    python benchmarks/floors.py --scenarios terran_5_vs_5 --episodes 64

Prints win rates in percent beside the published open-loop floor and writes
`benchmarks/results/floors.json`. Battles come from the seeds reserved for evaluation.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from smacv2 import ENGINE_VERSION
from smacv2.play import play
from smacv2.policies import POLICIES

RESULTS = Path(__file__).parent / "results" / "floors.json"

# Win rate in percent, in the real game, of MAPPO that observes only the time and the agent's index:
# mean over 9 to 10 million steps (Ellis et al. 2023, official curves).
PUBLISHED_OPEN_LOOP = {
    "protoss_5_vs_5": 7.1,
    "terran_5_vs_5": 11.6,
    "zerg_5_vs_5": 7.4,
    "protoss_10_vs_10": 4.0,
    "terran_10_vs_10": 4.0,
    "zerg_10_vs_10": 5.0,
    "protoss_20_vs_20": 3.1,
    "terran_20_vs_20": 1.3,
    "zerg_20_vs_20": 1.8,
    "protoss_10_vs_11": 0.2,
    "terran_10_vs_11": 1.8,
    "zerg_10_vs_11": 2.5,
    "protoss_20_vs_23": 0.1,
    "terran_20_vs_23": 0.1,
    "zerg_20_vs_23": 1.0,
}


def main() -> None:
    """Play, print and store."""
    options = read_options()
    print(f"win rate in percent, {options.episodes} battles; 95 % interval of nearest")
    print(
        f"{'scenario':<18}{'random':>8}{'stop':>8}{'nearest':>9}{'interval':>15}{'open loop':>11}"
    )
    rows = []
    for scenario in options.scenarios:
        results = {
            policy: play(scenario, policy, options.episodes, seed=options.seed)
            for policy in POLICIES
        }
        published = PUBLISHED_OPEN_LOOP.get(scenario)
        rows.append({"scenario": scenario, "published_open_loop": published, **results})
        print(line(rows[-1]), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"engine_version": ENGINE_VERSION, "episodes": options.episodes, "results": rows}
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"stored in {options.output}")


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description="Play the scripted policies on 15 scenarios.")
    add = parser.add_argument
    names = list(PUBLISHED_OPEN_LOOP)
    add("--scenarios", nargs="+", default=names, metavar="NAME", help="default: all 15")
    add("--episodes", type=int, default=512, help="battles per policy (default: 512)")
    add("--seed", type=int, default=0, help="number of the set of held-out battles (default: 0)")
    add("--output", type=Path, default=RESULTS, help="JSON file to write")
    return parser.parse_args()


def line(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    rates = [100 * row[policy]["win_rate"] for policy in ("random", "stop", "nearest")]
    low, high = (100 * bound for bound in row["nearest"]["win_rate_interval_95"])
    published = row["published_open_loop"]
    return (
        f"{row['scenario']:<18}{rates[0]:>8.1f}{rates[1]:>8.1f}{rates[2]:>9.1f}"
        f"{f'{low:.1f} to {high:.1f}':>15}{'-' if published is None else published:>11}"
    )


if __name__ == "__main__":
    main()
