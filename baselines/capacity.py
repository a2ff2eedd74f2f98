"""`baselines capacity`: the capacity loss of PPO runs over their snapshots.

The protocol is that of Moalla et al. 2024 (docs/plasticity.md): one set of states from the initial
policy, random targets from re-initialised networks, a short fit from each snapshot's weights.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from baselines.config import CapacityConfig, PpoConfig, recorded_config
from baselines.errors import UsageError
from baselines.evaluation import EPISODE_ENVS_AT_MOST
from baselines.experience.episodes import FIRST_TRAINING_SEED
from baselines.learners.ppo_policy import Policy, load_policy, network_weights
from baselines.plasticity import NETWORKS, interventions_of
from baselines.runs.checkpoints import write_json
from baselines.runs.process import prepare_torch
from baselines.runs.records import read_record, run_folders
from ppo_plasticity.capacity import CapacityProbe, Fit, ProbeResult, squared_error

# (envs, steps per env) from which states are collected, and epochs of the fit
VECTORS, PIXELS = (4, 1000, 4), (1, 36_000, 1)
# First of the last block of seeds that are reserved for evaluation.
FIRST_SEED = FIRST_TRAINING_SEED - EPISODE_ENVS_AT_MOST
FIGURES = ("last_minibatch", "mean_last_tenth", "area", "full_set")


def main(config: CapacityConfig) -> int:
    """Measure runs, store each result and print one line per run; return the exit status."""
    prepare_torch(config.num_threads, config.device)
    for name in config.runs:
        for path in run_folders(Path(name)):
            result = measure_run(path, config)
            write_json(path / "capacity.json", result)
            write_scalars(path, result)
            print(capacity_summary(path, result), flush=True)
    return 0


def measure_run(path: Path, config: CapacityConfig) -> dict[str, Any]:
    """Return a run's capacity losses.

    Raises:
        UsageError: the run is not one of PPO, or has no snapshots.
    """
    record, files = read_record(path), snapshot_files(path)[:: config.every]
    if record["algorithm"] != "ppo":
        raise UsageError(f"{path}: a run of {record['algorithm']}; capacity needs a run of ppo")
    if not files:
        raise UsageError(f"{path}: it has no snapshots; train with --snapshots 41")
    trained = recorded_config(PpoConfig, record["config"])
    device = config.device
    policy = initial_policy(record, trained, files, device)
    states = collect_states(policy, policy.env.obs_dtype == np.uint8, device)
    policy.env.close()
    probes = {name: make_probe(config, trained, policy, states, name) for name in NETWORKS}
    networks = {name: network_of(policy, name) for name in NETWORKS}
    steps, found = [], []
    for file, weights in zip(files, read_weights(files), strict=True):
        policy.agent.load_state_dict(network_weights(weights))
        steps.append(int(file.stem.removeprefix("step_")))
        found.append({name: probe.measure(networks[name]) for name, probe in probes.items()})
    return {
        "steps": steps,
        **{name: columns([results[name] for results in found]) for name in NETWORKS},
        "fresh": {name: figures(found[0][name]) for name in NETWORKS},
        "protocol": {
            "states": len(states),
            "target_seeds": list(config.target_seeds),
            **{name: plain_fit(probe.fit) for name, probe in probes.items()},
        },
    }


def snapshot_files(path: Path) -> list[Path]:
    """Return a run's snapshots, earliest first."""
    return sorted((path / "snapshots").glob("step_*.safetensors"))


def read_weights(files: list[Path]) -> Iterator[dict[str, Tensor]]:
    """Yield the weights of each file.

    Raises:
        UsageError: a file is damaged.
    """
    for file in files:
        try:
            yield safetensors.torch.load_file(file)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise UsageError(f"{file}: unreadable ({error})") from error


def initial_policy(
    record: dict[str, Any], trained: PpoConfig, files: list[Path], device: str
) -> Policy:
    """Return the policy of the first snapshot.

    Running statistics of observations come from the last snapshot: the first has seen nothing.
    """
    first, last = read_weights([files[0], files[-1]])
    if trained.obs_norm == "running":
        first |= {name: value for name, value in last.items() if name.startswith("preprocessor.")}
    num_envs = (PIXELS if record_is_pixels(first) else VECTORS)[0]
    seeds = [FIRST_SEED + env for env in range(num_envs)]
    return load_policy(record, first, seeds, device)


def record_is_pixels(weights: dict[str, Tensor]) -> bool:
    """Return whether a policy has convolutions."""
    return any(value.dim() == 4 for value in weights.values())


@torch.inference_mode()
def collect_states(policy: Policy, pixels: bool, device: str) -> Tensor:
    """Return states (rows, *obs_shape), float32 or uint8, that the sampling policy visits."""
    num_envs, num_steps, _ = PIXELS if pixels else VECTORS
    generator = torch.Generator(device).manual_seed(FIRST_SEED)
    raw, elapsed, valid = policy.env.reset(), np.zeros(num_envs, np.int64), np.ones(num_envs, bool)
    rows = []
    while sum(map(len, rows)) < num_envs * num_steps:
        obs = policy.preprocessor.observe(raw, elapsed, learn=False)
        rows.append(obs[0, torch.from_numpy(valid)].clone())  # (valid envs, *obs_shape)
        noise = policy.distribution.draw_noise((num_envs,), generator)
        steps = policy.env.step(policy.act(obs.to(device), noise))
        raw, elapsed = steps.obs, np.where(steps.ended, 0, elapsed + valid)
        valid = ~steps.resets
    return torch.cat(rows)[: num_envs * num_steps].to(device)  # (rows, *obs_shape)


def make_probe(
    config: CapacityConfig, trained: PpoConfig, policy: Policy, states: Tensor, network: str
) -> CapacityProbe:
    """Return the probe of actor or critic, whose fit uses the settings of the training."""
    options = {"lr": trained.learning_rate, "eps": trained.adam_eps, "betas": (0.9, 0.999)}
    _, _, epochs = PIXELS if states.dtype == torch.uint8 else VECTORS
    return CapacityProbe(
        network_of(policy, network),
        states,
        loss=policy.distribution.kl if network == "actor" else squared_error,
        target_seeds=config.target_seeds,
        fit=Fit(
            minibatch=trained.num_envs * trained.num_steps // trained.num_minibatches,
            epochs=epochs,
            optimizer_options=interventions_of(trained, network).optimizer_options(options),
            max_grad_norm=trained.max_grad_norm,
        ),
    )


def network_of(policy: Policy, name: str) -> nn.Module:
    """Return the actor or the critic by its name."""
    return getattr(policy.agent, name)


def columns(results: list[list[ProbeResult]]) -> dict[str, list[float]]:
    """Return figures per snapshot as means over target seeds, and their `ratio` to fresh ones."""
    table: dict[str, list[float]] = {
        name: [float(np.mean([getattr(result.network, name) for result in row])) for row in results]
        for name in FIGURES
    }
    return table | {"ratio": [float(np.mean([result.ratio for result in row])) for row in results]}


def figures(results: list[ProbeResult]) -> dict[str, float]:
    """Return the fresh network's figures, each a mean over target seeds."""
    return {
        name: float(np.mean([getattr(result.fresh, name) for result in results]))
        for name in FIGURES
    }


def plain_fit(fit: Fit) -> dict[str, Any]:
    """Return a fit's settings as plain JSON types."""
    names = ("minibatch", "epochs", "optimizer_options", "max_grad_norm")
    return json.loads(json.dumps({name: getattr(fit, name) for name in names}))


def write_scalars(path: Path, result: dict[str, Any]) -> None:
    """Write `plasticity/capacity_loss/<network>` to TensorBoard."""
    with SummaryWriter(str(path), filename_suffix=".capacity") as writer:
        for name in NETWORKS:
            for step, value in zip(result["steps"], result[name]["last_minibatch"], strict=True):
                writer.add_scalar(f"plasticity/capacity_loss/{name}", value, step)


def capacity_summary(path: Path, result: dict[str, Any]) -> str:
    """Return the line that the command prints for a run."""
    parts = [
        f"{name} {result[name]['full_set'][0]:.4g} to {result[name]['full_set'][-1]:.4g}"
        f" (fresh {result['fresh'][name]['full_set']:.4g})"
        for name in NETWORKS
    ]
    count = len(result["steps"])
    return f"{path}: full-set capacity loss over {count} snapshots: {', '.join(parts)}"
