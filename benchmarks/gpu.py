"""The CUDA engine on a real GPU: does it equal the CPU, and how fast is it?

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

Five sections, each of which survives the failure of the others: compile, equality (every scenario,
byte for byte), speed (CUDA events, observations and masks included), torch (the same through torch
tensors that share the engine's memory), smax (JaxMARL's SMAX, where it is installed). Without a GPU
the equality section runs in Numba's simulator at toy size, if ``NUMBA_ENABLE_CUDASIM=1`` and
``NUMBA_DISABLE_JIT=1`` are set.
"""

import argparse
import json
import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from smacv2.engine.backend import EngineBackend
from smacv2.scenario import load_scenario

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
SPEED_SCENARIOS = ("terran_5_vs_5", "terran_10_vs_10", "terran_20_vs_20")
SPEED_BATCHES = (1024, 4096, 16384, 65536)
REPEATS = 5
STEPS = 20
RACES = ("terran", "protoss", "zerg")
SIZES = ("5_vs_5", "10_vs_10", "10_vs_11", "20_vs_20", "20_vs_23")


def main() -> None:
    """Run every section, write JSON and print a short table last."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    args = parser.parse_args()
    report: dict[str, Any] = {"machine": machine()}
    sections = {"compile": compile_kernel, "equality": equality}
    if not SIMULATED:
        sections |= {"speed": speed, "torch": torch_speed, "smax": smax_speed}
    for name, section in sections.items():
        start = time.perf_counter()
        try:
            report[name] = section()
        except Exception as error:  # a section must not take the others along
            report[name] = {"failed": repr(error), "trace": traceback.format_exc()[-1500:]}
        print(
            f"{name}: {time.perf_counter() - start:.0f} s: {str(report[name])[:2000]}", flush=True
        )
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1))
    print(table(report))


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    facts = {"python": platform.python_version(), "cpus": str(os.cpu_count())}
    for name in ("numba", "numba_cuda", "torch", "numpy", "jax"):
        try:
            facts[name] = __import__(name).__version__
        except Exception as error:
            facts[name] = type(error).__name__
    if not SIMULATED:
        from numba import cuda

        facts["gpu"] = str(cuda.get_current_device().name)
    return facts


def start(scenario: str, num_envs: int, device: str) -> EngineBackend:
    """Return a batch of battles, reset with seeds 0, 1, ..."""
    loaded = load_scenario(scenario)
    backend = EngineBackend(loaded, loaded.options, num_envs, device=device)
    backend.reset(np.ones(num_envs, np.bool_), np.arange(num_envs, dtype=np.uint64))
    return backend


def compile_kernel() -> dict[str, Any]:
    """Time the first reset (compiles), and report registers and local memory a thread."""
    begin = time.perf_counter()
    backend = start("terran_5_vs_5", 4 if SIMULATED else 64, "cuda")
    seconds = time.perf_counter() - begin
    report: dict[str, Any] = {"seconds": round(seconds, 1)}
    if not SIMULATED:
        kernel = backend.driver._kernel
        for name in ("get_regs_per_thread", "get_local_mem_per_thread"):
            report[name[4:]] = list(getattr(kernel, name)().values())
    return report


def equality() -> dict[str, Any]:
    """Play the same battles on both devices; return the first difference of each scenario."""
    num_envs, steps = (2, 10) if SIMULATED else (256, 200)
    scenarios = [f"{race}_{size}" for size in SIZES for race in RACES]
    differences = {
        name: difference for name in scenarios if (difference := compare(name, num_envs, steps))
    }
    return {
        "scenarios": len(scenarios),
        "battles": num_envs,
        "steps": steps,
        "differences": differences,
    }


def compare(scenario: str, num_envs: int, steps: int) -> dict[str, Any] | None:
    """Return the first difference between CPU and CUDA, or None."""
    cpu, gpu = start(scenario, num_envs, "cpu"), start(scenario, num_envs, "cuda")
    rng = np.random.default_rng(0)
    for step in range(steps):
        if difference := first_difference(cpu, gpu):
            return {"step": step, **difference}
        mask = cpu.outputs.action_mask
        actions = (rng.random(mask.shape, np.float32) * mask).argmax(-1).astype(np.int32)
        cpu.step(actions)
        gpu.step(actions)
    difference = first_difference(cpu, gpu)
    return {"step": steps, **difference} if difference else None


def first_difference(cpu: EngineBackend, gpu: EngineBackend) -> dict[str, Any] | None:
    """Return field, index and both values of the first byte that differs."""
    arrays = [(cpu.state, gpu.state, name) for name in ("units", "world", "sights")]
    names = ("obs", "state", "action_mask", "reward", "terminated", "truncated")
    arrays += [(cpu.outputs, gpu.outputs, name) for name in names]
    for ours, theirs, name in arrays:
        left, right = getattr(ours, name), getattr(theirs, name)
        if left.tobytes() != right.tobytes():
            index = tuple(int(i) for i in np.argwhere(left != right)[0])
            return {
                "field": name, "index": index, "cpu": str(left[index]), "cuda": str(right[index]),
            }  # fmt: skip
    return None


def prepare(scenario: str, num_envs: int) -> tuple[Any, Callable[[], None]]:
    """Return a driver whose battles live on the GPU only, and a function that draws actions."""
    import torch
    from numba import cuda

    loaded = load_scenario(scenario)
    driver = EngineBackend(loaded, loaded.options, num_envs, device="cuda").driver
    world = np.zeros(driver.arrays["world"].shape, np.int32)
    world[0] = np.arange(num_envs)
    driver.arrays["world"].copy_to_device(world)
    driver.launch(cuda.to_device(np.full(num_envs, 2, np.int8)))
    mask = torch.as_tensor(driver.arrays["action_mask"], device="cuda")
    actions = torch.as_tensor(driver.arrays["actions"], device="cuda")

    def draw() -> None:
        actions.copy_((torch.rand(mask.shape, device="cuda") * mask).argmax(1))

    for _ in range(30):
        draw()
        driver.launch()
    return driver, draw


def speed() -> list[dict[str, Any]]:
    """Time steps by CUDA events, actions drawn in between, untimed; medians of five."""
    from numba import cuda

    rows = []
    for scenario in SPEED_SCENARIOS:
        for num_envs in SPEED_BATCHES:
            driver, draw = prepare(scenario, num_envs)
            begin, end = cuda.event(), cuda.event()
            rates = []
            for _ in range(REPEATS):
                milliseconds = 0.0
                for _ in range(STEPS):
                    draw()
                    begin.record()
                    driver.launch()
                    end.record()
                    end.synchronize()
                    milliseconds += cuda.event_elapsed_time(begin, end)
                rates.append(STEPS * num_envs / milliseconds * 1000)
            rows.append({"scenario": scenario, "num_envs": num_envs, **spread(rates)})
            driver.close()
    return rows


def torch_speed() -> list[dict[str, Any]]:
    """Time whole steps by the wall clock: masks read and actions written by torch, no copies."""
    import torch

    rows = []
    for scenario in SPEED_SCENARIOS:
        driver, draw = prepare(scenario, 16384)
        obs = torch.as_tensor(driver.arrays["obs"], device="cuda")
        rates = []
        for _ in range(REPEATS):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            total = torch.zeros((), device="cuda")
            for _ in range(STEPS):
                draw()
                driver.launch()
                total += obs.sum()
            torch.cuda.synchronize()
            rates.append(STEPS * 16384 / (time.perf_counter() - begin))
        rows.append({"scenario": scenario, "num_envs": 16384, **spread(rates)})
        driver.close()
    return rows


def smax_speed() -> list[dict[str, Any]]:
    """Time JaxMARL's SMAX with random actions, jitted scans over vmapped environments."""
    import jax
    import jaxmarl

    env = jaxmarl.make("HeuristicEnemySMAX", scenario=None, num_allies=10, num_enemies=10)
    rows = []
    for num_envs in (4096, 16384):
        run = jax.jit(lambda key, n=num_envs: scan_smax(jax, env, key, n))
        run(jax.random.PRNGKey(0)).block_until_ready()
        rates = []
        for seed in range(REPEATS):
            begin = time.perf_counter()
            run(jax.random.PRNGKey(seed)).block_until_ready()
            rates.append(100 * num_envs / (time.perf_counter() - begin))
        rows.append({"scenario": "smacv2_10_units", "num_envs": num_envs, **spread(rates)})
    return rows


def scan_smax(jax: Any, env: Any, key: Any, num_envs: int) -> Any:
    """Play 100 steps of random actions in SMAX and return the summed rewards."""
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

    _, rewards = jax.lax.scan(step, state, jax.random.split(key, 100))
    return rewards.sum()


def spread(rates: list[float]) -> dict[str, float]:
    """Return median, least and greatest rate, in environment steps a second."""
    return {
        "median": round(statistics.median(rates)),
        "min": round(min(rates)),
        "max": round(max(rates)),
    }


def table(report: dict[str, Any]) -> str:
    """Return the figures as a short text table."""
    lines = [f"machine {report['machine']}"]
    for section in ("speed", "torch", "smax"):
        rows = report.get(section, [])
        for row in rows if isinstance(rows, list) else []:
            lines.append(
                f"{section:6} {row['scenario']:16} {row['num_envs']:6} "
                f"{row['median'] / 1e6:8.2f} M steps/s  [{row['min'] / 1e6:.2f} .. "
                f"{row['max'] / 1e6:.2f}]"
            )
    lines.append(f"equality {report.get('equality')}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
