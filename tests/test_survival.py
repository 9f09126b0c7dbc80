"""How deep networks may be, against what is known of them, and recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from initstats import inits, networks, theory
from initstats.activations import get
from initstats.recipes import RECIPES, recipe
from initstats.survey.verification import inputs
from initstats.survival import followed, largest_depth, predict_survival
from initstats.sweep import Grid, run_sweep

RATE = math.pi / (math.pi - 1)
"""The factor of squared gradients a layer where relu loses its mean."""


@pytest.mark.parametrize("name", ["norm=layer,place=after", "norm=batch", "standardized=true"])
def test_whatever_takes_the_mean_away_makes_gradients_explode(name: str) -> None:
    rate = theory.batch_norm_rate(get("relu"), 32) if "batch" in name else RATE
    steps = math.floor(2 * math.log(10) / math.log(rate))
    assert largest_depth(f"mlp({name})", "matched(gain=variance)") in (steps, steps + 1)
    found = predict_survival(f"mlp({name})", "matched(gain=variance)", depths=[61])
    assert found["verdict"].item() == "gradient explodes"
    if "batch" not in name:  # whose first layer is no batch in general position
        assert found["gradient"].item() == pytest.approx(rate**30, rel=0.02)


def test_a_norm_before_the_activation_keeps_gradients() -> None:
    found = predict_survival("mlp(norm=layer)", "matched", "relu", [11, 31])
    assert found["gradient"].tolist() == pytest.approx([1, 1], rel=1e-4)


def test_a_pre_norm_stream_grows_as_its_closed_form() -> None:
    found = predict_survival("resmlp(norm=layer)", "lecun_normal", "tanh", [101])
    exponent = theory.gradient_rate(get("tanh"), "rms", "after", 1.0)
    added = float(theory.response(get("tanh"), 1.0).square)
    grown = theory.pre_norm_growth(exponent, 100, 1 / added)
    assert found["gradient"].item() ** 2 == pytest.approx(grown, rel=1e-4)
    assert found["verdict"].item() == "healthy"


def test_a_scale_of_the_branch_keeps_any_depth() -> None:
    assert largest_depth("resmlp(norm=layer)") == 100  # a stem, and 99 branches
    assert largest_depth("resmlp(norm=layer,scale=inverse_sqrt_depth)") == 1000


def test_idle_recipes_are_told_from_working_ones() -> None:
    found = predict_survival(
        ["resmlp(scale=zero)", "resmlp(scale=inverse_depth)", "resmlp(scale=inverse_sqrt_depth)"],
        "lecun_normal",
        depths=[101],
    )
    assert found["verdict"].tolist() == ["idle", "idle", "healthy"]
    assert found["share"].tolist() == pytest.approx([0, 0.005, 0.4975], rel=0.01, abs=1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_spelled_as_tables_have_them(name: str) -> None:
    found = recipe(name)
    assert networks.get(found.network).name == found.network
    assert inits.get(found.init).name == found.init
    assert get(found.activation).name == found.activation


def test_torchs_transformer_draws_what_the_recipe_says() -> None:
    found = recipe("torch_transformer")
    placed = networks.get(found.network).on((1, 28, 28), 32, 3)
    init = inits.get(found.init)
    laws = [layer.law(init, get("relu")) for layer in placed.layers[1:]]
    variances = [1 / 2] * 3 + [1 / 3] * 3
    assert [law and law.sigma_w2 for law in laws] == pytest.approx(variances)
    biases = [0, 0, 0, 0, 1 / 96, 1 / 384]
    assert [law and law.sigma_b2 for law in laws] == pytest.approx(biases)


def test_what_theory_does_not_follow_is_unknown() -> None:
    found = predict_survival("transformer(norm=batch)", "normal(std=0.02)", depths=[5])
    assert found["verdict"].item() == "unknown"
    assert "tokens of one sequence, and batch norm" in found["note"].item()
    with pytest.raises(ValueError, match="tokens of one sequence, and batch norm"):
        largest_depth("transformer(norm=batch)")
    many = "transformer(causal=true,patch=1)"
    (row,) = predict_survival(many, depths=[5]).to_dict("records")
    assert (row["verdict"], "at most 256 tokens" in row["note"]) == ("unknown", True)
    with pytest.raises(ValueError, match="did you mean 'gpt2'"):
        recipe("gpt-2")
    with pytest.raises(ValueError, match="unknown network"):
        predict_survival("mpl")


@pytest.mark.parametrize(
    "name", ["cnn", "cnn(norm=batch)", "rescnn", "rescnn(norm=layer)", "resnet"]
)
def test_convolutions_are_unknown_without_data(name: str) -> None:
    (row,) = predict_survival(name, depths=[10]).to_dict("records")
    assert row["verdict"] == "unknown"
    assert "needs data" in row["note"]


@pytest.mark.filterwarnings("error")
def test_a_batch_of_equal_samples_is_unknown() -> None:
    for name in ("mlp(norm=batch)", "resmlp(norm=batch)"):
        (row,) = predict_survival(name, "zeros", depths=[20]).to_dict("records")
        assert (row["verdict"], "no spread" in row["note"]) == ("unknown", True)
    (row,) = predict_survival("mlp(norm=layer)", "zeros", depths=[20]).to_dict("records")
    assert row["verdict"] == "vanishes"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"correlation_of_inputs": 2}, "correlation_of_inputs: 2 is not a number from -1 to 1"),
        ({"correlation_of_inputs": math.nan}, "nan is not a number from -1 to 1"),
        ({"correlation_of_inputs": True}, "True is not a number"),
        ({"depths": []}, "depths: the list is empty"),
        ({"depths": [10.5]}, r"depths: 10\.5 is not a whole number"),
        ({"depths": [True]}, "depths: True is not a whole number"),
        ({"depths": [0]}, "depths: 0 is not between 1 and"),
        ({"depths": "10"}, "depths: a list is expected, not '10'"),
        ({"width": 0}, "width: 0 is not between 1 and"),
        ({"width": math.nan}, "width: nan is not a whole number"),
        ({"width": [8, 9]}, r"width: \[8, 9\] is not a whole number"),
        ({"shape": (1, 28, 0)}, "shape: 0 is not between"),
        ({"width": [64]}, r"width: \[64\] is not a whole number"),
        ({"width": "64"}, "width: '64' is not a whole number"),
        ({"shape": b"x"}, "shape: a list is expected, not b'x'"),
        ({"limits": 3}, "limits: 3 is given: name Limits"),
        ({"networks": []}, "the list is empty"),
    ],
)
def test_arguments_that_cannot_be_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        predict_survival(**({"depths": [3]} | given))
    own = {name: given[name] for name in given if name not in ("depths", "networks")}
    if own:
        with pytest.raises((ValueError, TypeError), match=words):
            largest_depth("mlp", **own)


def test_a_depth_is_a_list_of_one() -> None:
    assert predict_survival(depths=10)["depth"].tolist() == [10]


def test_the_largest_depth_is_that_of_one_network() -> None:
    with pytest.raises(TypeError, match="network: largest_depth takes one, not a list"):
        largest_depth(["mlp", "resmlp"])


def test_a_recipe_is_no_network() -> None:
    calls: list[Callable[[], object]] = [
        lambda: largest_depth(recipe("rezero")),
        lambda: predict_survival(["mlp", recipe("rezero")]),
        lambda: Grid(networks=["rezero"]),
        lambda: Grid(networks=recipe("rezero")),
        lambda: Grid(network="rezero"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"rezero is a recipe.*init 'xavier_uniform'"):
            call()
    for name in (None, 3, ["gpt2"]):
        with pytest.raises(ValueError, match="a recipe is named by a word"):
            recipe(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("resmlp(scale=fixup,norm=layer)", "takes the place of norms"),
        ("resmlp(scale=fixup,norm=layer,place=post)", "takes the place of norms"),
        ("resmlp(scale=fixup,norm=predicted)", "takes the place of norms"),
        ("transformer(scale=fixup)", "takes the place of norms"),
        ("rescnn(scale=fixup,norm=batch)", "takes the place of norms"),
        ("resmlp(scale=fixup,branch=1)", "needs two products"),
    ],
)
def test_fixup_is_for_branches_of_two_products_without_norms(network: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        networks.get(network)


def test_a_recipe_of_a_causal_transformer_has_a_verdict() -> None:
    gpt2 = recipe("gpt2")
    (row,) = predict_survival(gpt2.network, gpt2.init, gpt2.activation, [25]).to_dict("records")
    assert (row["verdict"], row["note"]) == ("idle", "")


def test_one_causal_token_attends_to_itself() -> None:
    causal, free = (
        followed(networks.get(name), inits.get("lecun_normal"), get("relu"), 7)
        for name in ("transformer(patch=28,causal=true)", "transformer(patch=28)")
    )
    for one, other in zip(causal.slopes, free.slopes, strict=True):
        assert one.square == pytest.approx(other.square)


CAUSAL = {
    "causal=true,hidden=1": 0.5,
    "causal=true,hidden=1,heads=1,place=post": 1.1,
    "causal=true,hidden=1,norm=none,scale=inverse_sqrt_depth": 0.5,
    "causal=true,hidden=1,logits=inverse,norm=rms": 0.5,
    "causal=true,hidden=1,positions=normal,scale=0.5": 0.5,
}
"""Parameters of transformers, and the excess of their gradients at finite width."""


@pytest.mark.parametrize("parameters", CAUSAL)
def test_causal_transformers_are_as_drawn(parameters: str) -> None:
    """Tokens that begin all alike, exactly: stream, distinctness and gradients, layer by layer."""
    name, width, depth = f"transformer({parameters})", 64, 7
    grid = Grid(
        networks=[name],
        inits=["lecun_normal"],
        activations=["tanh"],
        widths=[width],
        depth=depth,
        seeds=60,
        backward=True,
    )
    table = run_sweep(grid, inputs.patches(2))
    stream = table[table["tensor"] == "stream"].set_index(["direction", "layer"]).sort_index()
    ends = followed(networks.get(name), inits.get("lecun_normal"), get("tanh"), depth, width)
    assert not ends.why
    assert ends.last

    def compare(told: float, place: tuple[str, int], statistic: str, most: float) -> None:
        drawn = np.asarray(stream[statistic][[place]], dtype=np.float64)
        error = drawn.std(ddof=1) / math.sqrt(len(drawn))
        assert abs(drawn.mean() - told) < 4 * error + most * abs(told)

    last, kappa = ends.stack(), CAUSAL[parameters]
    compare(ends.rows.mean(ends.last.square), ("forward", depth), "second_moment", 3 / width)
    compare(last["correlation"], ("forward", depth), "pair_correlation", 3 / width)
    for layer, slope in enumerate(reversed(ends.slopes), 1):
        most = (1.5 * kappa * (depth - layer) + 1) / width
        compare(ends.rows.mean(slope.square), ("backward", layer), "second_moment", most)
