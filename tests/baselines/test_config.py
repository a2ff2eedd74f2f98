"""Recorded configs: also those of runs before PFO became an intervention."""

import dataclasses
import json

import pytest

from baselines.algorithms import ALGORITHMS
from baselines.cli import main, training_config
from baselines.config import MappoConfig, PpoConfig, recorded_config
from baselines.errors import UsageError
from baselines.runs import loop

EACH = pytest.mark.parametrize("algorithm", ALGORITHMS)
POLICY_BASED = ("mappo", "ppo")


def record_of(config, **fields):
    """Return the `config` that a config.json holds."""
    return json.loads(json.dumps(dataclasses.asdict(config) | fields))


def old_flags(algorithm, **changes):
    """Return the five fields of PFO in the records of older runs, at their old defaults."""
    return {
        "pfo_coef": 0.0,
        "pfo_layers": "last",
        "pfo_distance": "l2",
        "pfo_mode": "soft",
        "pfo_network": "actor" if algorithm in POLICY_BASED else "agent",
    } | {f"pfo_{name}": value for name, value in changes.items()}


@EACH
def test_a_record_gives_the_config_that_was_written(algorithm):
    config = ALGORITHMS[algorithm].config(seed=7, intervention=("redo", "pfo:coef=2"))
    assert recorded_config(type(config), record_of(config)) == config


@EACH
@pytest.mark.parametrize("intervention", [(), ("redo", "l2:coef=0.1")])
def test_an_older_record_without_pfo_has_the_interventions_that_it_lists(algorithm, intervention):
    config = ALGORITHMS[algorithm].config(seed=7, intervention=intervention)
    fields = record_of(config, **old_flags(algorithm, layers="all", distance="cosine"))
    assert recorded_config(type(config), fields) == config


@EACH
def test_an_older_record_with_pfo_has_it_as_its_last_intervention(algorithm):
    config = ALGORITHMS[algorithm].config(seed=7, intervention=("redo",))
    prefix = "actor." if algorithm in POLICY_BASED else ""
    fields = record_of(config, **old_flags(algorithm, coef=10.0))
    pfo = f"{prefix}pfo:coef=10.0,scope=last,distance=l2,mode=soft"
    wanted = dataclasses.replace(config, intervention=("redo", pfo))
    assert recorded_config(type(config), fields) == wanted


@EACH
def test_an_older_records_options_of_pfo_are_kept(algorithm):
    config = ALGORITHMS[algorithm].config()
    prefix = "actor." if algorithm in POLICY_BASED else ""
    options = {"coef": 2.5, "layers": "all", "distance": "cosine", "mode": "clip"}
    found = recorded_config(type(config), record_of(config, **old_flags(algorithm, **options)))
    assert found.intervention == (f"{prefix}pfo:coef=2.5,scope=all,distance=cosine,mode=clip",)


@pytest.mark.parametrize("algorithm", POLICY_BASED)
@pytest.mark.parametrize(
    ("network", "prefix"), [("actor", "actor."), ("critic", "critic."), ("both", "")]
)
def test_an_older_record_names_the_networks_that_pfo_holds(algorithm, network, prefix):
    config = ALGORITHMS[algorithm].config()
    fields = record_of(config, **old_flags(algorithm, coef=1.0, network=network))
    (found,) = recorded_config(type(config), fields).intervention
    assert found == f"{prefix}pfo:coef=1.0,scope=last,distance=l2,mode=soft"


def test_reading_a_record_does_not_change_it():
    fields = record_of(MappoConfig(), **old_flags("mappo", coef=1.0))
    before = json.dumps(fields)
    recorded_config(MappoConfig, fields)
    assert json.dumps(fields) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": "many"}, "num_steps is 'many'"),
        ({"intervention": [3]}, "intervention is [3]"),
        ({"num_step": 3}, "num_step is unknown"),
        ({"pfo_coef": 1.0}, "pfo_coef is unknown"),  # one of five flags: no run wrote that
    ],
)
def test_a_record_with_other_fields_is_refused_by_name(changes, words):
    with pytest.raises(UsageError, match="other fields") as error:
        recorded_config(PpoConfig, record_of(PpoConfig(), **changes))
    assert words in str(error.value)


def test_a_record_that_lacks_a_field_is_refused_by_name():
    fields = record_of(PpoConfig())
    del fields["num_steps"]
    with pytest.raises(UsageError, match="num_steps is missing"):
        recorded_config(PpoConfig, fields)


def test_a_run_with_an_older_record_can_be_resumed_and_evaluated(tmp_path, capsys):
    flags = ["--env", "CartPole-v1", "--num-envs", "1", "--num-steps", "64", "--total-steps", "64"]
    flags += ["--runs-dir", str(tmp_path), "--intervention", "redo"]
    (path,), _ = loop.train("ppo", training_config("ppo", flags))
    record = json.loads((path / "config.json").read_text())
    record["config"] |= old_flags("ppo", coef=2.0, layers="all", network="critic")
    (path / "config.json").write_text(json.dumps(record))
    assert main(["ppo", "--resume", str(path), "--total-steps", "128"]) == 0
    written = json.loads((path / "config.json").read_text())["config"]
    assert written["intervention"] == [
        "redo",
        "critic.pfo:coef=2.0,scope=all,distance=l2,mode=soft",
    ]
    assert not [name for name in written if name.startswith("pfo_")]
    first, second = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    assert first["losses/pfo"] == 0 < second["losses/pfo"]
    (path / "config.json").write_text(json.dumps(record))
    assert main(["evaluate", str(path), "--episodes", "2"]) == 0
    assert "CartPole-v1" in capsys.readouterr().out
