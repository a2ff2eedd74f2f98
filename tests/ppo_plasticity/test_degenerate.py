"""Every metric has the value that docs/metrics.md gives for degenerate input, and never raises."""

import functools
import inspect
import math
import re
import warnings
from pathlib import Path

import pytest
import torch

from ppo_plasticity import drift, gradients, norms, pfo, ranks, trust_region, units
from ppo_plasticity.probe import feature_metrics

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
INPUTS = {
    "zero": torch.zeros(4, 3),
    "constant": torch.ones(4, 3),
    "NaN": torch.tensor([[1, 1, 1], [1, math.nan, 1], [1, 1, 1], [1, 1, 1]]),
    "one row": torch.tensor([[3.0, 4.0, 0.0]]),
    "wide": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "no rows": torch.zeros(0, 3),
}
RATIOS = {
    "all 1": torch.ones(4),
    "all 1.5": torch.full((4,), 1.5),
    "NaN": torch.tensor([1.0, math.nan]),
    "one row": torch.tensor([0.5]),
    "no rows": torch.zeros(0),
}
MODULES = (ranks, units, norms, drift, gradients)


def table(first_column):
    """Return the page's table with this first column as {(metric, column): value}."""
    found = re.search(
        rf"^\| metric \| {first_column} .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE
    )
    columns = [cell.strip() for cell in found[0].partition("\n")[0].split("|")[2:-1]]
    values = {}
    for line in found[1].splitlines():
        metric, *cells = (cell.strip().replace("`", "") for cell in line.split("|")[1:-1])
        values |= {
            (metric, column): float(cell) for column, cell in zip(columns, cells, strict=True)
        }
    return values


def measure(metric, features):
    name, _, option = metric.partition(", ")
    against = torch.ones_like(features)
    special = {
        "value_mean": lambda: norms.value_statistics(features[:, 1])[name],
        "value_std": lambda: norms.value_statistics(features[:, 1])[name],
        "global_norm": lambda: norms.global_norm([features]),
        "drift": lambda: drift.drift(against, features)[option],
        "pfo_loss": lambda: pfo.pfo_loss(features, against, distance=option),
    }
    if name in special:
        return special[name]()
    function = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    if option == "centred":
        return function(features, centred=True)
    return function(features, option) if option else function(features)


def measure_ratios(metric, ratios):
    if metric == "clipped_fraction":
        return trust_region.clipped_fraction(ratios.log(), torch.ones_like(ratios), 0.2)
    return trust_region.ratio_statistics(ratios.log(), 0.2)[metric]


def approximately(value):
    return pytest.approx(value, rel=1e-3, nan_ok=True)  # the page shows four digits


@pytest.mark.parametrize(("metric", "column"), table("zero"))
def test_a_metric_of_features_is_as_documented(metric, column):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure(metric, INPUTS[column]).item() == approximately(
            table("zero")[metric, column]
        )


@pytest.mark.parametrize(("metric", "column"), table("all 1"))
def test_a_statistic_of_ratios_is_as_documented(metric, column):
    found = measure_ratios(metric, RATIOS[column])
    assert found.item() == approximately(table("all 1")[metric, column])


def test_a_mask_without_valid_rows_is_the_same_as_no_rows():
    none = torch.zeros(4, dtype=torch.bool)
    found = trust_region.ratio_statistics(torch.randn(4), 0.2, valid=none)
    for metric, value in found.items():
        assert value.item() == approximately(table("all 1")[metric, "no rows"]), metric


def test_the_tables_contain_every_statistic_and_every_feature_metric():
    documented = {metric.partition(", ")[0] for metric, _ in table("zero")}
    measured = feature_metrics(torch.ones(4, 3), torch.ones(4, 3), "relu")
    renamed = {name.removeprefix("preactivation_") for name in measured} - {"norm"}
    assert renamed <= documented
    ratio_table = {metric for metric, _ in table("all 1")}
    assert ratio_table == {*trust_region.ratio_statistics(torch.zeros(2), 0.2), "clipped_fraction"}


def test_the_page_names_every_public_function():
    for module in (*MODULES, pfo, trust_region):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                helper = name in ("std", "unit_rows", "activation_name", "check_activation")
                assert helper or f"`{name}" in PAGE, name


EQUAL = (torch.ones(4, 3), torch.ones(4, 3))
WITH_NAN = (torch.ones(4, 3), INPUTS["NaN"])
NO_ROWS = (torch.zeros(0, 3), torch.zeros(0, 3))


def gaussian_churn(old, new):
    return drift.gaussian_churn(old, torch.ones_like(old), new, torch.ones_like(new))


def value_churn(old, new):
    return {"value": drift.value_churn(old[:, 1], new[:, 1])}


@pytest.mark.parametrize("churn", [drift.categorical_churn, gaussian_churn, value_churn])
def test_churn_is_zero_for_equal_outputs_and_nan_for_nan_or_no_rows(churn):
    assert set(map(float, churn(*EQUAL).values())) == {0.0}
    for pair in (WITH_NAN, NO_ROWS):
        assert all(map(math.isnan, churn(*pair).values()))


def test_the_distance_of_weights_is_zero_for_equal_ones_and_nan_for_nan():
    distance = functools.partial(drift.weight_distance, {"weight": EQUAL[0]})
    assert distance({"weight": EQUAL[1]})["total"] == 0
    assert distance({"weight": WITH_NAN[1]})["total"].isnan()


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinite_features_have_no_rank(bad):
    features = torch.ones(4, 3)
    features[0, 0] = bad
    assert all(rank.isnan() for rank in ranks.ranks(features).values())
    assert all(rank.isnan() for rank in ranks.ranks(features.double(), centred=True).values())


def test_a_matrix_with_nan_does_not_change_the_others_of_its_batch():
    features = torch.stack([torch.eye(3), torch.full((3, 3), math.nan), torch.zeros(3, 3)])
    found = ranks.ranks(features)["effective_rank"]
    torch.testing.assert_close(found, torch.tensor([3, math.nan, 0]), equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_features_have_no_centred_rank(dtype):
    features = torch.full((1000, 7), 0.1, dtype=dtype)
    assert ranks.effective_rank(features, centred=True) == 0
