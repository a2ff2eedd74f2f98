"""Evaluation on held-out battles or episodes: a policy's win rate or return, with an interval.

Each env plays a fixed number of episodes, so that short episodes are not over-represented. Their
seeds are reserved: training can never draw them.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

import smacv2
from baselines.algorithms import ALGORITHMS
from baselines.config import BattleConfig, EvaluateConfig, recorded_config
from baselines.errors import UsageError, expected
from baselines.experience.battles import Battles, Outcome, make_battles
from baselines.experience.collect import Choice, Clock, Collector, Tally
from baselines.experience.episodes import FIRST_TRAINING_SEED
from baselines.networks.actor_critic import gumbel_noise
from baselines.runs import checkpoints
from baselines.runs.checkpoints import Checkpoint, write_json
from baselines.runs.folder import changed_keys, plain
from baselines.runs.process import prepare_torch
from baselines.runs.records import read_record, run_folders
from baselines.runs.seeding import seeded_generator
from smacv2.stats import wilson_interval

BATTLES, BATTLE_ENVS = 1024, 256  # defaults of --episodes and --num-envs
EPISODES, EPISODE_ENVS = 32, 8  # defaults for single-agent environments
EPISODE_ENVS_AT_MOST = 512  # so that held-out sets of different --seed do not overlap
SEEDS_APART = 2**16  # held-out sets of different --seed do not overlap up to this many envs


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results of battles, ordered by env and then episode; each array is (episodes,)."""

    env: np.ndarray
    episodic_return: np.ndarray
    episodic_length: np.ndarray
    battle_won: np.ndarray
    draw: np.ndarray
    truncated: np.ndarray


def main(config: EvaluateConfig) -> int:
    """Evaluate a policy, print and store the result; return the exit status."""
    result, path = evaluate_run(config)
    print(summary(result))
    if changed := differences(result["trained_in"], result["environment"]):
        print(f"the environment has changed since training: {changed}")
    print(f"stored in {path}")
    return 0


def differences(trained_in: dict[str, Any], environment: dict[str, Any]) -> str:
    """Return the text of the differences between an environment's fingerprints, then and now."""
    old, new = trained_in["fingerprint"], environment["fingerprint"]
    return ", ".join(
        f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed_keys(old, new)
    )


def evaluate_run(config: EvaluateConfig) -> tuple[dict[str, Any], Path]:
    """Evaluate a run's last good checkpoint, or the checkpoint folder that was named.

    Returns:
        The result, and the JSON file that holds it.

    Raises:
        UsageError: there is no policy to evaluate, or it does not fit the environment.
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
    """Play battles with a run's policy; return the environment, statistics and every battle.

    Raises:
        UsageError: the policy does not fit the environment.
    """
    count, num_envs = config.episodes or BATTLES, config.num_envs or BATTLE_ENVS
    num_envs = min(num_envs, count)
    if num_envs > SEEDS_APART:
        raise UsageError(f"--num-envs {config.num_envs}: it must be at most {SEEDS_APART}")
    algorithm = ALGORITHMS[record["algorithm"]]
    trained = recorded_config(algorithm.config, record["config"])
    battles = make_battles(dataclasses.replace(trained, device=config.device), num_envs)
    agent = algorithm.load("load_policy")(trained, checkpoint, battles)
    if config.stochastic and not agent.samples:
        raise UsageError(
            f"--stochastic: {record['algorithm']} has values, no policy to sample from"
        )
    first_seed = smacv2.EVALUATION_SEED + config.seed * SEEDS_APART
    played = play(battles, agent, dataclasses.replace(config, episodes=count), first_seed)
    battles.close()
    return {
        "environment": {"id": battles.id, "fingerprint": plain(battles.fingerprint)},
        "first_seed": first_seed,
        "num_envs": num_envs,
        **statistics(played),
        "battles": {name: array.tolist() for name, array in vars(played).items()},
    }


def evaluate_episodes(
    config: EvaluateConfig, record: dict[str, Any], checkpoint: Checkpoint
) -> dict[str, Any]:
    """Play episodes with a run's policy; return the environment, statistics and every episode.

    Raises:
        UsageError: too many envs or too high a seed, or the policy does not fit.
    """
    episodes = config.episodes or EPISODES
    num_envs = min(config.num_envs or EPISODE_ENVS, episodes)
    sets = FIRST_TRAINING_SEED // EPISODE_ENVS_AT_MOST
    if num_envs > EPISODE_ENVS_AT_MOST:
        raise UsageError(f"--num-envs {num_envs}: it must be at most {EPISODE_ENVS_AT_MOST}")
    if config.seed >= sets:
        raise UsageError(f"--seed {config.seed}: there are held-out sets 0 to {sets - 1}")
    first_seed = config.seed * EPISODE_ENVS_AT_MOST
    seeds = [first_seed + env for env in range(num_envs)]
    policy = ALGORITHMS[record["algorithm"]].load("load_policy")(
        record, checkpoint.weights, seeds, config.device
    )
    played = play_episodes(policy, episodes, config)
    policy.env.close()
    return {
        "environment": {"id": policy.env.id, "fingerprint": plain(policy.env.fingerprint)},
        "first_seed": first_seed,
        "num_envs": num_envs,
        **episode_statistics(played),
        "played": {name: array.tolist() for name, array in played.items()},
    }


def find(path: Path) -> tuple[Path, dict[str, Any], Checkpoint, Path]:
    """Return the run folder, its record, the checkpoint to use and the checkpoint's folder."""
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
    """Return the function that evaluates a run's policy.

    Raises:
        UsageError: the record names no known algorithm, or its config is not one of that algorithm.
    """
    if record["algorithm"] not in ALGORITHMS:
        raise UsageError(f"{run}: {expected('algorithm', record['algorithm'], ALGORITHMS)}")
    config_class = ALGORITHMS[record["algorithm"]].config
    try:
        recorded_config(config_class, record["config"])
    except UsageError as error:
        raise UsageError(f"{run}: {error}") from error
    return evaluate_battles if issubclass(config_class, BattleConfig) else evaluate_episodes


def play(battles: Battles, agent: Any, config: EvaluateConfig, first_seed: int) -> Evaluation:
    """Play `config.episodes` battles, a fixed share in each env.

    Args:
        battles: environments to play in.
        agent: policy with `act`, `initial_hidden` and `samples`, see `networks.actor_critic.Agent`.
        config: number of battles, and whether to sample actions.
        first_seed: env i plays the stream of `first_seed + i`.
    """
    num_envs, sizes = battles.num_envs, battles.sizes
    quota = shares(config.episodes, num_envs)
    generator = seeded_generator(config.seed, config.device)
    shape = (num_envs, sizes.num_agents, sizes.num_actions)
    battles.reset(first_seed)
    collector = Collector(battles, agent.initial_hidden(num_envs).detach())
    played, ended, clock = np.zeros(num_envs, np.int64), [], Clock()
    while (played < quota).any():
        seen = battles.observe()
        with torch.inference_mode():
            noise = gumbel_noise(shape, generator) if config.stochastic else None
            choice = agent.act(seen.obs, seen.action_mask, collector.hidden, noise)
            _, outcome = collector.step(Choice(*choice), clock)
        envs = outcome.ended.cpu().numpy().nonzero()[0]
        counted = played[envs] < quota[envs]
        played[envs] += 1
        ended.append(ended_episodes(envs[counted], collector.tally, outcome))
    arrays = {name: np.concatenate([episodes[name] for episodes in ended]) for name in ended[0]}
    order = np.argsort(arrays["env"], kind="stable")
    return Evaluation(**{name: values[order] for name, values in arrays.items()})


def shares(episodes: int, num_envs: int) -> np.ndarray:
    """Return the number of episodes that each env plays, (num_envs,)."""
    return episodes // num_envs + (np.arange(num_envs) < episodes % num_envs)


def ended_episodes(envs: np.ndarray, tally: Tally, outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the fields of `Evaluation` for the envs (num_ended,) that ended with a step."""
    columns = {
        "episodic_return": tally.episodic_return,
        "episodic_length": tally.episodic_length,
        "battle_won": outcome.battle_won,
        "draw": outcome.draw,
        "truncated": outcome.truncated,
    }
    return {"env": envs} | {name: part.cpu().numpy()[envs] for name, part in columns.items()}


def play_episodes(policy: Any, episodes: int, config: EvaluateConfig) -> dict[str, np.ndarray]:
    """Play a fixed share of episodes in each env; return the env, return and length of each."""
    env, num_envs = policy.env, policy.env.num_envs
    generator = torch.Generator(config.device).manual_seed(config.seed)
    quota = shares(episodes, num_envs)
    played, ended = np.zeros(num_envs, np.int64), []
    returns, elapsed = np.zeros(num_envs), np.zeros(num_envs, np.int64)
    valid = np.ones(num_envs, bool)
    raw = env.reset()
    while (played < quota).any():
        obs = policy.preprocessor.observe(raw, elapsed, learn=False).to(config.device)
        noise = None
        if config.stochastic:
            noise = policy.distribution.draw_noise((num_envs,), generator)
        steps = env.step(policy.act(obs, noise))
        raw, returns, elapsed = steps.obs, returns + steps.reward, elapsed + valid
        for index in np.flatnonzero(steps.ended):
            if played[index] < quota[index]:
                ended.append((index, returns[index], elapsed[index]))
            played[index] += 1
        returns, elapsed = np.where(steps.ended, 0.0, returns), np.where(steps.ended, 0, elapsed)
        valid = ~steps.resets
    ended.sort(key=lambda episode: episode[0])
    names = ("env", "episodic_return", "episodic_length")
    return {
        name: np.array(column) for name, column in zip(names, zip(*ended, strict=True), strict=True)
    }


def statistics(battles: Evaluation) -> dict[str, Any]:
    """Return the reported numbers: counts, rates, means and the interval of the win rate."""
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


def episode_statistics(played: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the reported numbers; the interval of the mean comes from its standard error."""
    returns = played["episodic_return"]
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    half = 1.96 * deviation / np.sqrt(len(returns))
    return {
        "episodes": len(returns),
        "episodic_return": float(returns.mean()),
        "episodic_return_interval_95": [float(returns.mean() - half), float(returns.mean() + half)],
        "episodic_return_deviation": deviation,
        "episodic_return_extremes": [float(returns.min()), float(returns.max())],
        "episodic_length": float(played["episodic_length"].mean()),
    }


def store(run: Path, result: dict[str, Any], seed: int) -> Path:
    """Write the result into the run folder; return the file.

    The `eval/*` scalars of a greedy evaluation also go to TensorBoard.
    """
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
    """Return the lines that the command prints for episodes, which have no win rate."""
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
