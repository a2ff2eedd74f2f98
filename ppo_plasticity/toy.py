"""The toy problem of the paper and its extension: clipping works only for full-rank features.

PPO clips each state on its own: once the probability ratio has left the trust region, the gradient
of that state is zero. A linear policy on shared features still moves such a state: a step on x
changes the logits at y by the learning rate times φ(x)·φ(y) times the gradient at x. Moalla et al.
2024, arXiv 2405.00662, figure 5.
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
ABOVE = 1.12  # one step of the full-rank problem beyond the upper clip
BELOW = 0.9  # the lower clip


@dataclasses.dataclass(frozen=True)
class TwoStates:
    """A run on states x and y with features φ(y) = alpha · φ(x)."""

    alpha: float
    feature: float  # φ(x)
    old_probabilities: tuple[float, float]  # of the first action, in x and in y
    ratios: tuple[tuple[float, float], ...]  # (r_x, r_y) before the first and after every step


@dataclasses.dataclass(frozen=True)
class RankResult:
    """Ratios outside the clip range, for features of one rank."""

    rank: int
    max_ratio: float  # greatest ratio of a seed, averaged over seeds
    above: float  # share of states with a ratio over ABOVE, 0 to 1
    below: float  # share of states with a ratio under BELOW, 0 to 1


def two_states(alpha: float, *, steps: int = 20, learning_rate: float = 1.5) -> TwoStates:
    """Train the two-state problem: 2 actions, advantage +1 for the first, SGD on x and y in turn.

    Args:
        alpha: φ(y) / φ(x).
        steps: gradient steps, each on one state.
        learning_rate: of SGD.
    """
    # The paper's script draws in this order (weights, x) and from seed 1.
    generator = torch.Generator().manual_seed(1)
    weights = torch.empty(1, 2, 1).uniform_(-1, 1, generator=generator)  # (1, actions, 1)
    feature = torch.randn(1, generator=generator)
    features = torch.stack((feature, alpha * feature))[None]  # (1, states, 1)
    old = probabilities(weights, features)
    ratios = [torch.ones(2)]  # (states,) each
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
    """Train `num_states` states with features of each rank until clipping has stopped all states.

    There are two actions with advantage +1 for the first in all states. Weights start at zero; SGD
    takes one state after the other. All ranks and seeds train side by side, in float64, because the
    clip's threshold amplifies rounding errors.
    """
    by_rank = [_orthonormal_features(rank, num_states, num_seeds) for rank in ranks]
    features = torch.cat(by_rank)  # (ranks * seeds, states, features)
    weights = features.new_zeros(len(features), 2, num_states)  # (ranks * seeds, actions, features)
    old = probabilities(weights, features)  # (ranks * seeds, states)
    for _ in range(passes):
        for state in range(num_states):
            clipped_step(weights, features[:, state], old[:, state], learning_rate)
    ratios = probabilities(weights, features) / old  # (ranks * seeds, states)
    ratios = ratios.view(len(ranks), num_seeds, num_states)  # (ranks, seeds, states)
    return [
        RankResult(
            rank,
            ratio.amax(1).mean().item(),
            (ratio > ABOVE).float().mean().item(),
            (ratio < BELOW).float().mean().item(),
        )
        for rank, ratio in zip(ranks, ratios, strict=True)
    ]


def _orthonormal_features(rank: int, num_states: int, num_seeds: int) -> Tensor:
    """Return the features of one rank for each seed, (seeds, states, features).

    They are the rows of an orthonormal basis (states, rank), scaled to a mean norm of 2 and padded
    with zeros; at rank `num_states` they are orthogonal.
    """
    features = torch.zeros(num_seeds, num_states, num_states, dtype=torch.float64)
    for seed in range(num_seeds):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(num_states, rank, generator=generator)
        basis = torch.linalg.qr(drawn.double())[0]  # (states, rank)
        features[seed, :, :rank] = basis * 2 / basis.norm(dim=1).mean()
    return features


def probabilities(weights: Tensor, features: Tensor) -> Tensor:
    """Return the first action's probability in all states, (problems, states).

    Args:
        weights: (problems, 2, size).
        features: (problems, states, size).
    """
    return torch.softmax(features @ weights.mT, -1)[..., 0]  # (problems, states)


def clipped_step(weights: Tensor, feature: Tensor, old: Tensor, learning_rate: float) -> None:
    """Do one step of SGD on -min(r, clip(r)) with advantage +1 for the first action, in place.

    Args:
        weights: (problems, 2, size), changed in place.
        feature: (problems, size) of one state of each problem.
        old: (problems,) the first action's probability at the start.
        learning_rate: of SGD.
    """
    policy = torch.softmax((weights * feature[:, None]).sum(-1), -1)  # (problems, 2)
    ratio = policy[:, 0] / old  # (problems,)
    ratio = ratio * (ratio < 1 + CLIP_COEF)  # beyond the clip the objective is flat
    gradient = ratio[:, None] * (torch.tensor([1.0, 0.0]) - policy)  # (problems, 2) dr / d logits
    weights += learning_rate * gradient[..., None] * feature[:, None]  # (problems, 2, size)


def draw(runs: Sequence[TwoStates], results: Sequence[RankResult], path: str | Path) -> None:
    """Draw ratios over steps for every alpha and violations by rank; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * (len(runs) + 1), 3.2), layout="constrained")
    *panels, last = figure.subplots(1, len(runs) + 1)
    for panel, run in zip(panels, runs, strict=True):
        _draw_ratios(panel, run)
    last.bar([str(result.rank) for result in results], [100 * result.above for result in results])
    last.set(
        xlabel="rank of the features", ylabel=f"states with r > {ABOVE} (%)", title="32 states"
    )
    figure.savefig(path, dpi=150)


def _draw_ratios(panel: "Axes", run: TwoStates) -> None:
    """Draw the ratios of both states over the steps of one run."""
    for label, ratios in zip(("x", "y"), zip(*run.ratios, strict=True), strict=True):
        panel.plot(range(len(ratios)), ratios, marker=".", label=f"r({label})")
    panel.axhline(1 + CLIP_COEF, color="grey", linestyle="--", linewidth=1, label="clip")
    panel.set(xlabel="gradient step", ylabel="probability ratio", title=f"α = {run.alpha:g}")
    panel.legend()
