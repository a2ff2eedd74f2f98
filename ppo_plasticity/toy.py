"""The toy problem of the paper and its extension: why clipping holds only for full-rank features.

PPO clips each state on its own: where the probability ratio has left the trust region, the state's
own gradient is zero. A linear policy on shared features still moves such a state, because a step on
x changes the logits at y by the learning rate times φ(x)·φ(y) times the gradient at x.
Moalla et al. 2024, arXiv 2405.00662, figure 5.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHAS = (3.0, -2.0, -1.0)  # figure 5 shows the first two
SHOWN_STEPS = (4, 10, 20)
RANKS = (1, 2, 4, 8, 16, 32)
CLIP_COEF = 0.1
ABOVE, BELOW = 1.12, 0.9  # one step of the full-rank problem beyond the upper clip; the lower clip


@dataclasses.dataclass(frozen=True)
class TwoStates:
    """A run on states x and y with features φ(y) = alpha · φ(x)."""

    alpha: float
    feature: float  # φ(x)
    old_probabilities: tuple[float, float]  # of the first action, in x and in y
    ratios: tuple[tuple[float, float], ...]  # (r_x, r_y) before the first and after every step


@dataclasses.dataclass(frozen=True)
class RankResult:
    """What clipping let through for features of one rank."""

    rank: int
    max_ratio: float  # greatest ratio of a seed, mean over seeds
    above: float  # share of states with a ratio over ABOVE, 0 to 1
    below: float  # share of states with a ratio under BELOW, 0 to 1


def two_states(alpha: float, *, steps: int = 20, learning_rate: float = 1.5) -> TwoStates:
    """Train the two-state problem: 2 actions, advantage +1 for the first, SGD on x and y in turn.

    Args:
        alpha: φ(y) / φ(x).
        steps: gradient steps, each on one state.
        learning_rate: of SGD.
    """
    # The order of draws (weights, x) is that of the paper's script, which starts from seed 1.
    generator = torch.Generator().manual_seed(1)
    weights = torch.empty(1, 2, 1).uniform_(-1, 1, generator=generator)
    feature = torch.randn(1, generator=generator)
    features = torch.stack((feature, alpha * feature))[None]  # (1, 2 states, 1)
    old = probabilities(weights, features)
    ratios = [torch.ones(2)]
    for step in range(steps):
        clipped_step(weights, features[:, step % 2], old[:, step % 2], learning_rate)
        ratios.append((probabilities(weights, features) / old)[0])
    return TwoStates(
        alpha,
        feature.item(),
        tuple(old[0].tolist()),
        tuple(tuple(pair.tolist()) for pair in ratios),
    )


def ranks(
    ranks: Sequence[int] = RANKS,
    *,
    num_states: int = 32,
    num_seeds: int = 8,
    passes: int = 300,
    learning_rate: float = 0.02,
) -> list[RankResult]:
    """Train `num_states` states with features of each rank until clipping has stopped every one.

    Two actions, advantage +1 for the first in all states, weights from zero, SGD on one state after
    the other. Features are the rows of an orthonormal basis (num_states, rank), scaled to a mean
    norm of 2; at rank `num_states` they are orthogonal. All ranks and seeds train side by side, in
    float64: the clip's threshold amplifies rounding.
    """
    features = torch.zeros(len(ranks), num_seeds, num_states, num_states, dtype=torch.float64)
    for position, rank in enumerate(ranks):
        for seed in range(num_seeds):
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn(num_states, rank, generator=generator)
            basis = torch.linalg.qr(drawn.double())[0]
            features[position, seed, :, :rank] = basis * 2 / basis.norm(dim=1).mean()
    features = features.flatten(0, 1)  # (ranks * seeds, states, features)
    weights = features.new_zeros(len(features), 2, num_states)
    old = probabilities(weights, features)
    for _ in range(passes):
        for state in range(num_states):
            clipped_step(weights, features[:, state], old[:, state], learning_rate)
    ratios = (probabilities(weights, features) / old).view(len(ranks), num_seeds, num_states)
    return [
        RankResult(
            rank,
            ratio.amax(1).mean().item(),
            (ratio > ABOVE).float().mean().item(),
            (ratio < BELOW).float().mean().item(),
        )
        for rank, ratio in zip(ranks, ratios, strict=True)
    ]


def probabilities(weights: Tensor, features: Tensor) -> Tensor:
    """Return the first action's probability in all states, (problems, states).

    Args:
        weights: (problems, 2, size).
        features: (problems, states, size).
    """
    return torch.softmax(features @ weights.mT, -1)[..., 0]


def clipped_step(weights: Tensor, feature: Tensor, old: Tensor, learning_rate: float) -> None:
    """Do one step of SGD in place on -min(r, clip(r)) with advantage +1 for the first action.

    Args:
        weights: (problems, 2, size) changed.
        feature: (problems, size) of the one state of each problem.
        old: (problems,) the first action's probability at the start.
        learning_rate: of SGD.
    """
    policy = torch.softmax((weights * feature[:, None]).sum(-1), -1)  # (problems, 2)
    ratio = policy[:, 0] / old
    ratio = ratio * (ratio < 1 + CLIP_COEF)  # beyond it the objective is flat
    gradient = ratio[:, None] * (torch.tensor([1.0, 0.0]) - policy)  # d r / d logits
    weights += learning_rate * gradient[..., None] * feature[:, None]


def draw(runs: Sequence[TwoStates], results: Sequence[RankResult], path: str | Path) -> None:
    """Draw ratios over steps for every alpha, and the violations by rank; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * (len(runs) + 1), 3.2), layout="constrained")
    *panels, last = figure.subplots(1, len(runs) + 1)
    for panel, run in zip(panels, runs, strict=True):
        _draw_run(panel, run)
    last.bar([str(result.rank) for result in results], [100 * result.above for result in results])
    last.set(
        xlabel="rank of the features", ylabel=f"states with r > {ABOVE} (%)", title="32 states"
    )
    figure.savefig(path, dpi=150)


def _draw_run(panel: "Axes", run: TwoStates) -> None:
    for label, ratios in zip(("x", "y"), zip(*run.ratios, strict=True), strict=True):
        panel.plot(range(len(ratios)), ratios, marker=".", label=f"r({label})")
    panel.axhline(1 + CLIP_COEF, color="grey", linestyle="--", linewidth=1, label="clip")
    panel.set(xlabel="gradient step", ylabel="probability ratio", title=f"α = {run.alpha:g}")
    panel.legend()
