"""How long a checkpoint with a full replay holds up training.

    python benchmarks/replay_checkpoint.py

Fills QMIX's replay on terran_5_vs_5 with episodes of full length (2.2 GB), saves, and
continues training while the checkpoint is written.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from baselines.config import QmixConfig
from baselines.learners.qmix import Qmix
from baselines.runs import state
from baselines.runs.folder import Run
from baselines.runs.process import prepare_torch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where checkpoints go; default a temporary one")
    options = parser.parse_args()
    prepare_torch(options.threads, "cpu")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        config = QmixConfig(num_threads=options.threads, runs_dir=folder)
        learner = Qmix(config)
        fill(learner)
        for _ in range(3):
            learner.iterate()
        before = [timed(learner.iterate) for _ in range(5)]
        battles = learner.battles
        environment = {"id": battles.id, "fingerprint": battles.fingerprint}
        run = Run.start("qmix", config, environment)
        held_up = timed(lambda: run.save(state.checkpoint_of(learner)))
        during, began = [], time.perf_counter()
        while run.is_writing:
            during.append(timed(learner.iterate))
        written = time.perf_counter() - began
        run.close()
        size = sum(file.stat().st_size for file in Path(folder).glob("**/replay.bin"))
    print(f"replay.bin {size / 1e9:.2f} GB, written in {written:.1f} s")
    print(f"the call that saves: {held_up:.3f} s")
    print(f"an iteration before: median {np.median(before):.2f} s, longest {max(before):.2f} s")
    print(f"meanwhile: median {np.median(during):.2f} s, longest {max(during):.2f} s")


def fill(learner: Qmix) -> None:
    """Let the replay look as if it held `buffer_episodes` episodes of full length."""
    replay = learner.replay
    for tensor in replay.data.values():
        tensor.zero_()
    replay.data["action_mask"][..., 0] = True
    slots = range(learner.config.num_envs, replay.num_slots)
    replay.ended.extend(slots)
    replay._free.clear()
    replay.length[list(slots)] = replay.num_rows - 1


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
