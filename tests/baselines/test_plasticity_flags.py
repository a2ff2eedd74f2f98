"""Promises of `--probe`, `--pfo-coef` and `--intervention` for PPO and MAPPO."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toy import TOY

from baselines.cli import main, training_config
from baselines.config import MappoConfig, PpoConfig
from baselines.experience.collect import Clock
from baselines.learners import ppo
from baselines.learners.mappo import Mappo
from baselines.learners.ppo import Ppo, minibatches_of
from baselines.runs import loop
from ppo_plasticity.interventions import INTERVENTIONS, Interventions

PFO = ppo.LOSSES.index("losses/pfo")
SIZES = {"num_steps": 20, "hidden_size": 12, "num_minibatches": 2, "update_epochs": 2}
RANKS = ("approximate_rank", "effective_rank", "srank", "feature_rank", "matrix_rank")
METRICS = {
    *RANKS,
    *(f"preactivation_{rank}" for rank in RANKS),
    *("dead_units", "dormant_fraction", "feature_norm", "preactivation_norm"),
    *("all_preactivations_norm", "feature_mean", "feature_std", "weight_norm"),
}
RATIOS = {
    *("kl", "kl_k1", "kl_k2", "kl_k3", "ratio_mean", "ratio_min", "ratio_max", "ratio_std"),
    *(f"ratio_{side}_{of}" for side in ("above", "below") for of in ("mean", "count", "fraction")),
    *("ratio_outside_fraction", "excess_ratio", "excess_ratio_window", "clipped_fraction"),
    *("effective_sample_size", "total_variation"),
}
DOCUMENTED = {
    *(
        f"{group}/{name}/{network}"
        for group in ("plasticity", "plasticity_end")
        for name in METRICS
        for network in ("actor", "critic")
    ),
    *("plasticity/policy_variance/actor", "plasticity/value_mean/critic"),
    "plasticity/value_std/critic",
    *(
        f"drift/{what}_{kind}/{network}"
        for what in ("features", "preactivations")
        for kind in ("l2", "cosine")
        for network in ("actor", "critic")
    ),
    *(
        f"drift/all_preactivations_{kind}/{network}"
        for kind in ("l2", "cosine")
        for network in ("actor", "critic")
    ),
    *(f"trust_region/{name}" for name in RATIOS),
}  # docs/plasticity.md
# Options that make each of them act within two iterations.
SOON = {
    "continual_backprop": "continual_backprop:rate=0.2,maturity=0",
    "head_reset": "head_reset:every=1",
    "injection": "injection:at=1",
    "redo": "redo:every=1,threshold=0.7",
    "shrink_perturb": "shrink_perturb:every=1",
    "weight_clipping": "weight_clipping:factor=0.9",
}
EACH = pytest.mark.parametrize("name", sorted(INTERVENTIONS))
LEARNERS = pytest.mark.parametrize("learner", ["ppo", "mappo"])


class SmallPpo:
    """One seed of PPO on CartPole, or several."""

    def __init__(self, **changes):
        fields = {"env": "CartPole-v1", "num_envs": 3, "learning_rate": 3e-3, **SIZES}
        self.group = Ppo(PpoConfig(**fields | changes))

    def iterate(self):
        return self.group.iterate()[0]

    def weights(self, network, seed=0):
        return getattr(self.group.stack.agents[seed], network).state_dict()


class SmallMappo:
    """MAPPO on the toy game."""

    def __init__(self, **changes):
        fields = {"env": TOY, "num_envs": 6, "num_threads": 1, "network": "mlp", **SIZES}
        self.learner = Mappo(MappoConfig(**fields | changes))

    def iterate(self):
        return self.learner.iterate()

    def weights(self, network):
        return getattr(self.learner.network, network).state_dict()


MAKE = {"ppo": SmallPpo, "mappo": SmallMappo}


def copied(weights):
    return {name: value.clone() for name, value in weights.items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[name]) for name, value in first.items())


# Probe


def timeless(metrics):
    return {k: v for k, v in metrics.items() if not k.startswith("time/") and k != "charts/SPS"}


@pytest.mark.parametrize(
    ("learner", "changes"),
    [("ppo", {}), ("ppo", {"shared_trunk": True}), ("mappo", {}), ("mappo", {"network": "gru"})],
)
def test_the_probe_writes_the_documented_names_when_due_and_changes_nothing(learner, changes):
    watched, unwatched = MAKE[learner](probe=2, **changes), MAKE[learner](**changes)
    for iteration in range(3):
        seen, unseen = timeless(watched.iterate()), timeless(unwatched.iterate())
        extra = {name: seen.pop(name) for name in seen.keys() - unseen.keys()}
        assert str(seen) == str(unseen)  # NaN equals NaN as text
        minibatches = {n for n in extra if n.startswith(("first_minibatch/", "last_minibatch/"))}
        assert extra.keys() - minibatches == (DOCUMENTED if iteration % 2 == 0 else set())
        if learner == "ppo" and iteration % 2 == 0:
            parts = [name.partition("/")[2] for name in ppo.LOSSES]
            assert minibatches == {
                f"{which}_minibatch/{p}" for which in ("first", "last") for p in parts
            }
    assert same(watched.weights("actor"), unwatched.weights("actor"))


@LEARNERS
def test_measured_numbers_are_possible(learner):
    metrics = MAKE[learner](probe=1).iterate()
    for name in DOCUMENTED - {n for n in DOCUMENTED if "ratio_above_" in n or "ratio_below_" in n}:
        if "excess" not in name:
            assert math.isfinite(metrics[name]), name
    for network in ("actor", "critic"):
        for rank in RANKS:
            assert 0 <= metrics[f"plasticity/{rank}/{network}"] <= 12
        assert 0 <= metrics[f"plasticity/dead_units/{network}"] <= 12
        assert metrics[f"drift/features_l2/{network}"] > 0
        assert metrics[f"drift/features_cosine/{network}"] <= 1.0001
    assert metrics["trust_region/kl"] >= 0
    assert metrics["trust_region/ratio_min"] <= 1 <= metrics["trust_region/ratio_max"]


def test_the_first_minibatch_is_where_nothing_has_moved():
    metrics = SmallPpo(probe=1).iterate()
    assert metrics["first_minibatch/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["first_minibatch/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["last_minibatch/approx_kl"] > 1e-6


def test_the_probe_measures_each_seed_as_if_alone():
    together = SmallPpo(seeds=2, seed=4, probe=1).group
    alone = [SmallPpo(seed=seed, probe=1) for seed in (4, 5)]
    for found, run in zip(together.iterate(), alone, strict=True):
        assert str(timeless(found)) == str(timeless(run.iterate()))


# Proximal feature optimization


def pfo(network="actor", **options):
    """Return the interventions that hold a network, or both of them, with these options."""
    prefix = "" if network == "both" else f"{network}."
    listed = ",".join(f"{name}={value}" for name, value in options.items())
    return (f"{prefix}pfo:{listed}",)


@pytest.mark.parametrize("layers", ["last", "all"])
@LEARNERS
def test_pfo_holds_the_preactivations(learner, layers):
    drifts = {}
    for coef in (0.0, 10.0):
        held = pfo(coef=coef, scope=layers) if coef else ()
        run = MAKE[learner](probe=1, intervention=held)
        metrics = [run.iterate() for _ in range(3)]
        kind = "preactivations" if layers == "last" else "all_preactivations"
        drifts[coef] = np.mean([line[f"drift/{kind}_l2/actor"] for line in metrics])
        assert all((line["losses/pfo"] > 0) == (coef > 0) for line in metrics)
    assert drifts[10.0] < 0.5 * drifts[0.0]


def collect(group):
    """Fill a group's rollout."""
    group.collector.collect(group.stack.frozen("actor"), group.draw_noise(), Clock())


def moved(**changes):
    """Return a group of PPO, a minibatch of its rollout, and weights that have moved since."""
    group = SmallPpo(seeds=2, activation="relu", **changes).group
    collect(group)
    batch = group.make_batch()
    (minibatch,) = minibatches_of(batch, torch.arange(60).expand(2, 1, 60))
    assert (minibatch.rows.weights == 0).any()
    generator = torch.Generator().manual_seed(0)
    for block in group.stack.blocks.values():
        block.flat.detach().add_(0.1 * torch.randn(block.flat.shape, generator=generator))
    return group, minibatch


def remove_interventions(group):
    for networks in group.plasticity:
        for plasticity in networks.values():
            plasticity.hooks = Interventions()


def hidden(network, obs):
    """Return the pre-activations of all hidden layers, by running the module's layers by hand."""
    found = []
    for layer in network:
        obs = layer(obs)
        found += [obs] if isinstance(layer, nn.Linear) else []
    return found[:-1]


def gradients(group, minibatch):
    total, parts = group.loss(minibatch)
    names, leaves = zip(*group.stack.parameters.items(), strict=True)
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return parts, dict(zip(names, found, strict=True))


@pytest.mark.parametrize("network", ["actor", "critic", "both"])
@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_pfos_gradient_is_that_of_its_definition(network, layers, distance):
    held = pfo(network, coef=3.0, scope=layers, distance=distance)
    group, minibatch = moved(intervention=held)
    parts, found = gradients(group, minibatch)
    remove_interventions(group)
    _, plain = gradients(group, minibatch)
    names = ("actor", "critic") if network == "both" else (network,)
    for seed, agent in enumerate(group.stack.agents):
        rows, term = minibatch.rows.weights[seed] > 0, 0.0
        for name in names:
            new = hidden(getattr(agent, name), minibatch.obs[seed][rows])
            new = torch.cat(new if layers == "all" else new[-1:], -1)
            old = minibatch.old[name].preactivations[seed][rows]
            if distance == "l2":
                term = term + 3 * (new - old).square().mean()
            else:
                term = term - 3 * nn.functional.cosine_similarity(new, old).mean()
        assert parts[seed, PFO].item() == pytest.approx(term.item())
        parameters = dict(agent.named_parameters())
        wanted = torch.autograd.grad(term, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, wanted, strict=True):
            difference = found[name][seed] - plain[name][seed]
            gradient = torch.zeros_like(difference) if gradient is None else gradient
            torch.testing.assert_close(difference, gradient, atol=2e-5, rtol=1e-4)


def test_old_preactivations_are_those_of_the_policy_that_acted():
    group = SmallPpo(seeds=2, intervention=pfo("both", coef=1.0, scope="all")).group
    collect(group)
    batch = group.make_batch()
    for seed, agent in enumerate(group.stack.agents):
        for name in ("actor", "critic"):
            wanted = torch.cat(hidden(getattr(agent, name), batch.obs[seed]), -1)
            torch.testing.assert_close(batch.old[name].preactivations[seed], wanted)
            assert wanted.shape[1] == 24


def test_clip_mode_drops_rows_that_have_moved_too_far():
    group, minibatch = moved(intervention=pfo(coef=1.0, mode="clip"), ent_coef=0.0)
    columns, weights = minibatch.columns, minibatch.rows.weights
    new = hidden(group.stack.agents[0].actor, minibatch.obs[0])[-1]
    far = (new - minibatch.old["actor"].preactivations[0]).square().mean(-1) > 0.1
    assert far.any()
    assert not far[weights[0] > 0].all()
    parts, _ = gradients(group, minibatch)
    advantages = ppo.normalise(columns.advantages, weights, "unbiased")[0]
    outputs = group.stack.agents[0].actor(minibatch.obs[0])
    log_ratio = group.distribution.log_prob(outputs, columns.raw_actions[0])
    ratio = (log_ratio - columns.log_probs[0]).exp()
    gains = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    wanted = -(gains * weights[0])[~far].sum()
    assert parts[0, 0].item() == pytest.approx(wanted.item(), abs=1e-6)


@LEARNERS
def test_pfo_by_its_short_flag_and_by_name_add_up(learner):
    short, named = "--pfo-coef=1", "--intervention=actor.pfo:coef=2"
    held = training_config(learner, [short, named]).intervention
    both, alone = MAKE[learner](intervention=held), MAKE[learner](intervention=pfo(coef=3))
    found, wanted = both.iterate()["losses/pfo"], alone.iterate()["losses/pfo"]
    assert found == pytest.approx(wanted, rel=1e-3)
    assert wanted > 0


@LEARNERS
def test_pfo_of_the_last_layer_and_of_all_layers_do_not_fit_together(learner, capsys):
    env = "CartPole-v1" if learner == "ppo" else TOY
    flags = ["--env", env, "--pfo-coef", "1", "--intervention", "actor.pfo:scope=all"]
    assert main([learner, *flags]) == 2
    assert capsys.readouterr().err == (
        "baselines: --intervention: pre-activations are either of the last hidden layer or of all"
        " layers\n"
    )


@pytest.mark.parametrize(
    ("learner", "network"), [("ppo", "actor."), ("mappo", "actor."), ("qmix", ""), ("pqn", "")]
)
def test_pfo_coef_is_short_for_an_intervention(learner, network):
    for flags in (["--pfo-coef", "2.5"], ["--pfo-coef=2.5"]):
        assert training_config(learner, flags).intervention == (f"{network}pfo:coef=2.5",)
    flags = ["--intervention", "redo", "--pfo-coef", "2.5", "--probe", "3"]
    config = training_config(learner, flags)
    assert config.intervention == ("redo", f"{network}pfo:coef=2.5")
    assert config.probe == 3
    flags = ["--pfo_coef", "1", "--pfo-coef=2"]  # the last one counts
    assert training_config(learner, flags).intervention == (f"{network}pfo:coef=2",)
    for flags in (["--pfo-coef", "0"], ["--pfo-coef=0"], ["--pfo-coef", "0.0"], ["--pfo-coef=0.0"]):
        assert training_config(learner, flags) == training_config(learner, [])


@pytest.fixture(scope="module")
def held_run(tmp_path_factory):
    """Return the folder of a run of PPO with `--pfo-coef 2.5`."""
    folder = str(tmp_path_factory.mktemp("held"))
    flags = ["--env", "CartPole-v1", "--num-steps", "64", "--total-steps", "64"]
    config = training_config("ppo", [*flags, "--pfo-coef", "2.5", "--runs-dir", folder])
    ((path,), _) = loop.train("ppo", config)
    return path


@pytest.mark.parametrize("coef", ["2.5", "10"])
def test_a_resumed_run_refuses_pfo_coef_and_keeps_what_it_was_started_with(held_run, capsys, coef):
    resume = ["--resume", str(held_run)]
    assert training_config("ppo", resume).intervention == ("actor.pfo:coef=2.5",)
    assert main(["ppo", *resume, "--pfo-coef", coef]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said == (
        f"baselines: --pfo-coef {coef}: a resumed run keeps the interventions of its record\n"
    )


def test_a_resumed_run_refuses_to_turn_pfo_off(held_run, capsys):
    assert main(["ppo", "--resume", str(held_run), "--pfo-coef", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# Interventions


@EACH
def test_every_intervention_leaves_stacked_seeds_equal_to_lone_ones(name):
    text = (SOON.get(name, name),)
    together = SmallPpo(seeds=2, seed=4, intervention=text)
    alone = [SmallPpo(seed=seed, intervention=text) for seed in (4, 5)]
    plain = SmallPpo(seed=4)
    for _ in range(3):
        found = together.group.iterate()
        for seed, run in enumerate(alone):
            assert str(timeless(found[seed])) == str(timeless(run.iterate()))
        plain.iterate()
    for network in ("actor", "critic"):
        for seed, run in enumerate(alone):
            assert same(together.weights(network, seed), run.weights(network))
        weights = together.weights(network)
        assert all(value.isfinite().all() for value in weights.values())
        unlike = weights.keys() != plain.weights(network).keys()
        assert unlike or not same(weights, plain.weights(network))  # it did something


@EACH
def test_interventions_never_see_rows_that_only_reset(name):
    after = []
    for disturb in (False, True):
        learner = SmallPpo(seeds=2, intervention=(SOON.get(name, name),), probe=0)
        rollout, play = learner.group.rollout, learner.group.collector.collect

        def collect_and_disturb(*arguments, rollout=rollout, play=play, disturb=disturb):
            play(*arguments)
            reset = torch.from_numpy(~rollout.valid)
            assert reset[:, 1:-1].any()
            if disturb:
                rollout.obs[:, :-1][reset] = 100.0

        learner.group.collector.collect = collect_and_disturb
        metrics = [timeless(seed) for seed in learner.group.iterate()]
        after.append((metrics, [copied(learner.weights(n)) for n in ("actor", "critic")]))
    (metrics, weights), (others, changed) = after
    assert str(metrics) == str(others)
    assert all(map(same, weights, changed))


@pytest.mark.parametrize("name", ["head_reset", "shrink_perturb"])
def test_weights_are_drawn_anew_also_where_standard_deviations_follow_the_head(name):
    run, plain = (SmallPpo(env="Pendulum-v1", intervention=text) for text in ((SOON[name],), ()))
    for learner in (run, plain):
        assert np.isfinite(list(learner.iterate().values())).all()
    weights, others = run.weights("actor"), plain.weights("actor")
    assert not torch.equal(weights["4.weight"], others["4.weight"])
    kept = 0.8 if name == "shrink_perturb" else 1  # fresh ones are 0
    torch.testing.assert_close(weights["5.log_std"], kept * others["5.log_std"])


@pytest.mark.parametrize("network", ["gru", "mlp"])
@EACH
def test_every_intervention_runs_on_mappo(name, network):
    run, plain = (
        SmallMappo(network=network, intervention=text) for text in ((SOON.get(name, name),), ())
    )
    for _ in range(2):
        metrics = run.iterate()
        plain.iterate()
        assert np.isfinite(list(metrics.values())).all()
    for part in ("actor", "critic"):
        weights = run.weights(part)
        assert all(value.isfinite().all() for value in weights.values())
        unlike = weights.keys() != plain.weights(part).keys()
        assert unlike or not same(weights, plain.weights(part))


@LEARNERS
@pytest.mark.parametrize("target", ["actor.", "critic.", ""])
def test_a_named_network_alone_is_changed(learner, target):
    apart = {"clip_grad_apart": True} if learner == "ppo" else {}
    run = MAKE[learner](intervention=(f"{target}redo:every=1,threshold=0.9",), **apart)
    plain = MAKE[learner](**apart)
    run.iterate()  # it acts after the last gradient step
    plain.iterate()
    for network in ("actor", "critic"):
        untouched = same(run.weights(network), plain.weights(network))
        assert untouched == (target not in ("", f"{network}."))


@LEARNERS
def test_two_interventions_add_up(learner):
    run = MAKE[learner](intervention=("actor.l2:coef=0.5", "actor.l2_init:coef=0.25"))
    parts = [
        MAKE[learner](intervention=(text,)).iterate()["losses/interventions"]
        for text in ("actor.l2:coef=0.5", "actor.l2_init:coef=0.25")
    ]
    assert run.iterate()["losses/interventions"] > max(parts) > 0


@LEARNERS
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rado", ["unknown intervention 'rado', did you mean 'redo'?"]),
        ("actr.redo", ["unknown network 'actr'. Did you mean 'actor'? Allowed: actor, critic."]),
        ("actor.redo:treshold=0.1", ["unknown option 'treshold', did you mean 'threshold'?"]),
        ("redo:threshold=-1", ["threshold is '-1'", "from 0"]),
        ("layer_norm:x=1", ["takes no options"]),
    ],
)
def test_bad_interventions_get_one_line_and_status_two(
    capsys, monkeypatch, tmp_path, learner, text, words
):
    monkeypatch.chdir(tmp_path)
    env = "CartPole-v1" if learner == "ppo" else TOY
    assert main([learner, "--env", env, "--intervention", text]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"baselines: --intervention {text}: ")
    for word in words:
        assert word in said
    assert not list(tmp_path.iterdir())


@LEARNERS
def test_negative_weights_and_periods_are_refused(capsys, learner):
    assert main([learner, "--probe", "-1"]) == 2
    assert "--probe -1: it must be at least 0" in capsys.readouterr().err
    assert main([learner, "--pfo-coef", "-0.5"]) == 2
    assert "--pfo-coef -0.5: it must be at least 0" in capsys.readouterr().err
    assert main([learner, "--pfo-coef", "many"]) == 2
    assert "--pfo-coef many: it must be a number of at least 0" in capsys.readouterr().err
