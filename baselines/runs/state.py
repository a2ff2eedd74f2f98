"""The state of a learner in its checkpoints: saved and loaded here, for every learner.

A learner names its parts, and this module asks each part for its state. A part is an object with
`state_dict` and `load_state_dict`, a generator, a tensor that changes in place, or a dictionary of
parts. A replay also has its own file.
"""

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from baselines.runs.checkpoints import Checkpoint

Part = Any


class Saved(Protocol):
    """One seed of a learner, with the attributes that its checkpoints need."""

    algorithm: str
    counters: tuple[str, ...]  # names of attributes that are whole numbers
    network: torch.nn.Module  # `baselines evaluate` uses its weights
    battles: Any  # has `id`, `checkpoint` and `restore`
    global_step: int
    iteration: int

    def parts(self) -> dict[str, Part]:
        """Return all parts that change in training, except weights, battles and counters."""


def checkpoint_of(learner: Saved) -> Checkpoint:
    """Return everything that `restore_learner` needs to resume a learner bit for bit.

    Nothing but a replay shares memory with the learner: a checkpoint may wait to be written.
    """
    parts = learner.parts()
    state = {name: state_of(part) for name, part in parts.items()}
    counters = {name: getattr(learner, name) for name in learner.counters}
    replay = parts.get("replay")
    return Checkpoint(
        global_step=learner.global_step,
        weights=copy.deepcopy(learner.network.state_dict()),
        trainer=state | counters,
        env=learner.battles.checkpoint(),
        metadata={"algorithm": learner.algorithm, "env": learner.battles.id},
        replay=replay.writer() if replay is not None else None,
    )


def restore_learner(learner: Saved, checkpoint: Checkpoint) -> None:
    """Restore a learner from a checkpoint that `checkpoint_of` returned."""
    saved = checkpoint.trainer
    learner.network.load_state_dict(checkpoint.weights)
    learner.battles.restore(checkpoint.env)
    for name, part in learner.parts().items():
        if name == "replay":
            with checkpoint.replay_path.open("rb") as file:
                part.load(saved[name], file)
        else:
            restore(part, saved[name])
    for name in learner.counters:
        setattr(learner, name, saved[name])
    learner.global_step = checkpoint.global_step


def state_of(part: Part) -> Any:
    """Return the state of a part: tensors, numbers, strings and containers of them."""
    if isinstance(part, Mapping):
        return {name: state_of(own) for name, own in part.items()}
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, Tensor):
        return part.detach().clone().cpu()
    return copy.deepcopy(part.state_dict())


def restore(part: Part, state: Any) -> None:
    """Restore a part to a state that `state_of` returned."""
    if isinstance(part, Mapping):
        for name, own in part.items():
            restore(own, state[name])
    elif isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, Tensor):
        part.copy_(state)
    else:
        part.load_state_dict(copy.deepcopy(state))
