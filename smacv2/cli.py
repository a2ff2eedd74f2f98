"""The command ``smacv2``: a table of subcommands, each with its options and its function.

Nothing heavy is imported before the options have been read, so help and errors are quick. Bad input
leads to exit status 2 and one line with the nearest match.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from smacv2.options import OptionError
from smacv2.registration import environment_id
from smacv2.scenario import ScenarioError, load_scenario, scenario_names
from smacv2.schema import did_you_mean

if TYPE_CHECKING:
    from smacv2.speed import Speed

DEVICES = ("cpu", "cuda")
POLICIES = ("random", "stop", "nearest")
MAX_ENVS, MAX_THREADS = 2**20, 1024  # as in gymnasium_env, which is slow to import
MAX_SEED = 2**32
DEFAULT = "(default: %(default)s)"


class UsageError(ValueError):
    """Bad input: the command prints the message and exits with status 2."""


# --- Values --------------------------------------------------------------------------------------


def whole_number(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """Return a function that reads whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        try:
            value = int(text.replace("_", ""))
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {low} to {high}, not {text!r}"
            )
        return value

    return read


def duration(text: str) -> float:
    """Read a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, up to 3600, not {text!r}")
    return value


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return a function that reads one of ``names``."""

    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(
                f'must be one of {", ".join(names)}, not "{text}"{did_you_mean(text, names)}'
            )
        return text

    return read


def scenario(text: str) -> str:
    """Check the name of a scenario, or the path of its TOML file."""
    try:
        load_scenario(text)
    except (ScenarioError, OptionError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


# --- Commands ------------------------------------------------------------------------------------


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


def list_command(options: argparse.Namespace) -> int:
    """Print every scenario with its sizes."""
    from smacv2.layout import Layout

    rows = []
    for name in scenario_names():
        loaded = load_scenario(name)
        layout = Layout.of(loaded)
        rows.append(
            {
                "scenario": name,
                "id": environment_id(name),
                "allies": loaded.num_agents,
                "enemies": loaded.num_enemies,
                "obs": layout.obs_size,
                "state": layout.state_size,
                "actions": layout.num_actions,
                "episode_limit": loaded.episode_limit,
                "summary": loaded.summary,
            }
        )
    if options.json:
        print_json(rows)
    else:
        print_table([{k: v for k, v in row.items() if k != "id"} for row in rows])
    return 0


def speed_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smacv2 speed``."""
    add = parser.add_argument
    add("--scenario", type=scenario, default="terran_10_vs_10", help=f"name or TOML file {DEFAULT}")
    add(
        "--num-envs",
        type=whole_number(1, MAX_ENVS),
        default=1024,
        help=f"battles at once {DEFAULT}",
    )
    add("--threads", type=whole_number(1, MAX_THREADS), help="CPU threads (default: every core)")
    add("--device", type=one_of(DEVICES), default="cpu", help=f"cpu or cuda {DEFAULT}")
    add("--seconds", type=duration, default=5.0, help=f"timed, in five repeats {DEFAULT}")


def speed_command(options: argparse.Namespace) -> int:
    """Print environment steps per second, and the time of each stage."""
    from smacv2.speed import measure

    try:
        speed = measure(
            options.scenario,
            num_envs=options.num_envs,
            threads=options.threads,
            device=options.device,
            seconds=options.seconds,
        )
    except (ImportError, RuntimeError) as error:
        if options.device == "cpu":
            raise
        raise UsageError(f"--device {options.device}: {error}") from error
    except MemoryError as error:
        raise UsageError(f"--num-envs {options.num_envs}: not enough memory") from error
    if options.json:
        print_json(speed.summary())
    else:
        print(describe_speed(speed))
    return 0


def describe_speed(speed: "Speed") -> str:
    """Return the text of ``smacv2 speed``."""
    rates = [speed.env_steps_per_second, min(speed.repeats), max(speed.repeats)]
    median, low, high = (f"{rate:,.0f}" for rate in rates)
    agents = f"{speed.env_steps_per_second * speed.num_agents:,.0f}"
    parts = ", ".join(f"{name} {spent:.2f}" for name, spent in speed.stages.items())
    parts = parts or "stages are not measured on CUDA"
    return (
        f"{speed.scenario}: {speed.num_envs} battles, {speed.threads} threads, {speed.device}\n"
        f"env steps/s    {median} (median of {len(speed.repeats)}; {low} to {high})\n"
        f"agent steps/s  {agents}\n"
        f"µs per step    {parts}\n"
        f"first step     {speed.compile_seconds:.2f} s (compilation, unless cached)\n"
        f"peak memory    {speed.peak_memory_mb:,.0f} MB"
    )


def play_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smacv2 play``."""
    add = parser.add_argument
    add("--scenario", type=scenario, help="name or TOML file (required)")
    add(
        "--policy",
        type=one_of(POLICIES),
        default="random",
        help=f"random, stop or nearest {DEFAULT}",
    )
    add("--episodes", type=whole_number(1, 10**7), default=256, help=f"battles to play {DEFAULT}")
    add(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        help=f"set of held-out battles {DEFAULT}",
    )


def play_command(options: argparse.Namespace) -> int:
    """Print the results of a scripted policy."""
    if options.scenario is None:
        raise UsageError("--scenario is required")
    from smacv2.play import play

    result: dict[str, Any] = play(
        options.scenario, options.policy, options.episodes, seed=options.seed
    )
    if options.json:
        print_json(result)
        return 0
    low, high = result["win_rate_interval_95"]
    print(
        f"{result['scenario']}: {result['policy']}, {result['episodes']} battles, "
        f"seed {result['seed']}\n"
        f"win rate  {result['win_rate']:.1%} (95 % interval {low:.1%} to {high:.1%})\n"
        f"return    {result['episodic_return']:.2f}\n"
        f"length    {result['episodic_length']:.1f}\n"
        f"draws     {result['draws']}\n"
        f"timeouts  {result['timeouts']}"
    )
    return 0


def fidelity_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``smacv2 fidelity``."""
    add = parser.add_argument
    add(
        "--episodes",
        type=whole_number(2, 10**7),
        default=4096,
        help=f"battles per scenario {DEFAULT}",
    )
    add(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        help=f"set of held-out battles {DEFAULT}",
    )
    add("--only", nargs="+", metavar="NAME", default=[], help="scenarios (default: all recorded)")


def fidelity_command(options: argparse.Namespace) -> int:
    """Print random play here beside recorded random play of StarCraft II."""
    from smacv2.fidelity import compare, recordings, report, table, verdict

    names = [recorded.scenario for recorded in recordings()]
    for name in options.only:
        if name not in names:
            raise unknown(f'scenario "{name}" of --only', name, names)
    found = compare(options.only, episodes=options.episodes, seed=options.seed)
    result = report(found, options.episodes, options.seed)
    if options.json:
        print_json(result)
        return 0
    print(verdict(result["rows"]) + "\n")
    print_table(table(result["rows"]))
    print(
        f"\nreal: random play of StarCraft II (epsilon 0.9 to 1) in public logs; "
        f"here: engine rules {result['engine_version']}, {options.episodes} battles per scenario. "
        "Mean ± standard error.\n"
        "Within: inside the bound, or two standard errors apart at most."
    )
    return 0


def doctor_command(options: argparse.Namespace) -> int:
    """Print the findings about this machine; return 1 if anything is wrong."""
    from smacv2.doctor import WRONG, examine, report

    findings = examine()
    if options.json:
        print_json(report(findings))
    else:
        print_table([{"": f.status, "what": f.name, "found": f.value} for f in findings])
        for finding in findings:
            if finding.cure:
                print(f"{finding.name}: {finding.cure}")
    return int(any(finding.status == WRONG for finding in findings))


class Command(NamedTuple):
    """A subcommand: summary, function that adds its options, function that runs it."""

    summary: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "list": Command("show all scenarios with their sizes", no_options, list_command),
    "speed": Command("measure environment steps per second", speed_options, speed_command),
    "play": Command("play a scripted policy, show its win rate", play_options, play_command),
    "fidelity": Command(
        "compare random play with recorded StarCraft II", fidelity_options, fidelity_command
    ),
    "doctor": Command("check this machine, suggest cures", no_options, doctor_command),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit status, 2 for bad input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = dispatch(arguments)
        sys.stdout.flush()
        return status
    except (UsageError, ScenarioError, OptionError) as error:
        print(f"smacv2: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `smacv2 list | head`
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
    if arguments[0] == "--version":
        from smacv2 import ENGINE_VERSION, __version__

        print(f"smacv2-suite {__version__}, engine rules {ENGINE_VERSION}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise unknown(f'command "{name}"', name, COMMANDS)
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
        prog=f"smacv2 {name}", description=command.summary, allow_abbrev=False, exit_on_error=False
    )
    command.add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error.argument_name}: {error.message}") from error
    if rest:
        given, known = rest[0].partition("=")[0], re.findall(r"--[\w-]+", parser.format_usage())
        kind = "option" if given.startswith("-") else "argument"
        raise unknown(f"{kind} {given}", given, known)
    return options


def unknown(what: str, name: str, allowed: Iterable[str]) -> UsageError:
    """Return the error for a name that does not exist; it suggests the nearest allowed name."""
    names = list(allowed)
    hint = did_you_mean(name, names)
    return UsageError(f"unknown {what}{hint} (allowed: {', '.join(names)})")


def overview() -> str:
    """Return the text of ``smacv2 --help``."""
    rows = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    lines = ["usage: smacv2 COMMAND [OPTIONS]", "", *rows, ""]
    return "\n".join([*lines, "smacv2 COMMAND --help lists the options of a command"])


# --- Output --------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def print_table(rows: Iterable[dict[str, object]]) -> None:
    """Print rows with equal keys as a table, numbers aligned to the right."""
    rows = list(rows)
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [isinstance(value, int) for value in rows[0].values()]
    for line in lines:
        cells = zip(line, widths, numeric, strict=True)
        aligned = [
            text.rjust(width) if right else text.ljust(width) for text, width, right in cells
        ]
        print("  ".join(aligned).rstrip())
