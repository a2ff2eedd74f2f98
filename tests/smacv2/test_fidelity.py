"""Random play here agrees with recorded random play of StarCraft II."""

import json
from pathlib import Path

import pytest

from smacv2 import ENGINE_VERSION
from smacv2.cli import main
from smacv2.fidelity import (
    RECORDED,
    Bound,
    Comparison,
    Estimate,
    Recording,
    compare,
    recording,
    recordings,
    report,
    table,
    verdict,
)

STORED = Path(__file__).parents[2] / "benchmarks" / "results" / "fidelity.json"
COLUMNS = ["epsilon", "episodes", "length", "return", "kills", "allies_lost"]
FIVE = [each.scenario for each in recordings() if "5_vs_5" in each.scenario]


def game(*rows, min_epsilon=0.96):
    logs = [{"source": "a log", "rows": rows}]
    fixed = {"scenario": "zerg_5_vs_5", "rules": "fixed", "options": {}}
    return recording({**fixed, "min_epsilon": min_epsilon, "logs": logs}, COLUMNS)


def comparison(real, ours, bound, real_error=0.0, our_error=0.0):
    quantities = {"kills": Estimate(real, real_error)}
    recorded = Recording("zerg_5_vs_5", {}, 100, 1.0, quantities)
    return Comparison(recorded, "kills", Estimate(ours, our_error), bound)


def outside(scenarios, episodes):
    """Return the quantities that differ, as text that a failing test shows."""
    found = compare(scenarios, episodes=episodes)
    assert found
    return [
        f"{each.recorded.scenario} {each.quantity}: {each.real.mean:.3f} is {each.ours.mean:.3f}"
        for each in found
        if not each.within
    ]


# --- The comparison itself ------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", FIVE)
def test_random_play_of_five_against_five_is_as_in_starcraft(scenario):
    assert outside([scenario], 4096) == []


@pytest.mark.slow
def test_random_play_in_every_recorded_scenario_is_as_in_starcraft():
    assert outside([], 4 * 4096) == []


def test_the_page_shows_the_present_rules_and_recordings():
    stored = json.loads(STORED.read_text())
    assert stored["engine_version"] == ENGINE_VERSION
    real = {(row["scenario"], row["quantity"]): row["real"] for row in stored["rows"]}
    recorded = {
        (each.scenario, quantity): estimate
        for each in recordings()
        for quantity, estimate in each.quantities.items()
    }
    assert real.keys() == recorded.keys()
    for key, estimate in recorded.items():
        assert real[key]["mean"] == pytest.approx(estimate.mean)


# --- Real numbers from rows -----------------------------------------------------------------------


def test_rows_are_weighted_by_episodes_and_their_spread_gives_the_error():
    # mean (1 + 9) / 4; error sqrt(2 * (1.5^2 + (3 * 0.5)^2)) / 4 = 3 / 4
    recorded = game([1.0, 1, 1, 0, 0, 5], [0.97, 3, 3, 0, 0, 5])
    assert recorded.quantities["length"] == pytest.approx(Estimate(2.5, 0.75))
    assert recorded.episodes == 4
    assert recorded.epsilon == pytest.approx((1.0 + 3 * 0.97) / 4)


def test_rows_below_the_least_epsilon_do_not_count():
    rows = [1.0, 2, 30, 1, 1, 5], [0.96, 2, 32, 1, 1, 5], [0.95, 2, 99, 9, 5, 5]
    assert game(*rows).quantities["length"].mean == 31
    assert game(*rows, min_epsilon=0.9).episodes == 6


def test_no_kill_in_n_episodes_has_an_error_of_one_nth():
    recorded = game([1.0, 50, 40, 0, 0, 5], [1.0, 50, 40, 0, 0, 5])
    assert recorded.quantities["kills"] == (0, pytest.approx(1 / 100))
    assert recorded.quantities["length"] == (40, 0)


def test_every_recorded_row_is_possible_and_has_a_source():
    stored = json.loads(RECORDED.read_text())
    for each in stored["games"]:
        size = int(each["scenario"].split("_")[1])
        for log in each.get("logs", []):
            assert log["source"].startswith("github.com/")
            for epsilon, episodes, length, reward, kills, lost in log["rows"]:
                assert 0.9 <= epsilon <= 1
                assert episodes > 0
                assert 0 < length <= 200
                assert 0 <= reward <= 20
                assert 0 <= kills <= size
                assert 0 <= lost <= size


# --- Verdicts -------------------------------------------------------------------------------------


def test_a_relative_bound_is_a_share_of_the_real_mean():
    assert comparison(10, 10.5, Bound(0.05)).within
    assert not comparison(10, 10.51, Bound(0.05)).within


def test_an_absolute_bound_is_in_the_unit_of_the_quantity():
    assert comparison(10, 9.6, Bound(0.5, relative=False)).within
    assert not comparison(10, 9.4, Bound(0.5, relative=False)).within


def test_two_standard_errors_of_the_difference_are_always_allowed():
    # the difference has the standard error 0.5, from 0.3 and 0.4
    assert comparison(1, 1.99, Bound(0.05), 0.3, 0.4).within
    assert not comparison(1, 2.01, Bound(0.05), 0.3, 0.4).within
    assert comparison(1, 2, Bound(0.05), 0.3, 0.4).sigmas == pytest.approx(2)


def test_a_difference_from_nothing_has_no_percentage():
    rows = report([comparison(0, 0.1, Bound(0.05), 0.01)], episodes=2, seed=0)["rows"]
    assert rows[0]["percent"] is None
    assert table(rows)[0]["difference"] == ""


def test_the_verdict_names_what_differs():
    found = [comparison(1, 2, Bound(0.05)), comparison(1, 1, Bound(0.05))]
    rows = report(found, episodes=2, seed=0)["rows"]
    differing = "1 of 2 quantities differ from StarCraft II: zerg_5_vs_5 kills."
    assert verdict(rows) == differing
    assert verdict(rows[1:]) == "All 1 quantities agree with StarCraft II."


def test_the_verdict_names_what_differs_inside_its_bound_by_more_than_chance():
    rows = report([comparison(1, 1.04, Bound(0.05), 0.01)], episodes=2, seed=0)["rows"]
    differing = "Inside their bounds, but by more than chance, differ: zerg_5_vs_5 kills."
    assert verdict(rows) == f"All 1 quantities agree with StarCraft II. {differing}"


def test_what_differs_most_comes_first():
    found = compare(["terran_5_vs_5", "zerg_5_vs_5_conic"], episodes=64)
    order = [(each.within, -abs(each.sigmas)) for each in found]
    assert order == sorted(order)


# --- The command ----------------------------------------------------------------------------------


def test_the_command_prints_the_verdict_and_a_row_per_quantity(capsys):
    assert main(["fidelity", "--only", "terran_5_vs_5", "--episodes", "16"]) == 0
    out = capsys.readouterr().out
    assert "StarCraft II" in out.splitlines()[0]
    assert out.count("terran_5_vs_5 ") >= 2


def test_the_command_prints_json(capsys):
    assert main(["fidelity", "--only", "terran_5_vs_5", "--episodes", "16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["episodes"], result["seed"]) == (16, 0)
    assert {row["quantity"] for row in result["rows"]} == {"length", "return"}


def test_an_unknown_scenario_is_answered_with_the_nearest(capsys):
    assert main(["fidelity", "--only", "terran_5_vs_6"]) == 2
    assert 'did you mean "terran_5_vs_5"' in capsys.readouterr().err
