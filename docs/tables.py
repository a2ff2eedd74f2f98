"""Write the generated tables of the documentation between their markers.

    python docs/tables.py

Their markers are ``<!-- table: NAME -->`` and ``<!-- end -->``; a stale table fails a test.
"""

import ast
import dataclasses
import inspect
import json
import re
import statistics
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from baselines.algorithms import ALGORITHMS
from baselines.config import (
    BattleConfig,
    MappoConfig,
    PpoConfig,
    PqnConfig,
    QmixConfig,
    RunConfig,
    ValueConfig,
)
from baselines.profiles import ATARI, CONTINUOUS, OTHER
from baselines.results.published import published
from smacv2 import fidelity
from smacv2.layout import Layout
from smacv2.options import RULES, Options
from smacv2.rules_modes import DEFECTS
from smacv2.scenario import load_scenario, scenario_names

ROOT = Path(__file__).parent.parent
PAGES = (
    *("README.md", "docs/environments.md", "docs/fidelity.md"),
    *("docs/plasticity.md", "docs/results.md"),
    *(f"docs/{page}.md" for page in ("baselines", "mappo", "qmix", "pqn", "ppo")),
)
FILES = tuple(ROOT / page for page in PAGES)
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Bring every table up to date."""
    pages = {path: updated(path.read_text()) for path in FILES}
    for path, text in pages.items():
        path.write_text(text)


def updated(text: str) -> str:
    """Return a page with its tables as they should be."""
    return MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


def options_table() -> str:
    """Return name, default and meaning of every option."""
    meanings = field_docs(Options)
    rows = [
        (f"`{field.name}`", f"`{field.default!r}`", meanings[field.name])
        for field in dataclasses.fields(Options)
    ]
    return table(("option", "default", "meaning"), rows)


def field_docs(cls: type) -> dict[str, str]:
    """Return the string below each field of a dataclass."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            docs[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    return docs


PLASTICITY = {"probe", "intervention"}  # flags of every learner, which have a table of their own


def flags_table(*classes: type, only: Collection[str] = ()) -> str:
    """Return the flags that some dataclasses themselves define, with defaults and meanings.

    Args:
        classes: each a subclass of the one before; the last one has the defaults, and of two
            meanings of a flag the later one counts.
        only: names of the fields to show; default all but those of plasticity.
    """
    meanings: dict[str, str] = {}
    for config_class in classes:
        meanings |= field_docs(config_class)
    names = only or meanings.keys() - PLASTICITY
    fields = [field for field in dataclasses.fields(classes[-1]) if field.name in names]
    shown = {"True": "on", "False": "off", "": "none", "()": "none"}
    rows = [
        (
            f"`--{field.name.replace('_', '-')}`",
            shown.get(str(field.default), field.default),
            meanings[field.name],
        )
        for field in fields
    ]
    return table(("flag", "default", "meaning"), rows)


def profiles_table() -> str:
    """Return the settings in which PPO's profiles differ, for each kind of environment."""
    kinds = {CONTINUOUS: "MuJoCo", ATARI: "Atari", OTHER: "other"}
    profiles = ALGORITHMS["ppo"].profiles
    columns = [(profile, kind) for profile in profiles for kind in kinds]
    defaults = {field.name: field.default for field in dataclasses.fields(PpoConfig)}
    names = [
        name
        for name in defaults
        if any(name in profiles[profile][kind] for profile, kind in columns)
    ]
    rows = []
    for name in names:
        values = [profiles[profile][kind].get(name, defaults[name]) for profile, kind in columns]
        rows.append((f"`{name}`", *(str(value).lower() for value in values)))
    header = [f"{profile}, {kinds[kind]}" for profile, kind in columns]
    return table(("", *header), rows)


def battle_profile_table(command: str) -> str:
    """Return the settings in which the profiles of a multi-agent learner differ."""
    profiles = ALGORITHMS[command].profiles
    config_class = ALGORITHMS[command].config
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    names = [name for name in defaults if any(name in fields for fields in profiles.values())]
    rows = []
    for name in names:
        values = [fields.get(name, defaults[name]) for fields in profiles.values()]
        rows.append((f"`{name}`", *(str(value).lower() for value in values)))
    return table(("", *(f"`{profile}`" for profile in profiles)), rows)


def battles() -> dict[str, Any]:
    """Return the findings of benchmarks/battle_learners.py, by learner, race and seed."""
    path = ROOT / "benchmarks" / "results" / "battles.json"
    return json.loads(path.read_text())["learners"]


def complete(seeds: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs of a learner in one race that have been evaluated, by seed."""
    return [run for run in seeds.values() if "win_rate" in run]


RACES = ("protoss", "terran", "zerg")
MINUTES = (2, 4, 8, 16)


def rates_cell(rates: Sequence[float]) -> str:
    """Return the mean of win rates and each of them, a dash where there are none."""
    texts = " / ".join(f"{rate:.1%}" for rate in rates)
    return f"**{np.mean(rates):.1%}** ({texts})" if len(rates) else "–"


def published_cells(algorithm: str, step: float) -> list[str]:
    """Return the published win rates of each race about a step."""
    return [rates_cell(published(f"smacv2/{race}_5_vs_5", algorithm).near(step)) for race in RACES]


def battle_results_table() -> str:
    """Return held-out win rates of each learner, seed by seed, beside the published ones."""
    rows = []
    for name, races in battles().items():
        cells = []
        for race in RACES:
            cells.append(rates_cell([run["win_rate"] for run in complete(races.get(race, {}))]))
        if set(cells) != {"–"}:
            rows.append((name, *cells))
    for algorithm in ("mappo", "qmix"):
        rows.append((f"published {algorithm.upper()}, real game", *published_cells(algorithm, 2e6)))
    return table(("greedy, 1,024 held-out battles", *RACES), rows)


SHORT_LIST = ("MAPPO, published settings", "QMIX, published settings", "MAPPO, attention", "PQN")


def win_rates_table() -> str:
    """Return mean held-out win rates of a few learners, beside the published ones."""
    rows = []
    for name in SHORT_LIST:
        runs = [complete(battles()[name][race]) for race in RACES]
        rows.append((name, *(mean_rate([run["win_rate"] for run in found]) for found in runs)))
    for algorithm in ("mappo", "qmix"):
        rates = [published(f"smacv2/{race}_5_vs_5", algorithm).near(2e6) for race in RACES]
        rows.append((f"{algorithm.upper()} on the real game, as published", *map(mean_rate, rates)))
    return table(("", *RACES), rows)


def mean_rate(rates: Sequence[float]) -> str:
    """Return the mean of win rates in whole percent."""
    return f"{np.mean(rates):.0%}"


def speed_table() -> str:
    """Return the engine's env steps/s on two cores, by race and size."""
    path = ROOT / "benchmarks" / "results" / "engine_speed_cpu.json"
    speeds = {
        row["scenario"]: row["env_steps_per_second"]["median"]
        for row in json.loads(path.read_text())["results"]
    }
    sizes = (5, 10, 20)
    rows = [
        (race, *(f"{speeds[f'{race}_{size}_vs_{size}']:,.0f}" for size in sizes)) for race in RACES
    ]
    return table(("env steps/s", *(f"{size} against {size}" for size in sizes)), rows)


def battle_time_table() -> str:
    """Return wall-clock and speed of the runs that are complete, machine by machine."""
    rows, letters = [], {}
    for name, races in battles().items():
        places: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for run in (run for seeds in races.values() for run in complete(seeds)):
            letter = letters.setdefault(run["machine"], "ABCDEFGH"[len(letters)])
            places.setdefault((letter, run["device"]), []).append(run)
        for (letter, device), runs in places.items():
            rates = sorted(run["steps_per_second"] for run in runs)
            minutes = sorted(run["seconds"] / 60 for run in runs)
            rows.append(
                (
                    name,
                    len(runs),
                    f"{letter}, {device}",
                    f"{statistics.median(rates):,.0f} [{rates[0]:,.0f}, {rates[-1]:,.0f}]",
                    f"{statistics.median(minutes):.1f} [{minutes[0]:.1f}, {minutes[-1]:.1f}]",
                )
            )
    return table(("", "runs", "machine", "steps/s", "minutes for 2 M steps"), rows)


def battle_equal_time_table() -> str:
    """Return win rates while learning after as many minutes of two cores, means over seeds.

    Steps come from the measured speed of each learner, so that all are of one machine.
    """
    speeds = json.loads((ROOT / "benchmarks" / "results" / "battle_speed.json").read_text())
    rows = []
    for name, races in battles().items():
        if name not in speeds:
            continue
        speed = speeds[name]["smacv2/terran_5_vs_5"]["median"]
        steps = [min(60 * speed * minutes, 2e6) for minutes in MINUTES]
        cells = [mean_curve(complete(races.get(race, {})), steps) for race in RACES]
        rows.append((name, f"{2e6 / speed / 60:.1f}", *cells))
    after = " / ".join(map(str, MINUTES))
    return table(("", "minutes for 2 M", *(f"{race}, {after} minutes" for race in RACES)), rows)


def mean_curve(runs: Sequence[dict[str, Any]], steps: Sequence[float]) -> str:
    """Return the mean win rate while learning after each of `steps`, a dash without runs."""
    if not runs:
        return "–"
    means = np.array([run["curve"] for run in runs], float).mean(0)
    ends = np.linspace(0, 2e6, len(means) + 1)[1:]
    return " / ".join(f"{rate:.0%}" for rate in np.interp(steps, ends, means))


def battle_plasticity_table() -> str:
    """Return rank, dead units and norms after the same runs, means over seeds and races."""
    rows = []
    for name, races in battles().items():
        runs = [run["plasticity"] for seeds in races.values() for run in complete(seeds)]
        runs = [run for run in runs if run]
        for network in runs[0] if runs else ():
            cells = []
            for metric, form in (("rank", ".0f"), ("dead", ".1f"), ("norm", ".1f")):
                pair = [
                    statistics.mean(run[network][key] for run in runs)
                    for key in (f"{metric}_first", metric)
                ]
                cells.append(" → ".join(format(value, form) for value in pair))
            rows.append((name, network, *cells))
    return table(("", "network", "feature rank", "dead units", "feature norm"), rows)


def speed_cell(row: dict[str, float]) -> str:
    """Return the median of measured speeds, the least and the most."""
    return f"{row['median']:,.0f} [{row['min']:,.0f}, {row['max']:,.0f}]"


def battle_speed_table() -> str:
    """Return steps/s of each learner, and where the time goes."""
    path = ROOT / "benchmarks" / "results" / "battle_speed.json"
    rows = []
    for name, found in json.loads(path.read_text()).items():
        if name == "machine":
            continue
        for env, row in found.items():
            shares = [f"{row['shares'][part]:.0%}" for part in ("env", "inference", "learn")]
            rows.append((name, f"`{env.removeprefix('smacv2/')}`", speed_cell(row), *shares))
    return table(("", "scenario", "steps/s", "env", "inference", "update"), rows)


def seeds_at_once_table() -> str:
    """Return steps/s of several seeds of PQN, their networks as one and one after the other."""
    found = json.loads((ROOT / "benchmarks" / "results" / "seeds_at_once.json").read_text())
    places = {"cpu": "two cores", "cuda": "H100, 16 cores"}
    rows = []
    for device, encoders in found.items():
        for encoder in ("mlp", "attention"):
            for seeds, groups in encoders.get(encoder, {}).items():
                joined, turn = groups["as one"], groups["in turn"]
                ratio = f"{joined['median'] / turn['median']:.1f}"
                cells = (speed_cell(joined), speed_cell(turn), ratio)
                rows.append((places[device], encoder, seeds, *cells))
    return table(("", "encoder", "seeds", "as one", "one after the other", "ratio"), rows)


def results_table(experiment: str, columns: dict[str, tuple[str, str]]) -> str:
    """Return measured numbers of each cell, seed by seed, from benchmarks/results.

    Args:
        experiment: of benchmarks/ppo_experiments.py.
        columns: heading to the name of the number and its format.
    """
    path = ROOT / "benchmarks" / "results" / f"ppo_{experiment}.json"
    rows = []
    for cell, content in json.loads(path.read_text()).items():
        runs = content["runs"].values()
        texts = [
            " / ".join(format(run[name], form) if name in run else "–" for run in runs)
            for name, form in columns.values()
        ]
        rows.append((f"`{cell}`", *texts))
    return table(("", *columns), rows)


STRESS_COLUMNS = {
    "return": ("return", ".0f"),
    "norm": ("norm", ".1f"),
    "KL": ("kl", ".3f"),
    "excess ratio": ("excess", ".2f"),
    "rank": ("rank", ".0f"),
    "dead": ("dead", ".0f"),
    "critic norm": ("critic_norm", ".0f"),
    "capacity loss, actor": ("capacity_actor", ".3f"),
    "capacity loss, critic": ("capacity_critic", ".3g"),
}
MAPPO_COLUMNS = {
    "win rate": ("win_rate", ".1%"),
    "norm": ("norm", ".1f"),
    "KL": ("kl", ".4f"),
    "excess ratio": ("excess", ".2f"),
    "rank": ("rank", ".0f"),
    "dead": ("dead", ".0f"),
    "critic norm": ("critic_norm", ".1f"),
    "critic rank": ("critic_rank", ".0f"),
}
SCORE_COLUMNS = {"return": ("return", ".0f"), "steps": ("steps", ",")}


def rules_table() -> str:
    """Return each of upstream's defects and the modes that keep it."""
    rows = [
        (
            name,
            defect.summary,
            *("kept" if mode in defect.kept_by else "repaired" for mode in RULES),
        )
        for name, defect in DEFECTS.items()
    ]
    return table(("", "what upstream does", *(f"`{mode}`" for mode in RULES)), rows)


def fidelity_table() -> str:
    """Return the verdict and the table of ``smacv2 fidelity``, from its stored JSON."""
    path = ROOT / "benchmarks" / "results" / "fidelity.json"
    rows = json.loads(path.read_text())["rows"]
    cells = fidelity.table(rows)
    differing = textwrap.fill(fidelity.verdict(rows), 100, break_on_hyphens=False)
    return f"{differing}\n\n" + table(cells[0], [row.values() for row in cells])


def scenarios_table() -> str:
    """Return the sizes of the 15 benchmark scenarios; the races differ in shields only."""
    rows = []
    for name in scenario_names():
        if "conic" in name or "epo" in name:
            continue
        scenario = load_scenario(name)
        layout = Layout.of(scenario)
        sides = (scenario.num_agents, scenario.num_enemies)
        rows.append((*sides, f"`{name}`", layout.obs_size, layout.state_size, layout.num_actions))
    header = ("allies", "enemies", "scenario", "observation", "state", "actions")
    return table(header, sorted(rows))


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "battle": lambda: flags_table(RunConfig, BattleConfig),
    "battle_equal_time": battle_equal_time_table,
    "battle_plasticity": battle_plasticity_table,
    "battle_results": battle_results_table,
    "battle_speed": battle_speed_table,
    "seeds_at_once": seeds_at_once_table,
    "battle_time": battle_time_table,
    "fidelity": fidelity_table,
    "mappo": lambda: flags_table(MappoConfig),
    "mappo_profiles": lambda: battle_profile_table("mappo"),
    "mappo_results": lambda: results_table("mappo", MAPPO_COLUMNS),
    "options": options_table,
    "plasticity": lambda: flags_table(RunConfig, only=PLASTICITY),
    "ppo": lambda: flags_table(RunConfig, PpoConfig),
    "pqn": lambda: flags_table(PqnConfig),
    "profiles": profiles_table,
    "qmix": lambda: flags_table(QmixConfig),
    "qmix_profiles": lambda: battle_profile_table("qmix"),
    "value": lambda: flags_table(ValueConfig),
    "win_rates": win_rates_table,
    "rules": rules_table,
    "scenarios": scenarios_table,
    "scores": lambda: results_table("scores", SCORE_COLUMNS),
    "speed": speed_table,
    "stress": lambda: results_table("stress", STRESS_COLUMNS),
}

if __name__ == "__main__":
    main()
