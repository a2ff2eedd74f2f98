"""The CUDA engine on a real GPU: equality with the CPU, speed, and the limits of the card.

    python benchmarks/gpu.py --out benchmarks/results/gpu_CARD.json

Sections, of which each runs even if others fail:

* compile: seconds, registers, spills;
* ceilings: bytes and integer operations per second of the card;
* speed: steps with observation, state and mask by CUDA events, and the least time for their bytes
  and operations;
* torch: steps through PyTorch tensors that share the engine's memory, launched one by one and as a
  CUDA graph;
* equality: every scenario against the CPU, byte for byte;
* smax: JaxMARL's SMAX, if it is installed.

It takes about five minutes on one GPU. Without a GPU only the equality section runs, on a few
battles, in Numba's simulator.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SIMULATED = not (Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi"))
if SIMULATED:
    os.environ |= {"NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1"}

import numpy as np  # noqa: E402  Numba reads the variables at import

from smacv2.engine.backend import EngineBackend  # noqa: E402
from smacv2.engine.tables import TICKS_PER_STEP  # noqa: E402
from smacv2.scenario import load_scenario  # noqa: E402

Report = dict[str, Any]

RACES = ("terran", "protoss", "zerg")
SIZES = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")
SPEED_SCENARIOS = ("terran_5_vs_5", "terran_10_vs_10", "terran_20_vs_20")
SPEED_BATCHES = (1024, 4096, 16384, 65536)
TORCH_BATCH = 16384
SMAX_BATCHES = (4096, 16384)
REPEATS = 5
STEPS = 20
WARM_UP_STEPS = 30
SMAX_STEPS = 100

TURN_OPERATIONS = 150
PAIR_OPERATIONS = 8
ROW_OPERATIONS = 40
"""Integer operations, counted by hand in the rules: of a unit's turn in one tick, of a comparison
of two units' bounding squares, of one row of an observation."""

INTEGERS_PER_CLOCK = 64
"""32-bit integer operations per clock of a multiprocessor of compute capability 9.0."""


def main() -> None:
    """Run every section, write JSON and print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    args = parser.parse_args()
    sections: dict[str, Callable[[Report], Any]] = {"machine": machine}
    if not SIMULATED:
        sections |= {"compile": compile_kernels, "ceilings": ceilings}
        sections |= {"speed": speed, "torch": torch_speed}
    sections |= {"equality": equality}
    if not SIMULATED:
        sections |= {"smax": smax_speed}
    report: Report = {}
    for name, section in sections.items():
        began = time.perf_counter()
        try:
            report[name] = section(report)
        except Exception as error:  # a failed section must not stop the others
            report[name] = {"failed": repr(error), "trace": traceback.format_exc()[-1500:]}
        print(f"{name}: {time.perf_counter() - began:.0f} s: {str(report[name])[:600]}", flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1))
    print(table(report))


def machine(_: Report) -> Report:
    """Return the hardware and the versions of the measurement."""
    facts: Report = {"python": platform.python_version(), "cpus": os.cpu_count()}
    for name in ("numba", "numba-cuda", "numpy", "torch", "jax", "jaxmarl"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    if SIMULATED:
        return facts | {"gpu": "none: Numba's simulator, few battles"}
    import torch

    card = torch.cuda.get_device_properties(0)
    return facts | {"gpu": card.name, "multiprocessors": card.multi_processor_count}


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
    sizes = {n: array.size * array.dtype.itemsize for n, array in driver.arrays.items()}
    num_agents, num_envs = driver.arrays["actions"].shape
    num_units = driver.arrays["units"].shape[1]
    twice = ("units", "world", "sights")
    moved = sum(size * (2 if name in twice else 1) for name, size in sizes.items())
    tick = num_units * TURN_OPERATIONS + num_units**2 * PAIR_OPERATIONS
    rows = (num_agents + 1) * num_units
    return {
        "step_bytes": moved // num_envs + num_agents,
        "step_operations": int(rules[TICKS_PER_STEP]) * tick + rows * ROW_OPERATIONS,
    }


# --- Speed ---


def compile_kernels(_: Report) -> Report:
    """Time the first reset, which compiles; report registers and local memory per thread."""
    from smacv2.engine.cuda import kernel, play_battles, show_agents

    began = time.perf_counter()
    prepare("terran_5_vs_5", 64)
    report: Report = {"seconds": round(time.perf_counter() - began, 1)}
    for function in (play_battles, show_agents):
        compiled = kernel(function)
        report[function.__name__] = {
            "registers": max(compiled.get_regs_per_thread().values()),
            "local_bytes": max(compiled.get_local_mem_per_thread().values()),
        }
    return report


def prepare(scenario: str, num_envs: int) -> tuple[Any, Callable[[], Any], np.ndarray]:
    """Return a driver with battles on the GPU, a function that draws actions, and the rules."""
    import torch

    backend = reset(scenario, num_envs, "cuda")
    driver = backend.driver
    mask = torch.as_tensor(driver.arrays["action_mask"], device="cuda")
    actions = torch.as_tensor(driver.arrays["actions"], device="cuda")

    def draw() -> None:
        actions.copy_((torch.rand(mask.shape, device="cuda") * mask).argmax(1))

    for _ in range(WARM_UP_STEPS):
        draw()
        driver.launch()
    return driver, draw, backend.tables.rules


def speed(report: Report) -> list[Report]:
    """Time steps with CUDA events, between which actions are drawn; medians of five repeats."""
    rows = []
    for scenario in SPEED_SCENARIOS:
        for num_envs in SPEED_BATCHES:
            driver, draw, rules = prepare(scenario, num_envs)
            whole = [step_milliseconds(driver, draw, driver.launch) for _ in range(REPEATS)]
            # The kernels are timed within whole steps: actions need the mask that show writes.
            play, show = parts(driver, draw)
            row: Report = {"scenario": scenario, "num_envs": num_envs}
            row |= spread([num_envs / milliseconds * 1000 for milliseconds in whole])
            row |= {"step_milliseconds": round(statistics.median(whole), 4)}
            row |= {"play_milliseconds": round(play, 4), "show_milliseconds": round(show, 4)}
            rows.append(row | share(floor(driver, rules), report["ceilings"], row))
            driver.close()
    return rows


def step_milliseconds(driver: Any, draw: Callable[[], Any], launch: Callable[[], Any]) -> float:
    """Return the mean milliseconds of a step on the device, without drawing actions."""
    marks = []
    for _ in range(STEPS):
        draw()
        marks.append(timed(launch))
    return statistics.mean(begin.elapsed_time(end) for begin, end in finished(marks))


def parts(driver: Any, draw: Callable[[], Any]) -> tuple[float, float]:
    """Return the mean milliseconds of both kernels of a step."""
    marks = []
    for _ in range(STEPS):
        draw()
        marks.append((timed(driver.play), timed(driver.show)))
    return tuple(  # type: ignore[return-value]
        statistics.mean(pair[part][0].elapsed_time(pair[part][1]) for pair in finished(marks))
        for part in range(2)
    )


def share(needs: Report, rates: Report, row: Report) -> Report:
    """Return the least milliseconds of a batch's step, and their share of the measured time."""
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
    for scenario in SPEED_SCENARIOS:
        driver, draw, _ = prepare(scenario, TORCH_BATCH)
        obs = torch.as_tensor(driver.arrays["obs"], device="cuda")
        shares = obs.data_ptr() == driver.arrays["obs"].__cuda_array_interface__["data"][0]
        for name, launch in {"launched": driver.launch, "graph": graph_of(driver)}.items():
            rates = [wall_rate(draw, launch, obs) for _ in range(REPEATS)]
            rows.append({
                "scenario": scenario, "num_envs": TORCH_BATCH, "start": name,
                "copies": not shares, "finite": bool(obs.isfinite().all()), **spread(rates),
            })  # fmt: skip
        driver.close()
    return rows


def graph_of(driver: Any) -> Callable[[], Any]:
    """Return a function that replays a step as one CUDA graph."""
    import torch
    from numba import cuda

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        driver.launch(stream=cuda.external_stream(torch.cuda.current_stream().cuda_stream))
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


def equality(_: Report) -> Report:
    """Play the same battles on both devices; return the first difference of each scenario."""
    num_envs, steps = (2, 3) if SIMULATED else (256, 200)
    sizes = SIZES[:1] if SIMULATED else SIZES
    scenarios = [f"{race}_{size}" for size in sizes for race in RACES]
    found = {name: first_difference(name, num_envs, steps) for name in scenarios}
    return {
        "battles": num_envs,
        "steps": steps,
        "equal": [name for name, difference in found.items() if difference is None],
        "differences": {name: d for name, d in found.items() if d is not None},
    }


def first_difference(scenario: str, num_envs: int, steps: int) -> Report | None:
    """Return the first byte that differs between CPU and CUDA, or None."""
    cpu, gpu = reset(scenario, num_envs, "cpu"), reset(scenario, num_envs, "cuda")
    rng = np.random.default_rng(0)
    for step in range(steps + 1):
        if difference := compare(cpu, gpu):
            return {"step": step, **difference}
        mask = cpu.outputs.action_mask
        actions = (rng.random(mask.shape, np.float32) * mask).argmax(-1).astype(np.int32)
        cpu.step(actions)
        gpu.step(actions)
    return None


def reset(scenario: str, num_envs: int, device: str) -> EngineBackend:
    """Return a batch of battles, reset with seeds 0, 1, ..."""
    loaded = load_scenario(scenario)
    backend = EngineBackend(loaded, loaded.options, num_envs, device=device)
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
                notes.append(
                    f"play {row['play_milliseconds']} + show {row['show_milliseconds']} ms"
                )
                notes.append(f"{row['share_of_floor']:.1%} of the floor")
            lines.append(
                f"{section:6} {row['scenario']:16} {row['num_envs']:6} "
                f"{row['median'] / 1e6:7.2f} M steps/s [{row['min'] / 1e6:.2f}, "
                f"{row['max'] / 1e6:.2f}] {' '.join(notes)}"
            )
    lines.append(f"equality {report.get('equality')}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
