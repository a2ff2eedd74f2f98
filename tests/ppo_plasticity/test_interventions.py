"""All interventions: reading them from text, attaching and combining them."""

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ppo_plasticity.interventions import (
    INTERVENTIONS,
    Interventions,
    LossInputs,
    ModuleHandle,
    describe,
    options_of,
    parse,
)

EARLY = [
    "continual_backprop:rate=0.1,maturity=3",
    "head_reset:every=3",
    "injection:at=1",
    "kl_penalty:target=0.1",
    "redo:every=3,threshold=0.9",
    "shrink_perturb:every=3",
    "shrink_perturb:every=3,per=step",
]  # intervals short enough to act in a short training


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def squares(old, new):
    return (old - new).square().mean(-1)


def inputs_of(module, obs):
    outputs, hidden = module(obs), module[:-2](obs)
    return LossInputs(
        outputs,
        outputs.detach() + 1,
        hidden,
        hidden.detach() + 1,
        squares,
        outputs,
        outputs.detach(),
    )


def train(interventions, module, restored=None):
    """Train for four batches as a learner would; return the module.

    Halfway, `restored` takes over with the state of `interventions`.
    """
    module = interventions.layers(module)
    options = interventions.optimizer_options({"lr": 0.01})
    optimizer = torch.optim.Adam(module.parameters(), **options)
    handle = ModuleHandle(module, optimizer)
    interventions.start(handle)
    obs = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    for batch in range(4):
        if batch == 2 and restored is not None:
            vars(restored).update(pickle.loads(pickle.dumps(vars(interventions))))
            interventions = restored
        for _ in range(2):
            inputs = inputs_of(module, obs)
            loss = (inputs.outputs - 1).square().mean() + interventions.loss(handle, inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            interventions.after_step(handle, obs)
        interventions.after_batch(handle, obs)
    return module


def weights_of(module):
    return torch.cat([parameter.flatten() for parameter in module.parameters()])


# --- Text ----------------------------------------------------------------------------------------


def test_text_names_an_intervention_and_its_options():
    redo = parse("redo:every=7, threshold=0.25")
    assert (type(redo), redo.every, redo.threshold) == (INTERVENTIONS["redo"], 7, 0.25)


def test_text_without_options_means_defaults_and_hyphens_are_underscores():
    assert parse("l2-init") == INTERVENTIONS["l2_init"]()


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_the_description_of_defaults_reads_back(name):
    kind = INTERVENTIONS[name]
    assert parse(f"{name}:{describe(kind)}") == kind()


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_every_option_has_a_meaning(name):
    assert all(field.metadata["meaning"] for field in options_of(INTERVENTIONS[name]).values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reddo", r"unknown intervention 'reddo', did you mean 'redo'\? \(allowed: adam_betas, .*"),
        ("", "unknown intervention ''"),
        ("redo:evry=3", r"redo: unknown option 'evry', did you mean 'every'\? .*every=100, thresh"),
        ("redo:every", r"redo: 'every' needs a value"),
        ("redo:every=1.5", r"redo: every is '1.5' \(allowed: a whole number from 1; default 100\)"),
        ("redo:every=0", "redo: every is '0'"),
        ("redo:threshold=high", r"'high' \(allowed: a number from 0; default 0.1\)"),
        ("l2:coef=nan", "coef is 'nan'"),
        ("l2:coef=inf", "coef is 'inf'"),
        ("redo:every=1,every=2", "'every' is given twice"),
        ("adam_betas:beta1=1", "from 0 to 1"),
        ("pfo:scope=al", r"scope is 'al', did you mean 'all'\? \(allowed: last, all\)"),
        ("reset_adam:every=1", "takes no options, got 'every=1'"),
    ],
)
def test_wrong_text_gives_an_error_of_one_line_with_the_allowed_values(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


# --- Attaching and combining ---------------------------------------------------------------------


@pytest.mark.parametrize("text", [*INTERVENTIONS, *EARLY])
def test_every_intervention_trains_a_network_to_finite_weights(text):
    assert weights_of(train(parse(text), network())).isfinite().all()


@pytest.mark.parametrize("text", EARLY)
def test_hooks_that_act_change_the_trained_weights(text):
    plain = train(parse(text.partition(":")[0]), network())
    assert not torch.equal(weights_of(plain), weights_of(train(parse(text), network())))


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_methods_that_changes_does_not_name_do_nothing(name):
    intervention = parse(name)
    module = network()
    if "layers" not in intervention.changes:
        assert intervention.layers(module) is module
    if "optimizer" not in intervention.changes:
        assert intervention.optimizer_options({"lr": 1}) == {"lr": 1}
    module = intervention.layers(module)
    handle = ModuleHandle(module, torch.optim.Adam(module.parameters()))
    intervention.start(handle)
    obs, before = torch.randn(4, 3), weights_of(module)
    if "loss" not in intervention.changes:
        assert intervention.loss(handle, inputs_of(module, obs)) == 0
    for hook in {"after_step", "after_batch"} - intervention.changes:
        getattr(intervention, hook)(handle, obs)
    assert torch.equal(weights_of(module), before)


def test_no_interventions_change_nothing():
    plain, empty = train(parse("l2:coef=0"), network()), train(Interventions([]), network())
    assert torch.equal(weights_of(plain), weights_of(empty))
    assert Interventions().changes == frozenset()


def test_the_losses_of_several_interventions_add_up():
    module, obs = network(), torch.randn(4, 3)
    handle = ModuleHandle(module, torch.optim.Adam(module.parameters()))
    several = [parse("l2:coef=0.5"), parse("kl_penalty"), parse("reset_adam")]
    both = Interventions(several)
    both.start(handle)
    inputs = inputs_of(module, obs)
    expected = 0.5 * weights_of(module).square().sum() + 1.0  # outputs differ by one
    assert torch.allclose(both.loss(handle, inputs), expected)
    assert both.changes == {"loss", "after_batch"}


def test_all_interventions_at_once_train_to_finite_weights():
    texts = {name: name for name in INTERVENTIONS} | {
        text.partition(":")[0]: text for text in EARLY
    }
    module = train(Interventions([parse(text) for text in texts.values()]), network())
    assert weights_of(module).isfinite().all()


def test_two_scopes_of_pre_activations_are_refused():
    assert Interventions([parse("l2"), parse("pfo:scope=all")]).scope == "all"
    with pytest.raises(ValueError, match="either"):
        Interventions([parse("pfo"), parse("pfo:scope=all")])


@pytest.mark.parametrize("text", [*INTERVENTIONS, *EARLY])
def test_training_resumed_from_saved_variables_equals_uninterrupted_training(text):
    straight = train(parse(text), network())
    resumed = train(parse(text), network(), parse(text.partition(":")[0]))
    assert torch.equal(weights_of(straight), weights_of(resumed))


def handle_after_a_step(**options):
    module = network()
    optimizer = torch.optim.Adam(module.parameters(), **options)
    module(torch.randn(4, 3)).sum().backward()
    handle = ModuleHandle(module, optimizer)
    assert handle.moments("0.weight") == []
    optimizer.step()
    return handle


def test_moments_of_a_handle_are_views():
    handle = handle_after_a_step()
    first, second = handle.moments("0.weight")
    assert first.shape == second.shape == (8, 3)
    first.fill_(7)
    assert (handle.moments("0.weight")[0] == 7).all()


def test_a_reset_optimizer_steps_like_a_new_one():
    handle = handle_after_a_step(lr=0.1)
    twin = copy.deepcopy(handle.module)
    handle.reset_optimizer()
    new = torch.optim.Adam(twin.parameters(), lr=0.1)
    for module, optimizer in ((handle.module, handle.optimizer), (twin, new)):
        optimizer.zero_grad()
        module(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    assert torch.equal(weights_of(handle.module), weights_of(twin))


def test_a_reset_step_count_keeps_the_moments():
    handle = handle_after_a_step()
    before = [moment.clone() for moment in handle.moments("2.weight")]
    handle.reset_step_count()
    assert all(map(torch.equal, before, handle.moments("2.weight")))
    assert {float(state["step"]) for state in handle.optimizer.state.values()} == {0.0}


def test_a_handle_does_not_change_other_networks_of_its_optimizer():
    module, other = network(), network()
    optimizer = torch.optim.Adam([*module.parameters(), *other.parameters()])
    (module(torch.ones(4, 3)) + other(torch.ones(4, 3))).sum().backward()
    optimizer.step()
    ModuleHandle(module, optimizer).reset_optimizer()
    assert ModuleHandle(module, optimizer).moments("4.bias")[0].count_nonzero() == 0
    assert ModuleHandle(other, optimizer).moments("4.bias")[0].count_nonzero() > 0


# --- The page that documents them ----------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "interventions.md").read_text()


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_the_documented_options_and_defaults_are_current(name):
    listed = describe(INTERVENTIONS[name])
    assert f"| `{name}{':' if listed else ''}{listed}` |" in PAGE


@pytest.mark.parametrize(
    "code", re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
)
def test_the_documented_examples_run(code):
    exec(compile(code, "interventions.md", "exec"), {"__name__": "example"})
    INTERVENTIONS.pop("weight_noise", None)  # added by an example
