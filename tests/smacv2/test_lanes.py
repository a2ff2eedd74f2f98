"""A battle may be played by several lanes at once, in any order, with the bytes of one lane."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smacv2.engine import loop

RACES = """
import numpy as np
from smacv2.engine.compile import meet
import smacv2.engine.spawn as module
from tests.smacv2.lanes import RaceError, play_by_lanes

def tidy(numbers, lane, lanes):
    numbers[lane] = lane
    module.meet()
    total = numbers[0] + numbers[lanes - 1]
    module.meet()
    numbers[lane] = total

def hasty(numbers, lane, lanes):
    numbers[lane] = lane
    numbers[lane] = numbers[0] + numbers[lanes - 1]

def both(numbers, lane, lanes):
    numbers[0] = 1

def unequal(numbers, lane, lanes):
    if lane == 0:
        module.meet()

def wrong(numbers, lane, lanes):
    module.meet()
    raise KeyError(lane)

numbers = np.zeros(3, np.int32)
play_by_lanes(tidy, (numbers,), 3)
assert numbers.tolist() == [2, 2, 2]
for rule, error in ((hasty, RaceError), (both, RaceError), (unequal, RaceError), (wrong, KeyError)):
    try:
        play_by_lanes(rule, (numbers,), 3)
    except error:
        continue
    raise AssertionError(rule)
assert module.meet is meet
"""

SPAWN = """
import sys
import numpy as np
from smacv2.battle import BattleState, set_seeds
from smacv2.engine.spawn import spawn
from smacv2.engine.tables import Tables
from smacv2.layout import Layout
from smacv2.scenario import load_scenario, parse_scenario
from tests.smacv2.lanes import play_by_lanes

def with_all_teams(base):
    source = load_scenario(base).source
    team = {key: value for key, value in source["team"].items() if key != "weights"}
    return parse_scenario({**source, "team": {**team, "kind": "all_teams"}}, name=base, file=base)

def battle_after_reset(scenario, seed, lanes):
    tables = Tables.build(scenario, scenario.options, Layout.of(scenario, scenario.options))
    battle = BattleState.empty(1, scenario.num_agents, scenario.num_enemies)
    for block in (battle.units, battle.world, battle.sights):
        block[:] = 1  # left over from the episode before
    set_seeds(battle.world, np.ones(1, bool), np.array([seed]))
    args = (
        battle.units[0], battle.world[0], battle.sights[0], tables.kinds, tables.rules,
        tables.teams, tables.points, tables.spiral, tables.pathing,
    )
    if lanes == 1:
        spawn(*args, 0, 1)
    else:
        play_by_lanes(spawn, args, lanes)
    return b"".join(block.tobytes() for block in (battle.units, battle.world, battle.sights))

scenario = load_scenario(sys.argv[1])
if sys.argv[2:]:
    scenario = with_all_teams(sys.argv[1])
for seed in range(10):
    alone = battle_after_reset(scenario, seed, 1)
    for lanes in (2, 3, 7):
        assert battle_after_reset(scenario, seed, lanes) == alone, (seed, lanes)
"""


def run_uncompiled(*arguments):
    """Run Python with arguments in a process whose rules are plain Python functions."""
    result = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


def test_lanes_that_race_or_meet_unequally_often_are_found():
    run_uncompiled("-c", RACES)


@pytest.mark.parametrize(
    "scenario", [("terran_5_vs_5",), ("protoss_10_vs_11",), ("zerg_5_vs_5", "all_teams")]
)
def test_a_reset_by_several_lanes_gives_the_bytes_of_one_lane_and_never_races(scenario):
    run_uncompiled("-c", SPAWN, *scenario)


@pytest.mark.parametrize(
    "scenario", ["terran_5_vs_5", "zerg_5_vs_5", "protoss_5_vs_5", "terran_6_vs_5_epo_05"]
)
def test_a_battle_is_the_same_by_several_lanes_and_for_any_order_of_units_and_items(scenario):
    run_uncompiled("-m", "tests.smacv2.uncompiled", "lanes,order,items", scenario)


def test_lanes_meet_only_in_the_step_and_in_the_reset():
    # A rule that met inside a phase would wait for lanes that do not call it.
    callers = {
        path.name
        for path in Path(loop.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "meet"
    }
    assert callers == {"loop.py", "spawn.py"}
