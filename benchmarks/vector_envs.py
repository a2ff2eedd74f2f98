"""Measure what steps the environments, side by side: is `--source auto` ever the slower one?

    python benchmarks/vector_envs.py           # about four minutes
    python benchmarks/vector_envs.py --quick   # half a minute; too few rounds to quote

Every source that is installed plays the same task in rounds, one after the other, with uniformly
random actions that are drawn anew for each step (the drawing is not timed). Rates are transitions
a second: steps that only reset do not count. Prints a table and writes
`benchmarks/results/vector_envs.json`. Keep the machine otherwise idle.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from ppo_speed import machine, spread, use_cores

from baselines.cli import training_config
from baselines.config import PpoConfig
from baselines.experience.episodes import VectorEnv, choose_source, make_vector_env
from baselines.profiles import ATARI, kind_of

RESULTS = Path(__file__).parent / "results" / "vector_envs.json"
PACKAGES = ("numpy", "gymnasium", "mujoco", "ale-py", "envpool", "smacv2-suite")
MUJOCO_ENVS = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5")
ATARI_ENVS = ("ALE/Breakout-v5", "ALE/Phoenix-v5")
TASKS = [
    *((env, count) for env in MUJOCO_ENVS for count in (1, 2, 4, 5, 8, 16)),
    *((env, count) for env in ATARI_ENVS for count in (8, 32)),
]
QUICK_TASKS = [("Hopper-v5", 1), ("Hopper-v5", 8), ("Ant-v5", 1), ("ALE/Breakout-v5", 8)]
BLOCK = 32  # steps whose actions are drawn at once
TIE = 0.97  # of the fastest median: no slower than the rounds can tell


def main() -> None:
    """Measure, print and store."""
    options = read_options()
    use_cores(options.cores)
    about = machine(PACKAGES)
    tasks = QUICK_TASKS if options.quick else TASKS
    print(f"transitions/s, median of {options.rounds} rounds [min, max]")
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # MuJoCo leaves a log
        for env, num_envs in tasks:
            rows.append(compare(env, num_envs, options))
            print(line(rows[-1]), flush=True)
    slower = [f"{row['env']} x {row['num_envs']}" for row in rows if not row["auto_is_fastest"]]
    print(f"auto is slower on {', '.join(slower)}" if slower else "auto is never the slower source")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"machine": about, "results": rows}, indent=2) + "\n")
        print(f"stored in {options.output}")


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description="Measure what steps the environments.")
    add = parser.add_argument
    add("--quick", action="store_true", help="few tasks and rounds: to try the script")
    add("--rounds", type=int, help="how often each source is measured (default: 5)")
    add("--seconds", type=float, default=0.5, help="of stepping in a round (default: 0.5)")
    add("--cores", type=int, default=2, help="use so many cores (default: 2)")
    add("--output", type=Path, help="JSON file to write (not written with --quick unless given)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.output = options.output or (None if options.quick else RESULTS)
    options.output = options.output and options.output.resolve()
    return options


def compare(env: str, num_envs: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of every source on a task, and whether `auto` picks the fastest."""
    base = dataclasses.replace(training_config("ppo", ["--env", env]), num_envs=num_envs)
    players = {source: Player(base, source) for source in sources(env)}
    rates: dict[str, list[float]] = {source: [] for source in players}
    for number in range(options.rounds + 1):
        for source in list(players)[:: -1 if number % 2 else 1]:
            rate = players[source].play(options.seconds)
            if number > 0:  # the first round only warms up
                rates[source].append(rate)
    for player in players.values():
        player.env.close()
    spreads = {source: spread(values) for source, values in rates.items()}
    medians = {source: rate["median"] for source, rate in spreads.items()}
    auto, fastest = choose_source(base), max(medians, key=medians.get)
    return {
        "env": env,
        "num_envs": num_envs,
        "transitions_per_second": spreads,
        "auto": auto,
        "fastest": fastest,
        "auto_is_fastest": bool(medians[auto] >= TIE * medians[fastest]),
    }


def sources(env: str) -> list[str]:
    """Return the sources that can step an environment here."""
    own = "ale" if kind_of(env) == ATARI else "gymnasium"
    return [own, *(["envpool"] if importlib.util.find_spec("envpool") else [])]


class Player:
    """A source that plays on where it stopped, with random actions.

    Args:
        config: the task.
        source: what steps it.
    """

    def __init__(self, config: PpoConfig, source: str) -> None:
        config = dataclasses.replace(config, source=source)
        self.env = make_vector_env(config, range(config.num_envs))
        self.env.reset()
        self.generator = np.random.default_rng(0)
        self.resets = 0  # envs whose next step only resets

    def play(self, seconds: float) -> float:
        """Play for about so long; return transitions a second."""
        transitions, spent = 0, 0.0
        while spent < seconds:
            block = random_actions(self.env, self.generator)
            began = time.perf_counter()
            for actions in block:
                steps = self.env.step(actions)
                transitions += self.env.num_envs - self.resets
                self.resets = np.count_nonzero(steps.resets)
            spent += time.perf_counter() - began
        return transitions / spent


def random_actions(env: VectorEnv, generator: np.random.Generator) -> np.ndarray:
    """Return uniform actions of `BLOCK` steps."""
    shape = (BLOCK, env.num_envs)
    if env.discrete:
        return generator.integers(env.num_actions, size=shape)
    space = env.action_space
    return generator.uniform(space.low, space.high, (*shape, env.num_actions))


def line(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    parts = []
    for source, rate in row["transitions_per_second"].items():
        extremes = f"[{rate['min']:,.0f}, {rate['max']:,.0f}]"
        parts.append(f"{source:>9} {rate['median']:>7,.0f} {extremes:<18}")
    verdict = "fastest" if row["auto_is_fastest"] else "SLOWER"
    return (
        f"{row['env']:<16}{row['num_envs']:>3}  {''.join(parts)}  auto: {row['auto']} ({verdict})"
    )


if __name__ == "__main__":
    main()
