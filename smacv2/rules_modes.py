"""Upstream's defects, and the rules modes that keep them.

* ``fixed`` (default): every defect repaired.
* ``may_2022``: as of the recorded play of May 2022 (upstream before 2022-10-06).
* ``paper``: as of the published curves (upstream between 2022-09 and 2023-06).
* ``upstream``: today's upstream, bug for bug.

Two defects are repaired in every mode because no result depends on them in a reproducible way:
upstream draws its scenarios from unseeded generators, and ``get_obs`` changes the results of later
calls. The table is in ``docs/environments.md``.
"""

from typing import NamedTuple


class Defect(NamedTuple):
    """One defect of upstream: what it does, and the modes that keep it."""

    summary: str
    kept_by: tuple[str, ...]


DEFECTS = {
    "B1": Defect(
        "an enemy that an agent may not see erases the rows of all enemies before it", ("upstream",)
    ),
    "B2": Defect(
        "the reward is scaled by the enemies of the first episode; resets before it ends add up",
        ("may_2022", "paper", "upstream"),
    ),
    "B6": Defect(
        "the view cone sees behind when looking east or west and too wide otherwise",
        ("may_2022", "paper", "upstream"),
    ),
    "B7": Defect(
        "agents below their health level die by their health at the last observation",
        ("may_2022", "paper", "upstream"),
    ),
    "B11": Defect(
        "mask_probability is the chance not to be masked", ("may_2022", "paper", "upstream")
    ),
    "B22": Defect(
        "the sparse reward is divided by the scale of the shaped reward",
        ("may_2022", "paper", "upstream"),
    ),
    "B30": Defect(
        "groups of a surrounded start overwrite each other; enemies left over stand at the "
        "south-west corner",
        ("may_2022",),
    ),
}


def keeps(mode: str, defect: str) -> bool:
    """Return whether a rules mode keeps a defect."""
    return mode in DEFECTS[defect].kept_by
