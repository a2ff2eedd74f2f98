"""Evaluation on held-out battles or episodes: what a policy is worth, with an interval.

Each env plays a fixed number of them, so short ones are not over-represented, and they come from
seeds that training can never draw.
"""

import dataclasses
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

import smacv2
from baselines.config import (
    EvaluateConfig,
    MappoConfig,
    PpoConfig,
    PqnConfig,
    QmixConfig,
    recorded_config,
)
from baselines.errors import UsageError, expected
from baselines.experience.collect import Stream
from baselines.experience.episodes import make_battles
from baselines.networks.network import gumbel_noise
from baselines.results.stats import wilson_interval
from baselines.runs import checkpoints
from baselines.runs.checkpoints import Checkpoint, write_json
from baselines.runs.folder import changed_keys, plain, prepare_torch
from baselines.runs.records import read_record, run_folders

# name: (what its record holds, module and function that evaluate: see `evaluate_battles`)
ALGORITHMS = {
    "mappo": (MappoConfig, "baselines.evaluation:evaluate_battles"),
    "qmix": (QmixConfig, "baselines.evaluation:evaluate_battles"),
    "pqn": (PqnConfig, "baselines.evaluation:evaluate_battles"),
    "ppo": (PpoConfig, "baselines.ppo_evaluation:evaluate_episodes"),
}
BATTLES, BATTLE_ENVS = 1024, 256  # what is played unless told otherwise
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
    if changed := differences(result["trained_in"], result["environment"]):
        print(f"trained in another environment than this one: {changed}")
    print(f"stored in {path}")
    return 0


def differences(trained_in: dict[str, Any], environment: dict[str, Any]) -> str:
    """Return what of an environment's fingerprint is not as it was in training."""
    old, new = trained_in["fingerprint"], environment["fingerprint"]
    return ", ".join(
        f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed_keys(old, new)
    )


def evaluate_run(config: EvaluateConfig) -> tuple[dict[str, Any], Path]:
    """Evaluate a run's last good checkpoint, or the checkpoint folder that was named.

    Returns:
        The result, and the JSON file that holds it.

    Raises:
        UsageError: there is nothing to evaluate, or it does not fit the environment.
    """
    prepare_torch(config.num_threads, config.device)
    run, record, checkpoint, checkpoint_path = find(Path(config.run))
    evaluate = evaluator(run, record)
    began = time.perf_counter()
    result = {
        "checkpoint": checkpoint_path.name,
        "global_step": checkpoint.global_step,
        "trained_in": record["environment"],
        "mode": "stochastic" if config.stochastic else "greedy",
        **evaluate(config, record, checkpoint),
        "seconds": round(time.perf_counter() - began, 3),
    }
    path = store(run, result, config.seed)
    return result, path


def evaluate_battles(
    config: EvaluateConfig, record: dict[str, Any], checkpoint: Checkpoint
) -> dict[str, Any]:
    """Play battles with a run's policy; return environment, statistics and every battle.

    Raises:
        UsageError: the policy does not fit the environment.
    """
    battles, num_envs = config.episodes or BATTLES, config.num_envs or BATTLE_ENVS
    num_envs = min(num_envs, battles)
    if num_envs > SEEDS_APART:
        raise UsageError(f"--num-envs {config.num_envs}: it must be at most {SEEDS_APART}")
    trained = recorded_config(ALGORITHMS[record["algorithm"]][0], record["config"])
    module = importlib.import_module(f"baselines.learners.{record['algorithm']}")
    env = make_battles(trained, num_envs)
    agent = module.load_policy(trained, checkpoint, env, config.device)
    if config.stochastic and not agent.samples:
        raise UsageError(
            f"--stochastic: {record['algorithm']} has values, no policy to sample from"
        )
    first_seed = smacv2.EVALUATION_SEED + config.seed * SEEDS_APART
    played = play(env, agent, dataclasses.replace(config, episodes=battles), first_seed)
    env.close()
    return {
        "environment": {"id": env.spec.id, "fingerprint": plain(env.unwrapped.fingerprint)},
        "first_seed": first_seed,
        "num_envs": num_envs,
        **statistics(played),
        "battles": {name: array.tolist() for name, array in vars(played).items()},
    }


def find(path: Path) -> tuple[Path, dict[str, Any], Checkpoint, Path]:
    """Return run folder, its record, the checkpoint to use and that checkpoint's folder."""
    if (path / "manifest.json").exists() and path.parent.name == "checkpoints":
        run = path.parent.parent
        return run, read_record(run), checkpoints.load(path, replay=False), path
    runs = run_folders(path)
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs)
        raise UsageError(f"{path}: a group of runs; name one of its folders: {names}")
    record = read_record(path)
    return path, record, *checkpoints.load_latest(path / "checkpoints", replay=False)


def evaluator(run: Path, record: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Return what evaluates a run's policy.

    Raises:
        UsageError: the record names no known algorithm, or its config is not one of that algorithm.
    """
    if record["algorithm"] not in ALGORITHMS:
        raise UsageError(f"{run}: {expected('algorithm', record['algorithm'], ALGORITHMS)}")
    config_class, target = ALGORITHMS[record["algorithm"]]
    try:
        recorded_config(config_class, record["config"])
    except UsageError as error:
        raise UsageError(f"{run}: {error}") from error
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def play(env: Any, agent: Any, config: EvaluateConfig, first_seed: int) -> Evaluation:
    """Play `config.episodes` battles, a fixed share in each env.

    Args:
        env: vector environment.
        agent: policy with `act`, `initial_hidden` and `samples`, see `networks.Agent`.
        config: says how many, and whether to sample.
        first_seed: env i plays the stream of `first_seed + i`.
    """
    num_envs, sizes, device = env.num_envs, env.unwrapped, config.device
    quota = config.episodes // num_envs + (np.arange(num_envs) < config.episodes % num_envs)
    generator = torch.Generator(device)
    generator.manual_seed(config.seed)
    shape = (num_envs, sizes.num_agents, sizes.num_actions)
    hidden = agent.initial_hidden(num_envs).detach()
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
            for name in {"win_rate", "episodic_return", "episodic_length"} & result.keys():
                writer.add_scalar(f"eval/{name}", result[name], step)
    return path


def summary(result: dict[str, Any]) -> str:
    """Return the lines that the command prints."""
    if "win_rate" not in result:
        return episode_summary(result)
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


def episode_summary(result: dict[str, Any]) -> str:
    """Return the lines for episodes that nobody wins."""
    low, high = result["episodic_return_interval_95"]
    deviation, extremes = result["episodic_return_deviation"], result["episodic_return_extremes"]
    return "\n".join(
        [
            f"{result['environment']['id']}  {result['checkpoint']}  {result['mode']}",
            f"return {result['episodic_return']:.2f}, 95 % interval {low:.2f} to {high:.2f}"
            f" ({result['episodes']} episodes, deviation {deviation:.2f},"
            f" from {extremes[0]:.2f} to {extremes[1]:.2f})",
            f"length {result['episodic_length']:.1f}",
        ]
    )
