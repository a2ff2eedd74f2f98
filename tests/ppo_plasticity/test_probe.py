"""Probes on networks in users' layouts: the recorded layers and the metrics."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from ppo_plasticity.probe import Probe, capture_preactivations, feature_metrics
from ppo_plasticity.ranks import ranks

METRICS = {
    *(f"{prefix}{name}" for prefix in ("", "preactivation_") for name in ranks(torch.ones(1, 1))),
    *("feature_norm", "preactivation_norm", "feature_mean", "feature_std"),
    *("dormant_fraction", "dead_units", "all_preactivations_norm", "weight_norm"),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def mlp(activation=nn.Tanh, *, inplace=False):
    options = {"inplace": True} if inplace else {}
    return nn.Sequential(
        nn.Linear(3, 8),
        activation(**options),
        nn.Linear(8, 5),
        activation(**options),
        nn.Linear(5, 2),
    )


def recorded(module, *inputs, call=None, **options):
    with Probe(module, **options).recording() as record:
        (call or module)(*inputs)
    return record


class FunctionalNetwork(nn.Module):
    """CleanRL's older Atari agents: functions between the layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.hidden = nn.Linear(4 * 4 * 4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, images):
        flat = torch.relu(self.conv(images)).flatten(1)
        return self.head(torch.relu(self.hidden(flat)))


class CleanRLAgent(nn.Module):
    """CleanRL's continuous agent: two networks and a method that is not forward."""

    def __init__(self):
        super().__init__()
        self.critic = mlp()
        self.actor_mean = mlp()
        self.actor_logstd = nn.Parameter(torch.zeros(1, 2))

    def get_action_and_value(self, obs):
        return self.actor_mean(obs), self.critic(obs)


class RecurrentAgent(nn.Module):
    """A recurrent network that is called step by step."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.memory = nn.GRU(8, 6)
        self.head = nn.Linear(6, 2)

    def sequence(self, obs):
        hidden, outputs = None, []
        for row in obs:
            features, hidden = self.memory(self.encoder(row)[None], hidden)
            outputs.append(self.head(features[0]))
        return torch.stack(outputs)


def test_the_last_hidden_layer_is_measured_before_and_after_its_activation():
    module, obs = mlp(), torch.randn(16, 3)
    record = recorded(module, obs)
    before = module[2](module[1](module[0](obs)))
    torch.testing.assert_close(record.preactivations, before)
    torch.testing.assert_close(record.features, before.tanh())
    torch.testing.assert_close(
        record.all_preactivations, torch.cat([module[0](obs), before], dim=1)
    )
    assert [layer.name for layer in record.layers] == ["0", "2"]


def test_one_call_returns_every_metric_as_a_float():
    metrics = Probe(mlp()).measure(torch.randn(16, 3))
    assert metrics.keys() == METRICS
    assert {type(value) for value in metrics.values()} == {float}
    assert all(map(math.isfinite, metrics.values()))


def test_metrics_equal_those_of_the_metric_functions():
    module, obs = mlp(), torch.randn(16, 3)
    record, metrics = recorded(module, obs), Probe(module).measure(obs)
    expected = feature_metrics(record.preactivations, record.features, "tanh")
    assert {name: metrics[name] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}
    )
    assert metrics["all_preactivations_norm"] == pytest.approx(
        record.all_preactivations.norm(dim=1).mean().item()
    )
    squares = sum(each.square().sum() for each in module.parameters())
    assert metrics["weight_norm"] == pytest.approx(squares.sqrt().item())


def test_dead_units_are_counted_with_the_test_of_the_activation_that_ran():
    module = mlp(nn.ReLU)
    nn.init.constant_(module[2].bias[:2], -100.0)
    assert Probe(module).measure(torch.randn(16, 3))["dead_units"] >= 2
    module = mlp(nn.Tanh)
    nn.init.constant_(module[2].bias[:2], -100.0)
    assert Probe(module).measure(torch.randn(16, 3))["dead_units"] == 2


def test_between_measurements_the_module_does_not_run():
    calls = []
    module = mlp()
    module.register_forward_hook(lambda *_: calls.append(1))
    probe = Probe(module, every=3)
    measured = [bool(probe.measure(torch.randn(4, 3))) for _ in range(7)]
    assert measured == [True, False, False, True, False, False, True]
    assert len(calls) == 3


def test_a_resumed_probe_keeps_its_schedule():
    probe = Probe(mlp(), every=3)
    probe.calls = 2
    assert not probe.due
    assert probe.measure(torch.randn(4, 3)) == {}
    assert probe.due


def test_no_hook_remains_after_a_measurement_or_an_error():
    module = mlp()
    Probe(module).measure(torch.randn(4, 3))
    with pytest.raises(RuntimeError):
        Probe(module).measure(torch.randn(4, 7))
    assert not any(each._forward_hooks for each in module.modules())


def test_measuring_changes_neither_statistics_nor_modes_nor_gradients():
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    module[0].eval()
    before = {name: each.clone() for name, each in module.state_dict().items()}
    Probe(module).measure(torch.randn(16, 3))
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [each.training for each in module] == [False, True, True, True]
    assert all(each.grad is None for each in module.parameters())


def test_in_place_activations_do_not_change_what_was_captured():
    module, obs = mlp(nn.ReLU, inplace=True), torch.randn(16, 3)
    torch.testing.assert_close(
        recorded(module, obs).preactivations, module[2](module[1](module[0](obs)))
    )
    assert (recorded(module, obs).preactivations < 0).any()


def test_normalisation_may_come_before_the_activation():
    module = nn.Sequential(
        nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(0.0), nn.GELU(), nn.Linear(8, 2)
    )
    obs = torch.randn(16, 3)
    record = recorded(module, obs)
    torch.testing.assert_close(record.preactivations, module[0](obs))
    torch.testing.assert_close(record.features, module[:4](obs))
    assert record.layers[0].activation == "gelu"


def test_functions_between_layers_are_named():
    module, images = FunctionalNetwork(), torch.randn(7, 1, 6, 6)
    record = recorded(module, images, activation="relu")
    assert [layer.name for layer in record.layers] == ["conv", "hidden"]
    torch.testing.assert_close(record.features, record.preactivations.relu())
    assert record.all_preactivations.shape == (7, 4 * 4 * 4 + 6)
    assert Probe(module, activation="relu").measure(images).keys() == METRICS


def test_without_the_functions_name_the_error_says_what_to_pass():
    with pytest.raises(ValueError, match=r"layers that ran: 'conv', 'hidden', 'head'.*activation="):
        Probe(FunctionalNetwork()).measure(torch.randn(7, 1, 6, 6))


def test_a_custom_activation_names_itself():
    class Rectify(nn.Module):
        activation_name = "relu"

        def forward(self, values):
            return values.clamp_min(0)

    record = recorded(nn.Sequential(nn.Linear(3, 4), Rectify(), nn.Linear(4, 1)), torch.randn(5, 3))
    assert [(layer.name, layer.activation) for layer in record.layers] == [("0", "relu")]


@pytest.mark.parametrize(("parent", "name"), [(nn.ReLU, "relu"), (nn.Mish, None)])
def test_a_subclass_of_an_activation_of_torch_is_one(parent, name):
    class Named(parent):
        """A custom subclass."""

    record = recorded(nn.Sequential(nn.Linear(3, 4), Named(), nn.Linear(4, 1)), torch.randn(5, 3))
    assert [(layer.name, layer.activation) for layer in record.layers] == [("0", name)]


def test_a_softmax_after_the_head_does_not_make_it_a_hidden_layer():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.Softmax(dim=1))
    assert [layer.name for layer in recorded(module, torch.randn(5, 3)).layers] == ["0"]


def test_an_activation_without_a_test_leaves_dead_units_out():
    module = nn.Sequential(nn.Linear(3, 4), nn.Mish(), nn.Linear(4, 2))
    assert Probe(module).measure(torch.randn(5, 3)).keys() == METRICS - {"dead_units"}


def test_channels_of_a_convolution_are_units_and_positions_rows():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    nn.init.constant_(module[0].bias[:1], -100.0)
    metrics = Probe(module).measure(torch.randn(9, 1, 6, 6))
    assert metrics["dead_units"] == 1
    assert metrics["matrix_rank"] == 3
    assert recorded(module, torch.randn(9, 1, 6, 6)).features.shape == (9, 64)


def test_per_layer_metrics_carry_the_layers_name():
    module, obs = mlp(), torch.randn(16, 3)
    metrics = Probe(module, per_layer=True).measure(obs)
    layered = METRICS - {"all_preactivations_norm"}
    assert metrics.keys() == METRICS | {f"{name}/{layer}" for name in layered for layer in "02"}
    assert metrics["srank/2"] == metrics["srank"]
    alone = Probe(module, ["0"]).measure(obs)
    assert metrics["feature_norm/0"] == alone["feature_norm"]


def test_a_suffix_distinguishes_two_networks():
    metrics = Probe(mlp(), suffix="/critic").measure(torch.randn(4, 3))
    assert metrics.keys() == {f"{name}/critic" for name in METRICS}


def test_centred_ranks_are_an_option():
    module = mlp(nn.Sigmoid)
    obs = torch.randn(64, 3) / 100  # nearly constant features, far from zero
    assert Probe(module).measure(obs)["approximate_rank"] == 1
    assert Probe(module, centred=True).measure(obs)["approximate_rank"] > 1


def test_an_unknown_layer_is_refused_with_the_existing_ones():
    with pytest.raises(
        ValueError,
        match=r"no layer 'actor_men.2': there are .*'actor_mean.2'.*mean 'actor_mean.2'\?",
    ):
        Probe(CleanRLAgent(), ["actor_men.2"])


@pytest.mark.parametrize(
    ("module", "layers", "message"),
    [
        (mlp(), "2", r"^layers is '2', must be a list of names: \['2'\]$"),
        (mlp(), [], "^layers is empty: name some, or give None for all hidden ones$"),
        (nn.ReLU(), ["fc1"], "^no layer 'fc1': ReLU has no submodules$"),
        (nn.Sequential(nn.GRU(3, 4)), ["1"], r"^no layer '1': there are '0'; did you mean '0'\?$"),
        (nn.Linear(3, 4), ["fc1"], r"^no layer 'fc1': there are ''; did you mean ''\?$"),
    ],
)
def test_impossible_layers_give_an_error_of_one_line(module, layers, message):
    with pytest.raises(ValueError, match=message):
        Probe(module, layers)


def test_for_a_module_without_weighted_layers_the_error_asks_for_names():
    with pytest.raises(ValueError, match="Sequential has no Linear or convolution: name the lay"):
        Probe(nn.Sequential(nn.Flatten(), nn.ReLU())).measure(torch.randn(5, 3))


def test_an_unknown_activation_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown activation 'rellu'.*did you mean 'relu'"):
        Probe(mlp(), activation="rellu")


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match="every must be at least 1, not 0"):
        Probe(mlp(), every=0)


def test_a_part_of_an_agent_is_measured_through_any_method_of_the_whole():
    agent, obs = CleanRLAgent(), torch.randn(16, 3)
    probe = Probe(agent.actor_mean)
    with probe.recording() as record:
        agent.get_action_and_value(obs)
    assert [layer.name for layer in record.layers] == ["0", "2"]
    assert record.metrics() == probe.measure(obs)


def test_named_layers_are_the_only_ones_recorded():
    agent, obs = CleanRLAgent(), torch.randn(16, 3)
    names = ["actor_mean.0", "actor_mean.2"]
    record = recorded(agent, obs, call=agent.get_action_and_value, layers=names)
    assert [layer.name for layer in record.layers] == names
    torch.testing.assert_close(record.features, agent.actor_mean[:4](obs))


def test_every_step_of_a_recurrent_network_adds_its_rows():
    agent, obs = RecurrentAgent(), torch.randn(5, 4, 3)
    record = recorded(agent, obs, call=agent.sequence)
    assert [layer.name for layer in record.layers] == ["encoder.0"]
    torch.testing.assert_close(record.features, agent.encoder(obs).flatten(0, 1))


def test_a_recurrent_layer_can_be_named():
    agent, obs = RecurrentAgent(), torch.randn(5, 4, 3)
    record = recorded(agent, obs, call=agent.sequence, layers=["encoder.0", "memory"])
    expected = agent.memory(agent.encoder(obs))[0].flatten(0, 1)
    torch.testing.assert_close(record.features, expected)
    assert record.layers[-1].activation is None
    assert record.all_preactivations.shape == (20, 8 + 6)


def test_layers_with_different_numbers_of_rows_have_no_joint_norm():
    agent, obs = CleanRLAgent(), torch.randn(16, 3)
    with Probe(agent).recording() as record:
        agent.actor_mean(obs)
        agent.critic(obs[:4])
    assert record.metrics().keys() == METRICS - {"all_preactivations_norm"}


def test_capturing_works_through_other_methods_and_for_whole_sequences():
    agent, obs = RecurrentAgent(), torch.randn(5, 4, 3)
    with capture_preactivations(agent, ["encoder.0"]) as captured:
        agent.sequence(obs)
    torch.testing.assert_close(captured.preactivations, agent.encoder[0](obs).flatten(0, 1))
    captured.preactivations.sum().backward()
    assert agent.encoder[0].weight.grad is not None


def test_functional_calls_with_other_weights_are_recorded():
    module, obs = mlp(), torch.randn(16, 3)
    weights = {name: 2 * each for name, each in module.named_parameters()}
    with capture_preactivations(module, ["0"]) as captured:
        torch.func.functional_call(module, weights, obs)
    torch.testing.assert_close(captured.preactivations, 2 * module[0](obs))


class ExtractorLikeSB3(nn.Module):
    """The layout of Stable-Baselines3's MlpExtractor."""

    def __init__(self):
        super().__init__()
        self.policy_net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh())
        self.value_net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh())

    def forward(self, features):
        return self.policy_net(features), self.value_net(features)


class PolicyLikeSB3(nn.Module):
    """The layout of Stable-Baselines3's ActorCriticPolicy."""

    def __init__(self):
        super().__init__()
        self.features_extractor = nn.Flatten()
        self.mlp_extractor = ExtractorLikeSB3()
        self.action_net = nn.Linear(5, 2)
        self.value_net = nn.Linear(5, 1)

    def forward(self, obs):
        policy, value = self.mlp_extractor(self.features_extractor(obs))
        return self.action_net(policy), self.value_net(value)


def test_a_policy_laid_out_as_in_stable_baselines3():
    policy, obs = PolicyLikeSB3(), torch.randn(16, 3)
    names = [f"mlp_extractor.policy_net.{number}" for number in (0, 2)]
    assert Probe(policy, names).measure(obs).keys() == METRICS
    with Probe(policy.mlp_extractor.value_net).recording() as record:
        policy(obs)
    torch.testing.assert_close(record.features, policy.mlp_extractor.value_net(obs))
    hidden = [layer.name for layer in recorded(policy, obs).layers]
    assert hidden == [*names, *(name.replace("policy", "value") for name in names)]


class MLPLikeTorchRL(nn.Sequential):
    """TorchRL's MLP is a Sequential that concatenates its inputs."""

    def forward(self, *inputs):
        return super().forward(torch.cat(inputs, dim=-1))


def test_a_network_laid_out_as_in_torchrl():
    module = MLPLikeTorchRL(*mlp())
    assert Probe(module).measure(torch.randn(16, 2), torch.randn(16, 1)).keys() == METRICS


def test_a_policy_of_stable_baselines3():
    stable_baselines3 = pytest.importorskip("stable_baselines3", reason="not installed")
    model = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", device="cpu")
    metrics = Probe(model.policy.mlp_extractor.policy_net).measure(torch.randn(16, 4))
    assert metrics.keys() == METRICS
    names = ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2"]
    assert Probe(model.policy, names).measure(torch.randn(16, 4)).keys() == METRICS


def test_an_actor_of_torchrl():
    pytest.importorskip("torchrl", reason="not installed")
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import MLP

    network = MLP(in_features=3, out_features=2, num_cells=[8, 5], activation_class=nn.Tanh)
    actor = TensorDictModule(network, in_keys=["observation"], out_keys=["logits"])
    data = TensorDict({"observation": torch.randn(16, 3)}, batch_size=[16])
    assert Probe(actor).measure(data).keys() == METRICS


PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_examples_of_the_page_run(code):
    for package in ("stable_baselines3", "torchrl"):
        if package in code:
            pytest.importorskip(package, reason="not installed")
    exec(compile(code, "docs/metrics.md", "exec"), {"__name__": "__main__"})
