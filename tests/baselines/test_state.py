"""A learner's state: saved whole, restored in place, and apart from the learner that trains on."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import SMALL, assert_same_state, learner_of
from test_plasticity_flags import timeless

from baselines.runs import checkpoints, state
from baselines.runs.state import restore, state_of

LEARNERS = pytest.mark.parametrize("command", sorted(SMALL))


class Battles:
    """Battles whose state is one array, and nothing else."""

    id = "toy/none-v0"

    def __init__(self):
        self.ticks = np.zeros(3, np.int64)

    def checkpoint(self):
        return {"ticks": self.ticks.copy()}

    def restore(self, saved):
        self.ticks[:] = saved["ticks"]


class Small:
    """A learner with a part of each kind, which changes all of them in an iteration."""

    algorithm = "small"
    counters = ("iteration", "episodes")

    def __init__(self):
        self.network = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.battles = Battles()
        self.hidden = torch.zeros(2, 3)
        self.generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        self.norms = [torch.nn.BatchNorm1d(2) for _ in range(2)]
        self.global_step = self.iteration = self.episodes = 0

    def parts(self):
        first, second = self.generators
        return {
            "optimizer": self.optimizer,
            "hidden": self.hidden,
            "generator": first,
            "nested": {
                "actor": {"norm": self.norms[0], "generator": second},
                "critic": {"norm": self.norms[1]},
            },
        }

    def iterate(self):
        drawn = [torch.rand(4, 2, generator=generator) for generator in self.generators]
        for norm, numbers in zip(self.norms, drawn, strict=True):
            norm(numbers)
        self.optimizer.zero_grad()
        self.network(drawn[0]).sum().backward()
        self.optimizer.step()
        self.hidden.add_(drawn[1].mean())
        self.battles.ticks += 1
        self.global_step, self.iteration = self.global_step + 4, self.iteration + 1
        self.episodes += 2

    def everything(self):
        """Return copies of all that changes, read without `parts`."""
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ticks": self.battles.ticks,
                "hidden": self.hidden,
                "norms": [norm.state_dict() for norm in self.norms],
                "draws": [generator.get_state() for generator in self.generators],
                "counters": [self.global_step, self.iteration, self.episodes],
            }
        )


def trained(iterations):
    learner = Small()
    for _ in range(iterations):
        learner.iterate()
    return learner


def test_a_restored_learner_has_every_part_and_continues_alike():
    learner, other = trained(3), trained(5)
    checkpoint = state.checkpoint_of(learner)
    assert (checkpoint.global_step, checkpoint.replay) == (12, None)
    assert checkpoint.metadata == {"algorithm": "small", "env": "toy/none-v0"}
    state.restore_learner(other, checkpoint)
    assert_same_state(other.everything(), learner.everything())
    for each in (learner, other):
        each.iterate()
    assert_same_state(other.everything(), learner.everything())


def test_a_state_that_is_saved_does_not_change_when_training_continues():
    learner = trained(3)
    then, checkpoint = learner.everything(), state.checkpoint_of(learner)
    for _ in range(4):
        learner.iterate()
    other = Small()
    state.restore_learner(other, checkpoint)
    assert_same_state(other.everything(), then)


def test_tensors_are_restored_in_place_and_saved_as_copies():
    tensor = torch.tensor([1.0, 2.0])
    view = tensor[:1]  # what else reads the tensor
    saved = state_of(tensor)
    tensor.zero_()
    assert saved.tolist() == [1.0, 2.0]
    restore(tensor, saved)
    assert view.tolist() == [1.0]
    tensor.zero_()
    assert saved.tolist() == [1.0, 2.0]


def test_tensors_of_a_graph_are_saved_without_it():
    tensor = torch.ones(2, requires_grad=True) * 2
    saved = state_of(tensor)
    assert not saved.requires_grad
    assert saved.tolist() == [2.0, 2.0]


def test_a_generator_draws_again_what_it_drew():
    generator = torch.Generator().manual_seed(7)
    saved = state_of({"deep": {"generator": generator}})
    drawn = torch.rand(5, generator=generator)
    restore({"deep": {"generator": generator}}, saved)
    assert torch.equal(torch.rand(5, generator=generator), drawn)


def test_a_part_that_was_not_saved_is_an_error():
    learner = trained(1)
    checkpoint = state.checkpoint_of(learner)
    del checkpoint.trainer["nested"]["actor"]["norm"]
    with pytest.raises(KeyError, match="norm"):
        state.restore_learner(Small(), checkpoint)


# --- The learners --------------------------------------------------------------------------------


def stored(folder: Path, learner):
    """Return a learner's checkpoint as it is read from the disk."""
    return checkpoints.load(checkpoints.save(folder, state.checkpoint_of(learner), 99))


@LEARNERS
def test_what_is_saved_of_a_learner_is_of_the_moment(command, tmp_path):
    learner = learner_of(command)
    for _ in range(4):
        learner.iterate()
    wanted = stored(tmp_path / "checkpoints", learner)
    waiting = state.checkpoint_of(learner)
    if waiting.replay is not None:
        waiting.replay.release()  # nobody writes it
    for _ in range(4):
        learner.iterate()
    assert_same_state(waiting.weights, wanted.weights)
    assert_same_state(waiting.trainer | {"global_step": waiting.global_step}, wanted.trainer)
    assert_same_state(waiting.env, wanted.env)
    later = state.checkpoint_of(learner)
    assert later.global_step > waiting.global_step
    assert later.trainer["iteration"] == waiting.trainer["iteration"] + 4


@LEARNERS
def test_a_learner_that_has_trained_elsewhere_continues_from_a_state_alike(command, tmp_path):
    """Nothing of what it did before the state was restored is left."""
    changes = {"intervention": ("redo:every=1", "l2_init"), "probe": 2}
    learner, other = learner_of(command, **changes), learner_of(command, seed=9, **changes)
    for _ in range(3):
        learner.iterate()
        other.iterate()
    checkpoint = stored(tmp_path / "checkpoints", learner)
    other.iterate()
    state.restore_learner(other, checkpoint)
    for _ in range(3):
        assert str(timeless(learner.iterate())) == str(timeless(other.iterate()))
    assert_same_state(learner.network.state_dict(), other.network.state_dict())
