"""`baselines quickstart`: from nothing to a measured policy in about five minutes."""

from baselines import evaluation
from baselines.config import EvaluateConfig, MappoConfig, QuickstartConfig
from baselines.runs import loop
from baselines.runs.process import exit_status


def main(config: QuickstartConfig) -> int:
    """Train MAPPO, evaluate it on held-out battles, print next steps; return the exit status."""
    (path,), stopped = loop.train(
        "mappo",
        MappoConfig(
            env=config.env,
            seed=config.seed,
            total_steps=config.total_steps,
            runs_dir=config.runs_dir,
        ),
    )
    if stopped is not None:
        return exit_status(stopped)
    result, stored = evaluation.evaluate_run(EvaluateConfig(str(path), episodes=config.episodes))
    print(evaluation.summary(result))
    print(f"run folder  {path}\nevaluation  {stored}\n\nnext:")
    for command, purpose in (
        (f"tensorboard --logdir {config.runs_dir}", "see the curves"),
        (f"baselines mappo --resume {path} --total-steps {5 * config.total_steps}", "train longer"),
        ("baselines mappo --env smacv2/zerg_10_vs_10", "another scenario"),
        (f"baselines mappo --env {config.env} --critic-input obs", "IPPO instead of MAPPO"),
        (f"baselines evaluate {path} --stochastic", "evaluate with sampled actions"),
    ):
        print(f"  {command}    # {purpose}")
    return 0
