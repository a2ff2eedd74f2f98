"""The CUDA engine on a real GPU: equality with the CPU, speed, and the limits of the card.

    python benchmarks/gpu.py --out benchmarks/results/gpu_CARD.json
    compute-sanitizer --tool racecheck python benchmarks/gpu.py --sections equality --battles 8

Sections, of which each runs even if others fail:

* start: seconds until the first step, without and with stored kernels;
* arithmetic: the kernels' square roots and reciprocals against exact ones;
* ceilings: bytes and integer operations per second of the card;
* speed: steps with observation, state and mask by CUDA events, and the least time for their bytes
  and operations;
* torch: steps through the engine's PyTorch tensors, launched one by one and as a CUDA graph;
* equality: every scenario and several options against the CPU, byte for byte;
* smax: JaxMARL's SMAX, if it is installed.

It takes about five minutes on one GPU.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from smacv2 import ENGINE_VERSION
from smacv2.engine.backend import EngineBackend
from smacv2.engine.tables import TICKS_PER_STEP
from smacv2.scenario import load_scenario

Report = dict[str, Any]

RACES = ("terran", "protoss", "zerg")
SIZES = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")
SCENARIOS = tuple(f"{race}_{size}" for size in SIZES for race in RACES)
VARIANTS: dict[str, tuple[str, Report]] = {
    **{f"{race}_5_vs_5_conic": (f"{race}_5_vs_5_conic", {}) for race in RACES},
    **{f"{race}_6_vs_5_epo_05": (f"{race}_6_vs_5_epo_05", {}) for race in RACES},
    "upstream": ("protoss_5_vs_5_conic", {"rules": "upstream", "prob_obs_enemy": 0.5}),
    "everything observed": (
        "zerg_5_vs_5",
        {
            "obs_last_action": True, "obs_own_pos": True, "obs_timestep_number": True,
            "obs_pathing_grid": True, "obs_terrain_height": True, "state_timestep_number": True,
            "fully_observable": True, "action_mask": False,
        },
    ),
    "may 2022, state of observations": (
        "terran_5_vs_5",
        {
            "rules": "may_2022", "use_unit_ranges": False, "obs_instead_of_state": True,
            "enemy_medivacs": "with_side", "reward_only_positive": False,
        },
    ),
}  # fmt: skip
"""Other scenarios and options to compare with the CPU, by name."""

SPEEDS = {
    "terran_5_vs_5": (1024, 4096, 16384, 65536),
    "terran_10_vs_10": (1024, 4096, 16384, 65536),
    "terran_20_vs_20": (1024, 4096, 16384, 65536),
    "zerg_10_vs_10": (16384,),
    "protoss_10_vs_10": (16384,),
}
"""Batches to time by scenario."""

TORCH_BATCH = 16384
SMAX_BATCHES = (4096, 16384)
REPEATS = 5
STEPS = 20
WARM_UP_STEPS = 150
"""Steps before timing: after them, battles are at all stages."""

SMAX_STEPS = 100

TURN_OPERATIONS = 150
PAIR_OPERATIONS = 8
ROW_OPERATIONS = 40
"""Integer operations, counted by hand in the rules: of a unit's turn in one tick, of a comparison
of two units' places, of one row of an observation."""

INTEGERS_PER_CLOCK = 64
"""32-bit integer operations per clock of a multiprocessor of compute capability 9.0."""


def main() -> None:
    """Run the sections, write JSON and print a short table last."""
    sections: dict[str, Callable[[Report], Any]] = {
        "start": start, "arithmetic": arithmetic, "ceilings": ceilings, "speed": speed,
        "torch": torch_speed, "equality": equality, "smax": smax_speed,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    add("--sections", nargs="+", choices=sections, default=[*sections])
    add("--scenarios", nargs="+", help="of the section on equality (default: all, and variants)")
    add("--battles", type=int, default=256, help="of the section on equality")
    add("--steps", type=int, default=200, help="of the section on equality")
    args = parser.parse_args()
    report: Report = {"machine": machine(), "settings": vars(args) | {"out": str(args.out)}}
    for name in args.sections:
        began = time.perf_counter()
        try:
            report[name] = sections[name](report)
        except Exception as error:  # a failed section must not stop the others
            report[name] = {"failed": repr(error), "trace": traceback.format_exc()[-1500:]}
        print(f"{name}: {time.perf_counter() - began:.0f} s: {str(report[name])[:600]}", flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1))
    print(table(report))


def machine() -> Report:
    """Return the hardware and the versions of the measurement."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py: needs an NVIDIA GPU and PyTorch for CUDA")
    card = torch.cuda.get_device_properties(0)
    facts: Report = {"gpu": card.name, "multiprocessors": card.multi_processor_count}
    facts |= {"python": platform.python_version(), "cpus": os.cpu_count()}
    for name in ("numba", "numpy", "torch", "cuda-core", "cuda-bindings", "jax", "jaxmarl"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    return facts | {"engine_version": ENGINE_VERSION}


# --- Kernels ---

FIRST_STEP = """
import time
import numpy, torch
torch.zeros(1, device="cuda")
began = time.perf_counter()
from smacv2.gymnasium_env import SMACv2VectorEnv
envs = SMACv2VectorEnv("terran_10_vs_10", 1024, device="cuda")
envs.reset(seed=0)
envs.step(numpy.ones((1024, 10), numpy.int32))
print(time.perf_counter() - began)
"""


def start(_: Report) -> Report:
    """Return the seconds until a first step in a new process, PyTorch's own start apart."""
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "cached"):
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
            command = [sys.executable, "-c", FIRST_STEP]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            seconds[name] = round(float(done.stdout), 2)
    return seconds


ROOTS = """
extern "C" __global__ void run(const long long* n, int* roots, long long* inverses, int count) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < count) {
        roots[k] = smacv2::isqrt(n[k]);
        inverses[k] = smacv2::inverse(n[k] >> 20);
    }
}
"""


def arithmetic(_: Report) -> Report:
    """Compare square roots below 2**46 and reciprocals with exact ones, squares and all around."""
    import torch
    from cuda.core import Device, LaunchConfig, Program, ProgramOptions, Stream, launch

    from smacv2.engine.translate import PRELUDE

    rng = np.random.default_rng(0)
    roots = rng.integers(1, 1 << 23, 1 << 20)
    around = [roots**2 + offset for offset in (-1, 0, 1)]
    numbers = np.concatenate([np.arange(1 << 20), rng.integers(0, 1 << 46, 1 << 20), *around])
    n = torch.from_numpy(numbers).cuda()
    found = torch.zeros(len(n), dtype=torch.int32, device="cuda")
    inverses = torch.zeros_like(n)
    device = Device()
    device.set_current()
    options = ProgramOptions(arch=f"sm_{device.arch}", std="c++17", fma=False)
    kernel = Program(PRELUDE.read_text() + ROOTS, "c++", options).compile("cubin").get_kernel("run")
    stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
    config = LaunchConfig(grid=-(-len(n) // 256), block=256)
    addresses = (n.data_ptr(), found.data_ptr(), inverses.data_ptr())
    launch(stream, config, kernel, *addresses, np.int32(len(n)))
    torch.cuda.synchronize()
    exact = np.array([isqrt(int(number)) for number in numbers])
    quotients = (1 << 40) // np.maximum(numbers >> 20, 1)
    return {
        "numbers": len(numbers),
        "wrong_roots": int((found.cpu().numpy() != exact).sum()),
        "wrong_inverses": int((inverses.cpu().numpy() != quotients).sum()),
    }


# --- Limits of the card ---


def ceilings(_: Report) -> Report:
    """Return bytes per second of a copy, and integer operations per second at the clock of load."""
    import torch

    source = torch.randint(0, 1 << 30, (1 << 29,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    milliseconds = elapsed(lambda: target.copy_(source), 10)
    clock_hz = torch.cuda.clock_rate() * 1e6
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    return {
        "bytes_per_second": 2 * source.nbytes / milliseconds * 1000,
        "clock_hz": clock_hz,
        "operations_per_second": multiprocessors * INTEGERS_PER_CLOCK * clock_hz,
    }


def elapsed(action: Callable[[], Any], repeats: int) -> float:
    """Return the median milliseconds of an action on the device, after an untimed first run."""
    action()
    marks = [timed(action) for _ in range(repeats)]
    return statistics.median(begin.elapsed_time(end) for begin, end in finished(marks))


def timed(action: Callable[[], Any]) -> tuple[Any, Any]:
    """Run an action between two events."""
    import torch

    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    action()
    end.record()
    return begin, end


def finished(marks: list[Any]) -> list[Any]:
    """Return the events after the device has passed all of them."""
    import torch

    torch.cuda.synchronize()
    return marks


def floor(driver: Any, rules: np.ndarray) -> Report:
    """Return the least bytes and operations of one step of one battle.

    Battles are read and written once, outputs are written once, and actions and their mask entries
    are read once.
    """
    sizes = {name: tensor.nbytes for name, tensor in driver.arrays.items()}
    num_envs, num_agents = driver.arrays["actions"].shape
    num_units = driver.arrays["units"].shape[2]
    twice = ("units", "world", "sights")
    moved = sum(size * (2 if name in twice else 1) for name, size in sizes.items())
    tick = num_units * TURN_OPERATIONS + num_units**2 * PAIR_OPERATIONS
    rows = (num_agents + 1) * num_units
    return {
        "step_bytes": moved // num_envs + num_agents,
        "step_operations": int(rules[TICKS_PER_STEP]) * tick + rows * ROW_OPERATIONS,
    }


# --- Speed ---


def prepare(scenario: str, num_envs: int) -> tuple[Any, Callable[[], Any], np.ndarray]:
    """Return a driver with battles on the GPU, a function that draws actions, and the rules."""
    import torch

    backend = reset(scenario, num_envs, "cuda")
    driver = backend.driver
    mask, actions = driver.arrays["action_mask"], driver.arrays["actions"]

    def draw() -> None:
        actions.copy_((torch.rand(mask.shape, device="cuda") * mask).argmax(-1))

    for _ in range(WARM_UP_STEPS):
        draw()
        driver.launch()
    return driver, draw, backend.tables.rules


def speed(report: Report) -> list[Report]:
    """Time steps with CUDA events, between which actions are drawn; medians of five repeats."""
    rows = []
    for scenario, batches in SPEEDS.items():
        for num_envs in batches:
            driver, draw, rules = prepare(scenario, num_envs)
            whole = [step_milliseconds(driver, draw) for _ in range(REPEATS)]
            row: Report = {"scenario": scenario, "num_envs": num_envs}
            row |= spread([num_envs / milliseconds * 1000 for milliseconds in whole])
            row |= {"step_milliseconds": round(statistics.median(whole), 4)}
            row |= parts(driver, draw)
            rows.append(row | share(floor(driver, rules), report.get("ceilings"), row))
            driver.close()
    return rows


def step_milliseconds(driver: Any, draw: Callable[[], Any]) -> float:
    """Return the mean milliseconds of a step on the device, without drawing actions."""
    marks = []
    for _ in range(STEPS):
        draw()
        marks.append(timed(driver.launch))
    return statistics.mean(begin.elapsed_time(end) for begin, end in finished(marks))


def parts(driver: Any, draw: Callable[[], Any]) -> Report:
    """Return the mean milliseconds of each kernel of a step, run after each other."""
    seconds: dict[str, list[float]] = {"play": [], "reset": [], "show": []}
    for _ in range(STEPS):
        draw()
        for name, kernel in zip(seconds, driver.kernels(), strict=True):
            begin, end = finished([timed(kernel)])[0]
            seconds[name].append(begin.elapsed_time(end))
    return {f"{name}_milliseconds": round(statistics.mean(s), 4) for name, s in seconds.items()}


def share(needs: Report, rates: Report | None, row: Report) -> Report:
    """Return the least milliseconds of a batch's step, and their share of the measured time."""
    if not rates:
        return needs
    per_second = {name: rates[f"{name}_per_second"] for name in ("bytes", "operations")}
    floors = {
        name: needs[f"step_{name}"] * row["num_envs"] / rate * 1000
        for name, rate in per_second.items()
    }
    return {
        **needs,
        "floor_milliseconds": {name: round(value, 4) for name, value in floors.items()},
        "share_of_floor": round(max(floors.values()) / row["step_milliseconds"], 4),
    }


def torch_speed(_: Report) -> list[Report]:
    """Time whole steps by the wall clock: PyTorch draws actions and reads observations in place."""
    import torch

    rows = []
    for scenario in SPEEDS:
        driver, draw, _ = prepare(scenario, TORCH_BATCH)
        obs = driver.arrays["obs"]
        for name, launch in {"launched": driver.launch, "graph": graph_of(driver)}.items():
            rates = [wall_rate(draw, launch, obs) for _ in range(REPEATS)]
            rows.append({
                "scenario": scenario, "num_envs": TORCH_BATCH, "start": name,
                "finite": bool(torch.isfinite(obs).all()), **spread(rates),
            })  # fmt: skip
        driver.close()
    return rows


def graph_of(driver: Any) -> Callable[[], Any]:
    """Return a function that replays a step as one CUDA graph."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        driver.launch()
    return graph.replay


def wall_rate(draw: Callable[[], Any], launch: Callable[[], Any], obs: Any) -> float:
    """Return steps per second, with drawing actions and reading observations."""
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    total = torch.zeros((), device="cuda")
    for _ in range(STEPS):
        draw()
        launch()
        total += obs.sum()
    torch.cuda.synchronize()
    return STEPS * TORCH_BATCH / (time.perf_counter() - began)


# --- Equality with the CPU ---


def equality(report: Report) -> Report:
    """Play the same battles on both devices; return the first difference of each scenario."""
    settings = report["settings"]
    games = {name: (name, {}) for name in SCENARIOS} | VARIANTS
    if settings["scenarios"]:
        games = {name: games.get(name, (name, {})) for name in settings["scenarios"]}
    found = {}
    for name, (scenario, options) in games.items():
        found[name] = first_difference(scenario, options, settings["battles"], settings["steps"])
        print(f"  {name}: {found[name] or 'equal'}", flush=True)
    return {
        "battles": settings["battles"],
        "steps": settings["steps"],
        "equal": [name for name, difference in found.items() if difference is None],
        "differences": {name: d for name, d in found.items() if d is not None},
    }


def first_difference(scenario: str, options: Report, num_envs: int, steps: int) -> Report | None:
    """Return the first byte that differs between CPU and CUDA, or None."""
    cpu, gpu = (reset(scenario, num_envs, device, **options) for device in ("cpu", "cuda"))
    rng = np.random.default_rng(0)
    for step in range(steps + 1):
        if difference := compare(cpu, gpu):
            return {"step": step, **difference}
        mask = cpu.outputs.action_mask
        actions = (rng.random(mask.shape, np.float32) * mask).argmax(-1).astype(np.int32)
        cpu.step(actions)
        gpu.step(actions)
    return None


def reset(scenario: str, num_envs: int, device: str, **options: Any) -> EngineBackend:
    """Return a batch of battles, reset with seeds 0, 1, ..."""
    loaded = load_scenario(scenario)
    backend = EngineBackend(loaded, loaded.options.replace(**options), num_envs, device=device)
    backend.reset(np.ones(num_envs, np.bool_), np.arange(num_envs, dtype=np.uint64))
    return backend


def compare(cpu: EngineBackend, gpu: EngineBackend) -> Report | None:
    """Return field, index and both values of the first byte that differs."""
    arrays = [(cpu.state, gpu.state, name) for name in ("units", "world", "sights")]
    names = ("obs", "state", "action_mask", "reward", "terminated", "truncated")
    arrays += [(cpu.outputs, gpu.outputs, name) for name in names]
    for ours, theirs, name in arrays:
        left, right = getattr(ours, name), getattr(theirs, name)
        if left.tobytes() != right.tobytes():
            index = tuple(int(i) for i in np.argwhere(left != right)[0])
            values = {"cpu": str(left[index]), "cuda": str(right[index])}
            return {"field": name, "index": index, **values}
    return None


# --- SMAX, for comparison ---


def smax_speed(_: Report) -> list[Report]:
    """Time JaxMARL's SMAX with random actions in jitted scans over vmapped environments."""
    import jax
    import jaxmarl
    from jaxmarl.environments.smax import map_name_to_scenario

    env = jaxmarl.make("HeuristicEnemySMAX", scenario=map_name_to_scenario("smacv2_10_units"))
    rows = []
    for num_envs in SMAX_BATCHES:
        run = jax.jit(lambda key, n=num_envs: scan_smax(jax, env, key, n))
        run(jax.random.PRNGKey(0)).block_until_ready()
        rates = []
        for seed in range(1, REPEATS + 1):
            began = time.perf_counter()
            run(jax.random.PRNGKey(seed)).block_until_ready()
            rates.append(SMAX_STEPS * num_envs / (time.perf_counter() - began))
        rows.append({"scenario": "smacv2_10_units", "num_envs": num_envs, **spread(rates)})
    return rows


def scan_smax(jax: Any, env: Any, key: Any, num_envs: int) -> Any:
    """Play random actions in SMAX and return the summed rewards."""
    key, reset_key = jax.random.split(key)
    _, state = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))

    def step(carry: Any, key: Any) -> Any:
        action_key, step_key = jax.random.split(key)
        keys = jax.random.split(action_key, env.num_agents)
        actions = {
            agent: jax.random.randint(keys[i], (num_envs,), 0, env.action_space(agent).n)
            for i, agent in enumerate(env.agents)
        }
        step_keys = jax.random.split(step_key, num_envs)
        _, carry, reward, _, _ = jax.vmap(env.step)(step_keys, carry, actions)
        return carry, reward[env.agents[0]].sum()

    _, rewards = jax.lax.scan(step, state, jax.random.split(key, SMAX_STEPS))
    return rewards.sum()


# --- Figures ---


def spread(rates: list[float]) -> Report:
    """Return median, minimum and maximum of the rates, in environment steps per second."""
    return {
        "median": round(statistics.median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
    }


def table(report: Report) -> str:
    """Return the figures as a short text table."""
    lines = [f"machine {report['machine']}"]
    for section in ("speed", "torch", "smax"):
        rows = report.get(section, [])
        for row in rows if isinstance(rows, list) else []:
            notes = [row.get("start", "")]
            if "play_milliseconds" in row:
                names = ("play", "reset", "show")
                notes.append(
                    ", ".join(f"{name} {row[f'{name}_milliseconds']} ms" for name in names)
                )
                if "share_of_floor" in row:
                    notes.append(f"floor is {row['share_of_floor']:.1%}")
            lines.append(
                f"{section:6} {row['scenario']:16} {row['num_envs']:6} "
                f"{row['median'] / 1e6:7.2f} M steps/s [{row['min'] / 1e6:.2f}, "
                f"{row['max'] / 1e6:.2f}] {' '.join(notes)}"
            )
    lines.append(f"equality {report.get('equality')}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
