"""The `baselines` command: a table of subcommands, each a dataclass and a function.

PyTorch is imported with the function, after the flags are read, so `--help` and errors are quick.
"""

import contextlib
import dataclasses
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from baselines.algorithms import ALGORITHMS, flag
from baselines.config import (
    CapacityConfig,
    EvaluateConfig,
    PlasticityReportConfig,
    PlotConfig,
    QuickstartConfig,
    RunConfig,
    check_range,
    recorded_config,
)
from baselines.errors import TrainingError, UsageError, expected
from baselines.runs.records import read_record, run_folders

# name: (summary, config, module and function that take it and return the exit status)
TOOLS: dict[str, tuple[str, type, str]] = {
    "quickstart": ("train and evaluate in five minutes", QuickstartConfig, "quickstart:main"),
    "plot": (
        "learning curves of runs, by steps and by wall-clock",
        PlotConfig,
        "results.plot:main",
    ),
    "plasticity": (
        "figures and early warnings of runs",
        PlasticityReportConfig,
        "results.report:main",
    ),
    "capacity": ("capacity loss over a run's snapshots", CapacityConfig, "capacity:main"),
    "evaluate": (
        "win rate or return of a run on held-out battles or episodes",
        EvaluateConfig,
        "evaluation:main",
    ),
}
# Settings that may differ from the record when a run is resumed: none changes how it trains.
CHANGEABLE = {
    "total_steps",
    "resume",
    "runs_dir",
    "checkpoint_minutes",
    "checkpoint_steps",
    "keep_checkpoints",
    "snapshots",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit status: 2 for bad input, 1 for training that failed."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = dispatch(arguments)
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"baselines: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrainingError) else 2
    except BrokenPipeError:  # as in `baselines mappo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def dispatch(arguments: Sequence[str]) -> int:
    """Read the flags of the named subcommand and run it.

    Raises:
        UsageError: a name, a flag or its value is wrong.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from smacv2 import ENGINE_VERSION, __version__

        print(f"smacv2-suite {__version__}, engine rules {ENGINE_VERSION}")
        return 0
    name, *rest = arguments
    # OpenMP reads this when PyTorch loads. Longer spinning is 10 % faster on idle cores but up to
    # 90 % slower on shared ones.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if name in ALGORITHMS:
        config = training_config(name, rest)
        return finish(*imported("runs.loop:train")(name, config))
    if name in TOOLS:
        _, config_class, target = TOOLS[name]
        config = parse(name, config_class, rest)
        return imported(target)(config)
    raise UsageError(expected("command", name, [*ALGORITHMS, *TOOLS]))


def training_config(name: str, arguments: Sequence[str]) -> RunConfig:
    """Return the config of a training command; a resumed run takes its config from its record.

    Raises:
        UsageError: a flag or its value is wrong.
    """
    algorithm = ALGORITHMS[name]
    arguments = with_pfo(arguments, "actor." if "actor" in algorithm.networks else "")
    try:
        defaults = algorithm.defaults(arguments)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    config = parse(name, algorithm.config, arguments, defaults)
    if not algorithm.networks and (config.intervention or config.probe):
        raise UsageError(f"{name} has neither a probe nor interventions")
    return resumed_config(name, config.resume, arguments) if config.resume else config


def finish(paths: Sequence[Path], stopped: int | None) -> int:
    """Say how to evaluate complete runs; return the exit status of a training command.

    Args:
        paths: the run folders.
        stopped: the signal that stopped them, None when complete.
    """
    if stopped is None:
        print("evaluate with")
        for path in paths:
            print(f"  baselines evaluate {path}")
    return imported("runs.process:exit_status")(stopped)


def flag_of(name: str) -> str:
    """Return the flag of a config's field."""
    return f"--{name.replace('_', '-')}"


def as_text(value: Any) -> str:
    """Return a flag's value as users write it."""
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return str(value)


def with_pfo(arguments: Sequence[str], network: str) -> list[str]:
    """Return arguments with `--pfo-coef X` written out as the intervention that it is short for.

    Args:
        arguments: of a training command; of several `--pfo-coef` the last one counts.
        network: prefix of the network that PFO holds, such as `"actor."`.

    Raises:
        UsageError: X is not a number of at least 0, or the command resumes a run.
    """
    others, given = [], iter(arguments)
    value = ""
    for argument in given:
        name, equals, text = argument.partition("=")
        if name.replace("_", "-") == "--pfo-coef":
            value = text if equals else next(given, "")
        else:
            others.append(argument)
    if len(others) == len(arguments):
        return others
    if flag(arguments, "resume", ""):
        raise UsageError(f"--pfo-coef {value}: a resumed run keeps the interventions of its record")
    try:
        coefficient = float(value)
    except ValueError:
        raise UsageError(f"--pfo-coef {value}: it must be a number of at least 0") from None
    check_range("pfo_coef", coefficient, low=0)
    return others + (["--intervention", f"{network}pfo:coef={value}"] if coefficient else [])


def overview() -> str:
    """Return the text of `baselines --help`."""
    summaries = {name: algorithm.summary for name, algorithm in ALGORITHMS.items()}
    summaries |= {name: summary for name, (summary, _, _) in TOOLS.items()}
    rows = [f"  {name:<12}{summary}" for name, summary in summaries.items()]
    return "\n".join(
        [
            "usage: baselines COMMAND [OPTIONS]",
            "",
            *rows,
            "",
            "baselines COMMAND --help lists options",
        ]
    )


def parse(name: str, config_class: type, arguments: Sequence[str], default: Any = None) -> Any:
    """Read the flags of a subcommand into its dataclass.

    Raises:
        UsageError: a flag or value is wrong; the message is tyro's box as one line.
    """
    errors = io.StringIO()
    overlay = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(config_class, prog=f"baselines {name}", args=arguments, **overlay)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{name}: {one_line(errors.getvalue())}") from None


def one_line(box: str) -> str:
    """Return the text of a tyro error box, without its frame and the repeated help texts."""
    lines = [line.strip("│| ") for line in box.splitlines()]
    lines = [line for line in lines if line and line[0] not in "╭╰+"]
    sections: list[list[str]] = [[]]
    for line in lines:
        if set(line) in ({"─"}, {"-"}):
            sections.append([])
        else:
            sections[-1].append(line)
    sentences = []
    for section in sections:
        if not section or section[0].startswith(("For full", "Argument helptext")):
            continue
        sentences.append(" ".join(section[:2] if section[0].startswith("Perhaps") else section))
    text = ". ".join(sentence.rstrip(".") for sentence in sentences)
    return re.sub(r"Error parsing \w+Config: ", "", text)


def resumed_config(name: str, folder: str, arguments: Sequence[str]) -> Any:
    """Return a run's recorded config, changed by the flags that a resumed run may change.

    Raises:
        UsageError: `folder` is not a run of this algorithm, or a flag would change its training.
    """
    try:
        folders = run_folders(Path(folder))
        record = read_record(folders[0])
    except UsageError as error:
        raise UsageError(f"--resume {error}") from error
    config_class, fields = ALGORITHMS[name].config, record["config"]
    if record["algorithm"] != name:
        raise UsageError(
            f"--resume {folder}: that is a run of {record['algorithm']}, not of {name}"
        )
    try:
        saved = recorded_config(config_class, fields)
    except (TypeError, UsageError) as error:
        raise UsageError(f"--resume {folder}: {error}") from error
    if len(folders) > 1:  # a group of seeds that train at once
        seeds = [read_record(path)["config"]["seed"] for path in folders]
        missing = sorted(set(range(seeds[0], seeds[-1])) - set(seeds))
        if missing:
            raise UsageError(f"--resume {folder}: no run of seed {missing[0]}; resume each alone")
        saved = dataclasses.replace(saved, seeds=len(folders))
    config = parse(name, config_class, arguments, saved)
    fields = [field.name for field in dataclasses.fields(config_class)]
    changeable = [flag_of(field) for field in fields if field in CHANGEABLE - {"resume"}]
    for field in fields:
        recorded, given = getattr(saved, field), getattr(config, field)
        if recorded != given and field not in CHANGEABLE:
            raise UsageError(
                f"{flag_of(field)} {as_text(given)}: the run was started with {as_text(recorded)};"
                f" a resumed run may change only {', '.join(changeable)}"
            )
    return config


def imported(target: str) -> Callable[[Any], int]:
    """Return the function `module:name` of this package, which is imported first."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"baselines.{module}"), name)
