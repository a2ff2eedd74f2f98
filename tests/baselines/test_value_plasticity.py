"""Promises of `--probe`, `--pfo-coef` and `--intervention` for QMIX and PQN."""

import math

import numpy as np
import pytest
import torch
from test_plasticity_flags import EACH, METRICS, SOON, copied, same, timeless
from toy import TOY

from baselines.cli import main
from baselines.config import PqnConfig, QmixConfig
from baselines.learners.pqn import Pqn
from baselines.learners.qmix import Qmix
from ppo_plasticity.norms import global_norm

LEARNERS = pytest.mark.parametrize("command", ["qmix", "pqn"])
DOCUMENTED = {
    *(f"{group}/{name}/agent" for group in ("plasticity", "plasticity_end") for name in METRICS),
    *(f"plasticity/value_{name}/agent" for name in ("mean", "std")),
    *(
        f"drift/{what}_{kind}/agent"
        for what in ("features", "preactivations", "all_preactivations")
        for kind in ("l2", "cosine")
    ),
}


def make(command, **changes):
    fields = {"env": TOY, "num_envs": 6, "num_threads": 1, "hidden_size": 12} | changes
    if command == "pqn":
        return Pqn(PqnConfig(num_steps=20, num_minibatches=2, **fields))
    sizes = {"buffer_episodes": 50, "batch_episodes": 4, "updates_per_rollout": 4}
    return Qmix(QmixConfig(learning_rate=3e-3, **sizes, **fields))


@LEARNERS
@pytest.mark.parametrize("encoder", ["mlp", "plain"])
def test_the_probe_writes_the_documented_names_when_due_and_changes_nothing(command, encoder):
    watched, unwatched = make(command, probe=2, encoder=encoder), make(command, encoder=encoder)
    for iteration in range(3):
        seen, unseen = timeless(watched.iterate()), timeless(unwatched.iterate())
        extra = {name: seen.pop(name) for name in seen.keys() - unseen.keys()}
        assert str(seen) == str(unseen)
        assert extra.keys() == (DOCUMENTED if iteration % 2 == 0 else set())
        assert all(math.isfinite(value) for value in extra.values())
    assert same(watched.network.state_dict(), unwatched.network.state_dict())


@LEARNERS
def test_weights_are_measured_before_the_update_and_after_it(command):
    learner = make(command, probe=1)
    norms = [float(global_norm(learner.network.agent.network.parameters()))]
    for _ in range(3):
        metrics = learner.iterate()
        norms.append(float(global_norm(learner.network.agent.network.parameters())))
        assert metrics["plasticity/weight_norm/agent"] == norms[-2]
        assert metrics["plasticity_end/weight_norm/agent"] == norms[-1]
    assert len(set(norms)) == 4


@LEARNERS
@pytest.mark.parametrize("layers", ["last", "all"])
def test_pfo_holds_the_preactivations(command, layers):
    drifts = {}
    for coef in (0.0, 100.0):
        text = (f"pfo:coef={coef},scope={layers}",)
        learner = make(command, probe=1, intervention=text)
        metrics = [learner.iterate() for _ in range(3)]
        kind = "preactivations" if layers == "last" else "all_preactivations"
        drifts[coef] = np.mean([line[f"drift/{kind}_l2/agent"] for line in metrics])
        assert all((line["losses/pfo"] > 0) == (coef > 0) for line in metrics)
    assert drifts[100.0] < 0.5 * drifts[0.0]


@LEARNERS
def test_clip_mode_drops_the_steps_whose_agents_have_moved_too_far(command):
    learner = make(command, intervention=("pfo:mode=clip",))
    first = learner.iterate()["losses/td_loss"]
    with torch.no_grad():
        for parameter in learner.network.agent.network.trunk.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    if command == "qmix":  # PQN compares with itself before the update, QMIX with its target
        assert learner.iterate()["losses/td_loss"] < 1e-3 * first


@LEARNERS
@pytest.mark.parametrize("network", ["gru", "mlp"])
@EACH
def test_every_intervention_runs_and_does_something(name, network, command):
    text = (SOON.get(name, name),)
    changed = make(command, network=network, intervention=text)
    plain = make(command, network=network)
    for _ in range(3):
        metrics = changed.iterate()
        plain.iterate()
    assert np.isfinite(list(metrics.values())).all()
    weights, others = (copied(each.network.agent.state_dict()) for each in (changed, plain))
    assert all(value.isfinite().all() for value in weights.values())
    assert weights.keys() != others.keys() or not same(weights, others)


@LEARNERS
def test_a_network_that_the_learner_lacks_gets_one_line(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--env", TOY, "--intervention", "actor.redo"]) == 2
    said = capsys.readouterr().err
    assert "actor.redo" in said
    assert said.count("\n") == 1
