"""The `ppo-plasticity` command: toy problem, capacity of checkpoints, list of interventions.

Nothing heavy is imported before the options have been read. Bad input leads to exit status 2 and
one line with the nearest match.
"""

import argparse
import dataclasses
import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ppo_plasticity.capacity import CapacityProbe, CapacityResult

LOSSES = {  # name: function in `capacity`
    "categorical": "categorical_kl",
    "normal": "normal_kl",
    "squares": "squared_error",
}
SUFFIXES = (".pt", ".safetensors")
CHECKPOINTS = "step_*/policy.safetensors"  # in a run's checkpoints/
STATISTICS = ("last_minibatch", "mean_last_tenth", "area", "full_set")
DEFAULT = "(default: %(default)s)"


class UsageError(ValueError):
    """Bad input: the command prints the message and exits with status 2."""


class Command(NamedTuple):
    """A subcommand."""

    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit status, 2 for bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = dispatch(arguments)
        sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"ppo-plasticity: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `ppo-plasticity interventions | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def dispatch(arguments: Sequence[str]) -> int:
    """Read the options of the named subcommand and run it.

    Raises:
        UsageError: A name, an option or its value is wrong.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        raise UsageError(unknown("command", name, COMMANDS))
    try:
        return COMMANDS[name].run(read_options(name, rest))
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def read_options(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a subcommand.

    Raises:
        UsageError: An option is unknown, or its value is wrong.
    """
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"ppo-plasticity {name}",
        description=command.summary,
        allow_abbrev=False,
        exit_on_error=False,
    )
    command.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error.argument_name}: {error.message}") from error
    strange = [argument.partition("=")[0] for argument in rest if argument.startswith("-")]
    if strange:
        known = re.findall(r"--[\w-]+", parser.format_usage())
        raise UsageError(unknown("option", strange[0], known))
    if rest:
        raise UsageError(f"unrecognized arguments: {' '.join(rest)}")
    return options


def overview() -> str:
    """Return the text of `ppo-plasticity --help`."""
    rows = [f"  {name:<15}{command.summary}" for name, command in COMMANDS.items()]
    lines = ["usage: ppo-plasticity COMMAND [OPTIONS]", "", *rows, ""]
    return "\n".join([*lines, "ppo-plasticity COMMAND --help lists the options of a command"])


# --- toy -----------------------------------------------------------------------------------------


def toy_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `toy`."""
    parser.add_argument(
        "--figure",
        default="toy.png",
        metavar="PATH",
        help=f'file of the figure, "" for no figure {DEFAULT}',
    )


def toy_command(options: argparse.Namespace) -> int:
    """Print the tables of the toy problem and draw its figure."""
    import torch

    from ppo_plasticity import toy

    torch.set_num_threads(1)  # its tensors are tiny
    runs = [toy.two_states(alpha) for alpha in toy.ALPHAS]
    results = toy.ranks()
    states = [
        {
            "alpha": run.alpha,
            "old_probability_y": run.old_probabilities[1],
            **{f"ratios_{step}": list(run.ratios[step]) for step in toy.SHOWN_STEPS},
        }
        for run in runs
    ]
    violations = [dataclasses.asdict(result) for result in results]
    if options.json:
        print_json({"two_states": states, "ranks": violations})
    else:
        print("Probability ratios (r_x, r_y) after 4, 10 and 20 steps; the clip is at 1.1\n")
        print_table(states)
        print(
            f"\n32 states: greatest ratio, shares of states above {toy.ABOVE}, below {toy.BELOW}\n"
        )
        print_table(violations)
    if options.figure:
        draw_or_explain(lambda: toy.draw(runs, results, options.figure), options.figure)
    return 0


def draw_or_explain(draw: Callable[[], None], path: str) -> None:
    """Draw a figure; print one line that names its file, or the package that is missing.

    Raises:
        UsageError: The figure cannot be written to `path`.
    """
    try:
        draw()
    except ImportError:
        print("no figure: pip install 'smacv2-suite[plots]'", file=sys.stderr)
        return
    except (OSError, ValueError) as error:  # ValueError: a format that matplotlib cannot write
        raise UsageError(f"--figure {path}: {first_line(error)}") from error
    print(f"figure: {path}", file=sys.stderr)


# --- capacity ------------------------------------------------------------------------------------


def capacity_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `capacity`."""
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        help="state dicts, *.pt or *.safetensors, or the checkpoints/ of a run with"
        " step_*/policy.safetensors; read in the order of names (required)",
    )
    add("--network", metavar="MODULE:FACTORY", help="function that returns the network (required)")
    add(
        "--observations",
        metavar="FILE.npy",
        help="array (rows, ...) of any real dtype (required)",
    )
    add("--loss", default="categorical", help=f"{', '.join(LOSSES)} {DEFAULT}")
    add("--prefix", default="", help="load only entries with this prefix, e.g. actor.")
    add(
        "--scale",
        type=number(0),
        default=1.0,
        help=f"divide observations by this, e.g. 255 {DEFAULT}",
    )
    add("--minibatch", type=whole_number(1), default=256, help=f"rows per step {DEFAULT}")
    add("--epochs", type=whole_number(1), default=1, help=f"passes over all rows {DEFAULT}")
    add("--learning-rate", type=number(0), default=2.5e-4, help=f"of Adam {DEFAULT}")
    add("--betas", type=number(0, 1), nargs=2, default=[0.9, 0.999], help=f"of Adam {DEFAULT}")
    add("--max-grad-norm", type=number(0), default=0.5, help=f"gradient clipping {DEFAULT}")
    add(
        "--target-seeds",
        type=whole_number(0),
        nargs="+",
        default=[27],
        help=f"random targets, one fit per seed {DEFAULT}",
    )


def capacity_command(options: argparse.Namespace) -> int:
    """Measure every checkpoint of a folder; print a row per checkpoint and target."""
    required = {"folder": "folder", "network": "--network", "observations": "--observations"}
    missing = [shown for name, shown in required.items() if getattr(options, name) is None]
    if missing:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}")
    folder = Path(options.folder)
    paths = checkpoints(folder)
    if options.loss not in LOSSES:
        raise UsageError(unknown("loss", options.loss, LOSSES))
    network = build_network(options.network)
    probe = build_probe(network, options)
    rows: list[dict[str, Any]] = []
    for seed, fresh in probe.fresh.items():
        rows.append({"checkpoint": "(fresh)", "seed": seed, **statistics(fresh), "ratio": 1.0})
    for path in paths:
        load_weights(network, path, options.prefix)
        for result in probe.measure(network):
            found = {**statistics(result.network), "ratio": result.ratio}
            name = path.relative_to(folder).as_posix()
            rows.append({"checkpoint": name, "seed": result.target_seed, **found})
    print_json(rows) if options.json else print_table(rows)
    return 0


def checkpoints(folder: Path) -> list[Path]:
    """Return a folder's state dicts, or those of its checkpoints, in the order of names.

    Raises:
        UsageError: The folder does not exist, or has no state dicts.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    paths = paths or sorted(folder.glob(CHECKPOINTS))
    if not paths:
        patterns = [*(f"*{suffix}" for suffix in SUFFIXES), CHECKPOINTS]
        raise UsageError(f"{folder}: holds no {' or '.join(patterns)}")
    return paths


def build_network(target: str) -> "torch.nn.Module":
    """Return the network made by the function `module:factory`.

    The module may be in the working directory.

    Raises:
        UsageError: The function does not exist, fails, or does not return a network.
    """
    import importlib

    from torch import nn

    module, colon, name = target.partition(":")
    if not colon or not name:
        raise UsageError(f"--network is {target!r}, must be like my_module:make_network")
    sys.path.insert(0, os.getcwd())
    try:
        network = getattr(importlib.import_module(module), name)()
    except Exception as error:
        raise UsageError(
            f"--network {target}: {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(network, nn.Module):
        raise UsageError(f"--network {target}: returned {type(network).__name__}, not nn.Module")
    if not list(network.parameters()):
        raise UsageError(f"--network {target}: the network has no parameters")
    return network


def build_probe(network: "torch.nn.Module", options: argparse.Namespace) -> "CapacityProbe":
    """Return a probe for the observations of the options; this fits the fresh networks.

    Raises:
        UsageError: The observations cannot be read or do not fit the network.
    """
    from ppo_plasticity import capacity

    observations = read_observations(options.observations)
    if len(observations) < options.minibatch:
        raise UsageError(
            f"--observations {options.observations}: {len(observations)} observations are less"
            f" than one minibatch of {options.minibatch}"
        )
    fit = capacity.Fit(
        minibatch=options.minibatch,
        epochs=options.epochs,
        optimizer_options={"lr": options.learning_rate, "betas": tuple(options.betas)},
        max_grad_norm=options.max_grad_norm,
        prepare=lambda rows: network_input(rows, options.scale),
    )
    try:
        return capacity.CapacityProbe(
            network,
            observations,
            loss=getattr(capacity, LOSSES[options.loss]),
            target_seeds=options.target_seeds,
            fit=fit,
        )
    except Exception as error:  # a user's network may raise any error
        shape = (options.minibatch, *observations.shape[1:])
        whole = observations.dtype.kind in "iu" and options.scale == 1
        raise UsageError(
            f"--network {options.network} failed on {shape} {observations.dtype} of --observations"
            f" {options.observations}, --loss {options.loss}: {first_line(error)}"
            + ("; --scale 255 makes floats of pixels" if whole else "")
        ) from error


def read_observations(path: str) -> "NDArray[Any]":
    """Return the array of a .npy file, (rows, ...), as a memory map.

    Raises:
        UsageError: The file cannot be read, or does not contain rows of numbers.
    """
    import numpy as np

    try:
        found = np.load(path, mmap_mode="r")
    except Exception as error:  # a file of another format raises various errors
        raise UsageError(f"--observations {path}: {first_line(error)}") from error
    if not isinstance(found, np.ndarray):
        raise UsageError(f"--observations {path}: an archive, must be one array, saved as .npy")
    if found.ndim == 0 or found.dtype.kind not in "biuf":
        raise UsageError(
            f"--observations {path}: shape {found.shape}, dtype {found.dtype}; must be numbers"
            " of shape (rows, ...)"
        )
    return found


def network_input(rows: "torch.Tensor", scale: float) -> "torch.Tensor":
    """Return observations divided by `scale`, with double precision reduced to single."""
    import torch

    rows = rows if scale == 1 else rows / scale
    return rows.float() if rows.dtype == torch.float64 else rows


def load_weights(network: "torch.nn.Module", path: Path, prefix: str) -> None:
    """Load a state dict into a network: its entries with `prefix`, which is removed.

    Raises:
        UsageError: The file is not a state dict of this network.
    """
    try:
        state = read_state(path)
        chosen = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        network.load_state_dict(chosen)
    except Exception as error:  # unpickling alone raises various errors
        raise UsageError(f"{path}: {first_line(error)}") from error


def read_state(path: Path) -> dict[str, "torch.Tensor"]:
    """Return a file's tensors by name."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def statistics(result: "CapacityResult") -> dict[str, float]:
    """Return the printed losses by name."""
    return {name: getattr(result, name) for name in STATISTICS}


# --- interventions -------------------------------------------------------------------------------


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


def interventions_command(options: argparse.Namespace) -> int:
    """Print all interventions with their options, defaults and meaning."""
    from ppo_plasticity.interventions import INTERVENTIONS, describe, options_of

    if options.json:
        print_json(
            {
                name: {
                    "summary": summary(kind),
                    "options": {
                        option: {"default": field.default, "meaning": field.metadata["meaning"]}
                        for option, field in options_of(kind).items()
                    },
                }
                for name, kind in INTERVENTIONS.items()
            }
        )
        return 0
    for name, kind in INTERVENTIONS.items():
        listed = describe(kind)
        print(f"{name}{':' if listed else ''}{listed}\n    {summary(kind)}")
    return 0


def summary(kind: type) -> str:
    """Return the first sentence of a docstring."""
    return (kind.__doc__ or "").partition("\n")[0].strip()


COMMANDS = {
    "toy": Command("print and draw the paper's toy problem", toy_options, toy_command),
    "capacity": Command("capacity loss of a folder's weights", capacity_options, capacity_command),
    "interventions": Command("list all interventions", no_options, interventions_command),
}


# --- Values and output ---------------------------------------------------------------------------


def whole_number(low: int) -> Callable[[str], int]:
    """Return a function that reads whole numbers from `low`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text) or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low}, not {text!r}")
        return int(text)

    return read


def number(low: float, high: float = 1e9) -> Callable[[str], float]:
    """Return a function that reads numbers above `low` and below `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low
        if not low < value < high:
            raise argparse.ArgumentTypeError(
                f"must be a number above {low:g} and below {high:g}, not {text!r}"
            )
        return value

    return read


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """Return one line with an unknown name, the nearest match and the allowed names."""
    names = list(allowed)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f", did you mean {nearest[0]}?" if nearest else ""
    return f"unknown {kind} {name!r}{hint} (allowed: {', '.join(names)})"


def first_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def print_json(value: object) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows with equal keys as a table, aligned to the right."""
    lines = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def cell(value: object) -> str:
    """Return the text of a value in a table."""
    if isinstance(value, list):
        return "(" + ", ".join(f"{part:.3f}" for part in value) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
