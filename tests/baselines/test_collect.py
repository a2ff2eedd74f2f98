"""Statistics of episodes, against a sequence of steps computed by hand."""

import math

import pytest
import torch

from baselines.experience.battles import Outcome
from baselines.experience.collect import Tally


def flags(text):
    return torch.tensor([letter == "x" for letter in text])


def outcome(rewards, terminated="...", truncated="...", won="...", draw="..."):
    """Return the outcome of a step of three battles; flags are `x` or `.` for each."""
    return Outcome(torch.tensor(rewards), *map(flags, (terminated, truncated, won, draw)))


def test_episodes_are_counted_once_and_battles_still_played_are_not():
    tally = Tally(3, torch.device("cpu"))
    assert tally.read() == {"charts/episodes": 0}

    tally.add(flags("xxx"), outcome([1.0, 2.0, math.nan], terminated=".x.", won=".x."))
    assert tally.episodic_return.tolist()[:2] == [1.0, 2.0]  # until the reset row
    tally.add(flags("x.x"), outcome([0.5, 0.0, 1.0], truncated="x..", draw="x.."))
    assert tally.episodic_length.tolist() == [2, 0, 2]
    # env 1: return 2 after a step, won; env 0: return 1.5 after two, a draw at the limit; the NaN
    # is in env 2, which still plays
    assert tally.read() == {
        "charts/episodes": 2,
        "charts/episodic_return": (2.0 + 1.5) / 2,
        "charts/episodic_length": (1 + 2) / 2,
        "charts/win_rate": 0.5,
        "charts/draw_rate": 0.5,
        "charts/timeout_rate": 0.5,
    }
    assert tally.read() == {"charts/episodes": 0}
    assert tally.episodic_return.tolist()[:2] == [1.5, 0.0]
    assert math.isnan(tally.episodic_return[2])

    # env 0 is at its reset row; its flags of victory and draw are those of the battle before
    tally.add(flags(".xx"), outcome([0.0, 4.0, 1.0], terminated="..x", won="x.x", draw="x.."))
    read = tally.read()
    assert math.isnan(read.pop("charts/episodic_return"))
    assert read == {
        "charts/episodes": 1,
        "charts/episodic_length": 3.0,
        "charts/win_rate": 1.0,
        "charts/draw_rate": 0.0,
        "charts/timeout_rate": 0.0,
    }

    # env 2 is at its reset row, which ends what the NaN has spoilt
    tally.add(flags("xx."), outcome([7.0, 1.0, 0.0], terminated="xx.", won="..x"))
    assert tally.episodic_return.tolist() == [7.0, 5.0, 0.0]
    assert tally.episodic_length.tolist() == [1, 2, 0]
    assert tally.read() == {
        "charts/episodes": 2,
        "charts/episodic_return": 6.0,
        "charts/episodic_length": 1.5,
        "charts/win_rate": 0.0,
        "charts/draw_rate": 0.0,
        "charts/timeout_rate": 0.0,
    }


def test_returns_are_summed_in_double_precision():
    tally, reward = Tally(1, torch.device("cpu")), torch.tensor([0.1])
    nothing = [torch.tensor([False])] * 4
    for _ in range(1000):
        tally.add(torch.tensor([True]), Outcome(reward, *nothing))
    assert float(tally.episodic_return) == pytest.approx(1000 * float(reward), rel=1e-12)
