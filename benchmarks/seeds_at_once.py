"""PQN's seeds at once: steps/s of all together, with networks run as one and one after the other.

Each is made here on both devices, whatever the learner does there.

    python benchmarks/seeds_at_once.py --device cuda

docs/pqn.md shows the numbers; they are stored beside those of the other device.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from battle_learners import PARTS, summary, summary_line, write
from ppo_speed import machine

from baselines.config import PqnConfig
from baselines.learners import pqn_stack
from baselines.networks import network_stack
from baselines.runs.process import prepare_torch

RESULTS = Path(__file__).parent / "results" / "seeds_at_once.json"
ENV = "smacv2/terran_5_vs_5"
WARM, ROUNDS = 2, 10


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 3, 5, 8])
    parser.add_argument("--encoders", nargs="*", default=["mlp", "attention"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    kind = torch.device(options.device).type
    found[kind] = {"machine": machine(("numpy", "torch")) | {"threads": options.threads}}
    if kind == "cuda":
        found[kind]["machine"]["gpu"] = torch.cuda.get_device_name()
    for encoder in options.encoders:
        for seeds in options.seeds:
            for name in ("as one", "in turn"):
                row = measure(options, encoder, seeds, as_one=name == "as one")
                found[kind].setdefault(encoder, {}).setdefault(str(seeds), {})[name] = row
                print(f"{kind} {encoder} {seeds} {name:<8}{summary_line(row)}", flush=True)
            write(options.out, found)


def measure(
    options: argparse.Namespace, encoder: str, seeds: int, *, as_one: bool
) -> dict[str, Any]:
    """Return steps/s of all seeds over iterations after warming up, and shares of time."""
    config = PqnConfig(
        env=ENV,
        seeds=seeds,
        encoder=encoder,
        device=options.device,
        num_threads=options.threads,
        total_steps=10**9,
    )
    prepare_torch(options.threads, options.device)
    pqn_stack.runs_as_one = lambda _: as_one
    if options.device == "cpu":
        network_stack.PLACES = seeds  # products are the same there without empty places
    group = pqn_stack.make_group(config)
    for _ in range(WARM):
        group.iterate()
    rates, spent = [], dict.fromkeys(PARTS, 0.0)
    for _ in range(ROUNDS):
        before, began = sum(group.global_steps), time.perf_counter()
        metrics = group.iterate()
        rates.append((sum(group.global_steps) - before) / (time.perf_counter() - began))
        for part in spent:  # a group as one shares its time: shares are the same
            spent[part] += sum(row[f"time/{part}_seconds"] for row in metrics)
    group.close()
    return summary(rates, spent)


if __name__ == "__main__":
    main()
