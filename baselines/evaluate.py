"""Evaluation on held-out battles: what a policy is worth, with an interval.

Each env plays a fixed number of battles, so short battles are not over-represented, and the battles
come from seeds that training can never draw.
"""

import dataclasses
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

import smacv2
from baselines import checkpoints
from baselines.checkpoints import Checkpoint, write_json
from baselines.config import EvaluateConfig, MappoConfig, recorded_config
from baselines.errors import UsageError, expected
from baselines.networks import gumbel_noise
from baselines.rollout import Stream
from baselines.run import plain, prepare_torch, read_record
from baselines.stats import wilson_interval
from baselines.vector_envs import make_env

# name: (module with `load_policy`, what its record holds)
ALGORITHMS = {"mappo": ("baselines.mappo", MappoConfig)}
SEEDS_APART = 2**16  # held-out sets of different --seed do not overlap below this many envs


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Battles played, in the order of env and episode; each array is (episodes,)."""

    env: np.ndarray
    episodic_return: np.ndarray
    episodic_length: np.ndarray
    battle_won: np.ndarray
    draw: np.ndarray
    truncated: np.ndarray


def main(config: EvaluateConfig) -> int:
    """Evaluate, print and store; return the exit status."""
    result, path = evaluate_run(config)
    print(summary(result))
    print(f"stored in {path}")
    return 0


def evaluate_run(config: EvaluateConfig) -> tuple[dict[str, Any], Path]:
    """Evaluate a run's last good checkpoint, or the checkpoint folder that was named.

    Returns:
        The result, and the JSON file that holds it.

    Raises:
        UsageError: there is nothing to evaluate, or it does not fit the environment.
    """
    prepare_torch(config.num_threads, config.device)
    run, record, checkpoint, checkpoint_path = find(Path(config.run))
    num_envs = min(config.num_envs, config.episodes)
    if num_envs > SEEDS_APART:
        raise UsageError(f"--num-envs {config.num_envs}: it must be at most {SEEDS_APART}")
    module = importlib.import_module(policy_module(run, record))
    env = make_env(record["environment"]["id"], num_envs, record["config"]["env_option"])
    agent = module.load_policy(record["config"], checkpoint, env, config.device)
    first_seed = smacv2.EVALUATION_SEED + config.seed * SEEDS_APART
    began = time.perf_counter()
    battles = play(env, agent, config, first_seed)
    result = {
        "checkpoint": checkpoint_path.name,
        "global_step": checkpoint.global_step,
        "environment": {"id": env.spec.id, "fingerprint": plain(env.unwrapped.fingerprint)},
        "trained_in": record["environment"],
        "mode": "stochastic" if config.stochastic else "greedy",
        "first_seed": first_seed,
        "num_envs": num_envs,
        **statistics(battles),
        "seconds": round(time.perf_counter() - began, 3),
        "battles": {name: array.tolist() for name, array in vars(battles).items()},
    }
    env.close()
    path = store(run, result, config.seed)
    return result, path


def find(path: Path) -> tuple[Path, dict[str, Any], Checkpoint, Path]:
    """Return run folder, its record, the checkpoint to use and that checkpoint's folder."""
    if (path / "manifest.json").exists() and path.parent.name == "checkpoints":
        run = path.parent.parent
        return run, read_record(run), checkpoints.load(path), path
    record = read_record(path)
    return path, record, *checkpoints.load_latest(path / "checkpoints", clean=False)


def policy_module(run: Path, record: dict[str, Any]) -> str:
    """Return the module that loads a run's policy.

    Raises:
        UsageError: the record names no known algorithm, or its config is not one of that algorithm.
    """
    if record["algorithm"] not in ALGORITHMS:
        raise UsageError(f"{run}: {expected('algorithm', record['algorithm'], ALGORITHMS)}")
    module, config_class = ALGORITHMS[record["algorithm"]]
    try:
        recorded_config(config_class, record["config"])
    except UsageError as error:
        raise UsageError(f"{run}: {error}") from error
    return module


def play(env: Any, agent: Any, config: EvaluateConfig, first_seed: int) -> Evaluation:
    """Play `config.episodes` battles, a fixed share in each env.

    Args:
        env: vector environment.
        agent: policy with `act` and `actor.initial_hidden`, see `networks.Agent`.
        config: says how many, and whether to sample.
        first_seed: env i plays the stream of `first_seed + i`.
    """
    num_envs, sizes, device = env.num_envs, env.unwrapped, config.device
    quota = config.episodes // num_envs + (np.arange(num_envs) < config.episodes % num_envs)
    generator = torch.Generator(device)
    generator.manual_seed(config.seed)
    shape = (num_envs, sizes.num_agents, sizes.num_actions)
    hidden = agent.actor.initial_hidden(num_envs, sizes.num_agents).detach()
    obs, info = env.reset(seed=first_seed)
    stream = Stream.start(obs, info, hidden)
    played, ended = np.zeros(num_envs, np.int64), []
    while (played < quota).any():
        noise = gumbel_noise(shape, generator) if config.stochastic else None
        with torch.inference_mode():
            seen = torch.from_numpy(stream.obs).to(device)
            mask = torch.from_numpy(stream.info["action_mask"]).to(device).bool()
            actions, _, hidden = agent.act(seen, mask, stream.hidden, noise)
            *_, episodes = stream.advance(env, actions.cpu().numpy(), hidden)
        counted = played[episodes["env"]] < quota[episodes["env"]]
        played[episodes["env"]] += 1
        ended.append({name: values[counted] for name, values in episodes.items()})
    arrays = {name: np.concatenate([episodes[name] for episodes in ended]) for name in ended[0]}
    order = np.argsort(arrays["env"], kind="stable")
    return Evaluation(**{name: values[order] for name, values in arrays.items()})


def statistics(battles: Evaluation) -> dict[str, Any]:
    """Return the numbers that are reported: counts, rates, means and the interval."""
    episodes, wins = len(battles.env), int(battles.battle_won.sum())
    return {
        "episodes": episodes,
        "wins": wins,
        "win_rate": wins / episodes,
        "win_rate_interval_95": list(wilson_interval(wins, episodes)),
        "episodic_return": float(battles.episodic_return.mean()),
        "episodic_return_deviation": float(battles.episodic_return.std()),
        "episodic_length": float(battles.episodic_length.mean()),
        "draws": int(battles.draw.sum()),
        "timeouts": int(battles.truncated.sum()),
    }


def store(run: Path, result: dict[str, Any], seed: int) -> Path:
    """Write the result into the run folder and its `eval/*` scalars to TensorBoard."""
    folder = run / "evaluations"
    folder.mkdir(exist_ok=True)
    step, mode = result["global_step"], result["mode"]
    battles = f"{result['episodes']}__envs{result['num_envs']}__seed{seed}"
    path = folder / f"step_{step:012d}__{mode}__{battles}.json"
    write_json(path, result)
    if mode == "greedy":
        with SummaryWriter(str(run), filename_suffix=".eval") as writer:
            for name in ("win_rate", "episodic_return", "episodic_length"):
                writer.add_scalar(f"eval/{name}", result[name], step)
    return path


def summary(result: dict[str, Any]) -> str:
    """Return the lines that the command prints."""
    low, high = result["win_rate_interval_95"]
    deviation = result["episodic_return_deviation"]
    return "\n".join(
        [
            f"{result['environment']['id']}  {result['checkpoint']}  {result['mode']}",
            f"win rate {result['win_rate']:.1%}, 95 % interval {low:.1%} to {high:.1%}"
            f" ({result['wins']} of {result['episodes']} battles)",
            f"return {result['episodic_return']:.2f} ± {deviation:.2f}"
            f"  length {result['episodic_length']:.1f}"
            f"  draws {result['draws']}  timeouts {result['timeouts']}",
        ]
    )
