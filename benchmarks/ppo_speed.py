"""Measure PPO on MuJoCo beside a plain loop, and what the probe costs.

    python benchmarks/ppo_speed.py           # about eight minutes
    python benchmarks/ppo_speed.py --quick   # about one; too few rounds to quote

Every variant lives in a process of its own with one PyTorch thread, and waits while another is
measured. A round runs each variant for a few iterations, forwards and backwards by turns, so that
a change in the machine's speed reaches all alike; ratios compare within a round. Rates are
transitions a second, summed over seeds, from one iteration's begin to the next; ours writes its
logs meanwhile, the plain loop (benchmarks/plain_ppo.py) writes none. `plain x2` is two plain loops
at once, the fair alternative to stacked seeds on two cores.

Prints tables and writes `benchmarks/results/ppo_speed.json`. Keep the machine otherwise idle.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "ppo_speed.json"
PACKAGES = ("numpy", "torch", "gymnasium", "mujoco", "envpool", "smacv2-suite")
PARTS = ("env", "inference", "learn", "probe")
FOREVER = 10_000_000  # steps that a learner plans for, so that its learning rate hardly falls
PROBE_EVERY = 3  # iterations, the published rate on MuJoCo (Moalla et al. 2024)
QUICK = {"envs": ["HalfCheetah-v5"], "rounds": 2, "iterations": 1}


@dataclasses.dataclass(frozen=True)
class Variant:
    """The training of one worker process."""

    name: str
    env: str
    profile: str = "cleanrl"  # "plain": the plain loop
    source: str = "auto"
    seeds: int = 1
    probe: int = 0
    processes: int = 1


def main() -> None:
    """Measure, print and store."""
    options = read_options()
    if options.worker:
        work(Variant(**json.loads(options.worker)))
        return
    use_cores(options.cores)
    started = {"machine": machine(PACKAGES), "rounds": options.rounds}
    results = {}
    for env in options.envs:
        rounds = measure(speed_variants(env), options.iterations, options.rounds)
        results[env] = summary(rounds, "plain")
        print(table(env, results[env]), flush=True)
    probed = measure(probe_variants(options.probe_env), PROBE_EVERY, options.rounds)
    probe = summary(probed, "probe off")
    print(table(f"{options.probe_env}, paper profile", probe))
    share = probe[f"probe every {PROBE_EVERY}"]["shares"]["probe"]
    print(f"the probe takes {share:.2%} of the time at the published rate")
    stored = started | {"iterations": options.iterations, "results": results}
    stored["probe"] = {"env": options.probe_env, "results": probe}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(stored, indent=2) + "\n")
    print(f"stored in {options.output}")


def read_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description="Measure PPO on MuJoCo beside a plain loop.")
    add = parser.add_argument
    add("--quick", action="store_true", help="one environment, few rounds: to try the script")
    add("--envs", nargs="+", metavar="ID", help="default: HalfCheetah-v5 Hopper-v5")
    add("--probe-env", default="Hopper-v5", metavar="ID", help="where the probe is measured")
    add("--rounds", type=int, help="how often each variant is measured (default: 7)")
    add("--iterations", type=int, help="of 2,048 steps per seed in a round (default: 2)")
    add("--cores", type=int, default=2, help="use so many cores (default: 2)")
    add("--output", type=Path, help="JSON file to write (not written with --quick unless given)")
    add("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    defaults = {"envs": ["HalfCheetah-v5", "Hopper-v5"], "rounds": 7, "iterations": 2}
    for name, value in (QUICK if options.quick else defaults).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.output = options.output or (Path(os.devnull) if options.quick else RESULTS)
    return options


def speed_variants(env: str) -> list[Variant]:
    """Return the variants that are compared on an environment."""
    sources = ["gymnasium", *(["envpool"] if importlib.util.find_spec("envpool") else [])]
    return [
        Variant("plain", env, "plain"),
        *(Variant(source, env, source=source) for source in sources),
        Variant("plain x2", env, "plain", processes=2),
        *(Variant(f"{source}, 5 seeds", env, source=source, seeds=5) for source in sources),
    ]


def probe_variants(env: str) -> list[Variant]:
    """Return the paper's profile without and with the probe."""
    return [
        Variant("probe off", env, "paper"),
        Variant(f"probe every {PROBE_EVERY}", env, "paper", probe=PROBE_EVERY),
    ]


Round = dict[str, dict[str, float]]  # by variant: transitions a second, and seconds of each part


def measure(variants: Sequence[Variant], iterations: int, rounds: int) -> list[Round]:
    """Return the figures of each round, after a first round that only warms up."""
    with tempfile.TemporaryDirectory() as folder:
        crews = {
            variant.name: [Worker(variant, folder) for _ in range(variant.processes)]
            for variant in variants
        }
        try:
            for crew in crews.values():
                for worker in crew:
                    worker.wait()  # until it is ready
            found = []
            for number in range(rounds + 1):
                turn = list(crews)[:: -1 if number % 2 else 1]
                figures = {name: run(crews[name], iterations) for name in turn}
                found.append({name: figures[name] for name in crews})
        finally:
            for crew in crews.values():
                for worker in crew:
                    worker.close()
    return found[1:]


def run(crew: Sequence["Worker"], iterations: int) -> dict[str, float]:
    """Let workers run some iterations at once; return their joint rate and seconds of each part."""
    began = time.perf_counter()
    for worker in crew:
        worker.start(iterations)
    reports = [worker.wait() for worker in crew]
    seconds = time.perf_counter() - began
    parts = {part: sum(report[part] for report in reports) for part in PARTS}
    return {"rate": sum(report["steps"] for report in reports) / seconds, **parts}


class Worker:
    """A process that trains one variant when told to.

    Args:
        variant: what it trains.
        folder: where it may leave files.
    """

    def __init__(self, variant: Variant, folder: str) -> None:
        command = [sys.executable, __file__, "--worker", json.dumps(dataclasses.asdict(variant))]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=folder, env=os.environ | threads, **pipes)
        self.name = variant.name

    def start(self, iterations: int) -> None:
        """Begin some iterations."""
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()

    def wait(self) -> dict[str, float]:
        """Return the report: transitions, and seconds of each part."""
        for text in self.process.stdout:
            if text.startswith("{"):  # libraries print too
                return json.loads(text)
        raise SystemExit(f"{self.name}: its process ended ({self.process.wait()})")

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def work(variant: Variant) -> None:
    """Be a worker: for each number read, run so many iterations and report."""
    import torch

    torch.set_num_threads(1)
    iterate = plain_iterations(variant) if variant.profile == "plain" else iterations_of(variant)
    print("{}", flush=True)
    for text in sys.stdin:
        totals = dict.fromkeys(("steps", *PARTS), 0.0)
        for _ in range(int(text)):
            for name, value in iterate().items():
                totals[name] += value
        print(json.dumps(totals), flush=True)


def plain_iterations(variant: Variant) -> Callable[[], dict[str, float]]:
    """Return a function that runs one iteration of the plain loop."""
    import plain_ppo

    learner = plain_ppo.PlainPpo(variant.env, 1, FOREVER // plain_ppo.NUM_STEPS)
    return lambda: learner.iterate() | {"steps": plain_ppo.NUM_STEPS}


def iterations_of(variant: Variant) -> Callable[[], dict[str, float]]:
    """Return a function that runs one iteration of `baselines ppo` and writes its logs."""
    from baselines.cli import training_config
    from baselines.learners.ppo import Ppo
    from baselines.runs.folder import RunGroup
    from baselines.runs.loop import broken_losses, refuse
    from baselines.runs.process import prepare_torch

    config = dataclasses.replace(
        training_config("ppo", ["--env", variant.env, "--profile", variant.profile]),
        source=variant.source,
        seeds=variant.seeds,
        probe=variant.probe,
        total_steps=FOREVER,
        runs_dir=f"runs-{os.getpid()}",
    )
    prepare_torch(config.num_threads, config.device)
    learner = Ppo(config)
    runs = RunGroup.start("ppo", config, learner.environment)

    def iterate() -> dict[str, float]:
        before = learner.global_steps.sum()
        metrics = learner.iterate()
        runs.log(learner.global_steps, metrics)
        refuse(learner, runs, broken_losses(metrics))
        seconds = {part: metrics[0][f"time/{part}_seconds"] for part in PARTS}
        return seconds | {"steps": int(learner.global_steps.sum() - before)}

    return iterate


def summary(rounds: Sequence[Round], reference: str) -> dict[str, dict[str, Any]]:
    """Return each variant's rates, their ratios to the reference's, and shares of time."""
    found = {}
    for name in rounds[0]:
        ours = [figures[name] for figures in rounds]
        totals = {part: sum(figures[part] for figures in ours) for part in PARTS}
        whole = sum(totals.values())
        found[name] = {
            "transitions_per_second": spread([figures["rate"] for figures in ours]),
            "ratio": spread([each[name]["rate"] / each[reference]["rate"] for each in rounds]),
            "shares": {part: spent / whole for part, spent in totals.items()},
        }
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, least, largest and all of some figures."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": list(values),
    }


def table(title: str, results: dict[str, dict[str, Any]]) -> str:
    """Return the lines of one table."""
    reference = next(iter(results))
    lines = [
        f"{title:<26}{'steps/s':>9}  {'[min, max]':<18}{f'x {reference}':>11}  "
        + f"{'[min, max]':<14}"
        + "".join(f"{part:>11}" for part in PARTS)
    ]
    for name, row in results.items():
        rate, ratio = row["transitions_per_second"], row["ratio"]
        rates = f"[{rate['min']:,.0f}, {rate['max']:,.0f}]"
        ratios = f"[{ratio['min']:.2f}, {ratio['max']:.2f}]"
        shares = "".join(f"{row['shares'][part]:>11.1%}" for part in PARTS)
        lines.append(
            f"{name:<26}{rate['median']:>9,.0f}  {rates:<18}{ratio['median']:>11.2f}"
            f"  {ratios:<14}{shares}"
        )
    return "\n".join(lines) + "\n"


def use_cores(count: int) -> None:
    """Keep this process and its children on so many of the cores they may use."""
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[:count])
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): do not quote these figures", flush=True)


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """Return the machine and the versions behind the figures, a missing package as None."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "processor": models[0] if models else platform.machine(),
        "usable_threads": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


if __name__ == "__main__":
    main()
