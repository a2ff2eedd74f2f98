"""The table of algorithms. It does not import PyTorch, so that `--help` stays quick."""

import dataclasses
import importlib
import itertools
from collections.abc import Sequence
from typing import Any

from baselines import profiles
from baselines.config import MappoConfig, PpoConfig, PqnConfig, QmixConfig, RunConfig
from baselines.errors import UsageError, expected
from baselines.profiles import kind_of


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One training command.

    Attributes:
        summary: line in `baselines --help`.
        config: class of its settings.
        module: name in `baselines.learners`; the module has the function `make_group`, and
            `load_policy` for `baselines evaluate`.
        networks: names of its networks in plasticity flags and metrics; none if the learner has
            no `Plasticity`.
        profiles: named sets of defaults, which replace the defaults of `config`.
        profiles_by_kind: each profile has one set per kind of environment (`profiles.kind_of`).
        seeds_in_step: all seeds do the same iteration at once, and resume from the same iteration.
    """

    summary: str
    config: type[RunConfig]
    module: str
    networks: tuple[str, ...]
    profiles: dict[str, dict[str, Any]] = dataclasses.field(default_factory=lambda: {"batched": {}})
    profiles_by_kind: bool = False
    seeds_in_step: bool = False

    def defaults(self, arguments: Sequence[str]) -> RunConfig:
        """Return the defaults for the `--profile` and the `--env` among a command's arguments.

        Raises:
            UsageError: the profile is unknown.
        """
        profile = flag(arguments, "profile", self.config.profile)
        if profile not in self.profiles:
            raise UsageError(f"--profile {expected('profile', profile, self.profiles)}")
        env, fields = flag(arguments, "env", self.config.env), self.profiles[profile]
        fields = fields[kind_of(env)] if self.profiles_by_kind else fields
        return self.config(env=env, profile=profile, **fields)

    def load(self, name: str) -> Any:
        """Return a function of the algorithm's module, which is imported first."""
        return getattr(importlib.import_module(f"baselines.learners.{self.module}"), name)


POLICY, VALUES = ("actor", "critic"), ("agent",)  # names of networks
ALGORITHMS: dict[str, Algorithm] = {
    "mappo": Algorithm("train MAPPO or IPPO", MappoConfig, "mappo", POLICY, profiles.MAPPO),
    "qmix": Algorithm("train QMIX, VDN or IQL", QmixConfig, "qmix", VALUES, profiles.QMIX),
    "pqn": Algorithm("train PQN or PQN-VDN, without replay", PqnConfig, "pqn_stack", VALUES),
    "ppo": Algorithm(
        "train PPO on Atari, MuJoCo or any Gymnasium environment",
        PpoConfig,
        "ppo",
        POLICY,
        profiles.PPO,
        profiles_by_kind=True,
        seeds_in_step=True,
    ),
}


def flag(arguments: Sequence[str], name: str, default: str) -> str:
    """Return the last value given for a flag, as `--name value` or `--name=value`."""
    value = default
    for argument, following in itertools.pairwise([*arguments, ""]):
        if argument == f"--{name}" and following:
            value = following
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value
