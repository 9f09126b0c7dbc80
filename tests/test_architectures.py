"""Residual streams, norms and attention against torch's own modules and autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initstats as ist
from initstats import activations, inits, networks
from initstats.draws import generator_for
from initstats.networks import Conv, Serial
from initstats.networks.batch_norm import check_batches
from initstats.stack import Settings, run_stack

Place = tuple[int, str, str]
SHAPE = (1, 8, 8)
SETTINGS = Settings(depth=5, samples=41, backward=True, dtype="float64", histogram_every=1)
WIDTH, DEPTH, BATCH = 8, 5, 16


def measured(
    name: str, toy: ist.Dataset, phi: str = "tanh", **changes: Any
) -> tuple[dict[Place, float], dict[tuple[Place, str], float]]:
    """The engine's second moment at every place, and what blocks note."""
    placed = networks.get(name).on(SHAPE, WIDTH, DEPTH)
    (result,) = run_stack(
        placed,
        inits.get("torch_default"),
        [activations.get(phi)],
        [2],
        toy.valid,
        None,
        replace(SETTINGS, **changes),
    )
    column = list(ist.moments.STATISTICS).index("second_moment")
    places = placed.places(backward=True)
    noted = {
        (place, name): float(value)
        for place, row in zip(places, result.numbers, strict=True)
        for name, value in zip(placed.numbers, row, strict=True)
        if not math.isnan(value)
    }
    return dict(zip(places, result.statistics[:, column].tolist(), strict=True)), noted


class Torch:
    """The same network of torch's functions, samples first: (samples, tokens, units)."""

    def __init__(self, name: str, phi: str = "tanh") -> None:
        entry = networks.get(name)
        self.placed: Serial = entry.on(SHAPE, WIDTH, DEPTH)
        self.options: dict[str, Any] = {"norm": "none", "place": "pre", **entry.parameters}
        self.phi = activations.get(phi)
        drawn = self.placed.draw(inits.get("torch_default"), self.phi, partial(generator_for, 2))
        self.weights = iter(drawn.values())
        self.tensors: dict[tuple[int, str], Tensor] = {}
        self.shares: dict[int, float] = {}

    def keep(self, layer: int, tensor: str, x: Tensor) -> Tensor:
        x.requires_grad_()
        x.retain_grad()
        self.tensors[layer, tensor] = x
        return x

    def linear(self, x: Tensor) -> Tensor:
        matrix, bias = next(self.weights)
        return F.linear(x, matrix.double(), None if bias is None else bias[:, 0].double())

    def norm(self, x: Tensor, *, whole: bool = False) -> Tensor:
        kind, units = self.options["norm"], x.shape[1 if whole else -1]
        if whole and kind != "batch":
            groups = self.options["groups"] if kind == "group" else 1
            return F.group_norm(x, groups)
        if whole:
            return torch.cat(
                [F.batch_norm(part, None, None, training=True) for part in torch.split(x, BATCH)]
            )
        by_token = x.flatten(0, -2)
        modules: dict[str, nn.Module] = {
            "layer": nn.LayerNorm(units, dtype=x.dtype),
            "rms": nn.RMSNorm(units, eps=1e-5, dtype=x.dtype),
            "group": nn.GroupNorm(self.options.get("groups", 4), units, dtype=x.dtype),
            "batch": nn.BatchNorm1d(units, dtype=x.dtype),
        }
        step = self.options["batch"] * x.shape[1:-1].numel() if kind == "batch" else len(by_token)
        parts = [modules[kind](part) for part in torch.split(by_token, step)]
        return torch.cat(parts).view(x.shape)

    def residual(
        self, layer: int, x: Tensor, branch: Callable[[Tensor], Tensor], alpha: float, beta: float
    ) -> Tensor:
        normed, place = self.options["norm"] != "none", self.options["place"]
        into = self.keep(layer, "normed", self.norm(x)) if normed and place == "pre" else x
        added = self.keep(layer, "branch", branch(into))
        total = beta * x + alpha * added
        share = (alpha * added).square().sum() / total.square().sum()
        self.shares[layer] = float(share.detach())
        return self.keep(layer, "stream", self.norm(total) if normed and place == "post" else total)

    def moments(self, end: Tensor) -> dict[Place, float]:
        """Second moments of all tensors and gradients, from the engine's own last gradient."""
        drawn = torch.randn(48, self.placed.outputs.size, generator=generator_for(2, "cotangent"))
        last = drawn[: len(end)].double()
        if end.ndim == 4:
            last = last.view(end.shape)
        if end.ndim == 3:  # the engine has units first
            last = last.view(len(end), end.shape[2], end.shape[1]).mT
        torch.autograd.backward(end, last)
        found = {}
        for (layer, tensor), x in self.tensors.items():
            assert x.grad is not None
            found[layer, tensor, "forward"] = float(x.detach().square().mean())
            found[layer, tensor, "backward"] = float(x.grad.square().mean())
        return found


RESMLPS = [
    "resmlp",
    "resmlp(norm=layer)",
    "resmlp(norm=rms)",
    "resmlp(norm=group,groups=2)",
    f"resmlp(norm=batch,batch={BATCH})",
    "resmlp(norm=layer,place=post)",
    "resmlp(norm=layer,branch=1)",
    "resmlp(branch=1,scale=0.3)",
    "resmlp(norm=rms,hidden=3,scale=inverse_sqrt_depth,alpha=2)",
    "resmlp(norm=layer,place=post,scale=deepnorm)",
    "resmlp(scale=fixup)",
    "resmlp(standardized=true)",
]


@pytest.mark.parametrize("name", RESMLPS)
def test_residual_streams_agree_with_torch(name: str, toy: ist.Dataset) -> None:
    reference = Torch(name)
    options = reference.options
    stream = reference.placed.blocks[1]
    alpha, beta = stream.scale, stream.skip  # type: ignore[attr-defined]
    x = reference.keep(1, "stream", reference.linear(toy.valid.x.double()))
    for layer in range(2, DEPTH + 1):

        def branch(u: Tensor, layer: int = layer) -> Tensor:
            if options.get("branch", 2) == 2:
                u = reference.keep(layer, "preactivation", reference.linear(u))
            return reference.linear(reference.keep(layer, "activation", reference.phi(u)))

        x = reference.residual(layer, x, branch, alpha, beta)
    found, noted = measured(name, toy)
    assert found == pytest.approx(reference.moments(x), rel=1e-11)
    shares = {place[0]: value for (place, _), value in noted.items()}
    assert shares == pytest.approx(reference.shares, rel=1e-11)


RESCNNS = [
    "rescnn",
    "rescnn(order=v1)",
    "rescnn(norm=layer)",
    "rescnn(order=v1,norm=group,groups=2)",
    f"rescnn(norm=batch,scale=inverse_sqrt_depth,batch={BATCH})",
    "rescnn(order=v1,scale=fixup)",
]


@pytest.mark.parametrize("name", RESCNNS)
def test_residual_convolutions_agree_with_torch(name: str, toy: ist.Dataset) -> None:
    reference = Torch(name)
    order, stream = reference.options["order"], reference.placed.blocks[-1]
    stream = stream if order == "v2" else reference.placed.blocks[-2]
    alpha, stem = stream.scale, DEPTH - 2  # type: ignore[attr-defined]
    convs = iter(reference.placed.layers)

    def conv(x: Tensor) -> Tensor:
        block, (matrix, bias) = next(convs), next(reference.weights)
        assert isinstance(block, Conv)
        offset = None if bias is None else bias[:, 0].double()
        weight = matrix.view(block.weight).double()
        return F.conv2d(x, weight, offset, block.stride, block.padding)

    def between(layer: int, x: Tensor) -> Tensor:
        if reference.options["norm"] != "none":
            x = reference.keep(layer, "normed", reference.norm(x, whole=True))
        return reference.keep(layer, "activation", reference.phi(x))

    x = toy.valid.images.double()
    for layer in range(1, stem + 1):
        x = reference.keep(layer, "preactivation" if layer < stem else "stream", conv(x))
        if order == "v1" or layer < stem:
            x = reference.keep(layer, "activation", reference.phi(x))
    for layer in range(stem + 1, DEPTH, 2):
        if order == "v2":
            inner = reference.keep(layer, "preactivation", conv(between(layer, x)))
            branch = conv(between(layer + 1, inner))
            added = reference.keep(layer + 1, "branch", branch)
        else:
            inner = reference.keep(layer, "preactivation", conv(x))
            branch = reference.keep(layer + 1, "branch", conv(between(layer, inner)))
            added = branch
            if reference.options["norm"] != "none":
                normed = reference.norm(branch, whole=True)
                added = reference.keep(layer + 1, "normed", normed)
        x = reference.keep(layer + 1, "stream", x + alpha * added)
        if order == "v1":
            x = reference.keep(layer + 1, "activation", reference.phi(x))
    assert measured(name, toy)[0] == pytest.approx(reference.moments(x), rel=1e-10)


MLPS = [
    f"mlp(norm={norm},place={place})"
    for norm in ("layer", "rms", "group", f"batch,batch={BATCH}")
    for place in ("pre", "after")
]


@pytest.mark.parametrize("name", [*MLPS, "mlp(standardized=true)"])
def test_plain_stacks_with_norms_agree_with_torch(name: str, toy: ist.Dataset) -> None:
    reference = Torch(name)
    normed = reference.options["norm"] != "none"
    x = toy.valid.x.double()
    for layer in range(1, DEPTH + 1):
        x = reference.keep(layer, "preactivation", reference.linear(x))
        if normed and reference.options["place"] == "pre":
            x = reference.keep(layer, "normed", reference.norm(x))
        x = reference.keep(layer, "activation", reference.phi(x))
        if normed and reference.options["place"] == "after":
            x = reference.keep(layer, "normed", reference.norm(x))
    assert measured(name, toy)[0] == pytest.approx(reference.moments(x), rel=1e-10)


TRANSFORMERS = [
    "transformer(patch=4)",
    "transformer(patch=2,heads=2)",
    "transformer(patch=4,causal=true,heads=1)",
    "transformer(patch=2,norm=rms,place=post,scale=deepnorm)",
    "transformer(patch=4,norm=none,scale=inverse_sqrt_depth,logits=inverse)",
    f"transformer(patch=4,norm=batch,batch={BATCH},positions=normal,hidden=2)",
]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_agree_with_torch(name: str, toy: ist.Dataset) -> None:
    reference = Torch(name)
    options, side = reference.options, reference.options["patch"]
    heads, units = options["heads"], WIDTH // options["heads"]
    stream = reference.placed.blocks[1]
    alpha, beta = stream.scale, stream.skip  # type: ignore[attr-defined]
    patches = F.unfold(toy.valid.images.double(), side, stride=side).mT
    x = reference.linear(patches)
    if options["positions"] == "normal":
        reference.keep(1, "preactivation", x)
        x = x + next(reference.weights).matrix.double().mT
    x = reference.keep(1, "stream", x)
    tokens = x.shape[1]
    allowed = torch.ones(tokens, tokens, dtype=torch.bool)
    allowed = allowed.tril() if options["causal"] else allowed
    evenness: dict[int, tuple[float, float]] = {}

    def attention(u: Tensor, layer: int) -> Tensor:
        query, key, value = (
            reference.linear(u).view(len(u), -1, heads, units).transpose(1, 2) for _ in range(3)
        )
        scale = 1 / units if options["logits"] == "inverse" else units**-0.5
        logits = reference.keep(layer, "logits", query @ key.mT * scale)
        hidden = logits.masked_fill(~allowed, -math.inf)
        weights = reference.keep(layer, "attention", hidden.softmax(-1))
        chosen = weights.detach()
        entropy = -(chosen * chosen.clamp_min(1e-300).log()).sum(-1)
        most = allowed.sum(-1).double().log()
        evenness[layer] = (
            float((entropy / most)[..., most > 0].mean()),
            float(chosen.square().sum(-1).mean()),
        )
        return reference.linear((weights @ value).transpose(1, 2).flatten(-2))

    def feedforward(u: Tensor, layer: int) -> Tensor:
        h = reference.keep(layer, "preactivation", reference.linear(u))
        return reference.linear(reference.keep(layer, "activation", reference.phi(h)))

    for layer in range(2, DEPTH + 1):
        branch = partial(feedforward if layer % 2 else attention, layer=layer)
        x = reference.residual(layer, x, branch, alpha, beta)
    found, noted = measured(name, toy)
    told = reference.moments(x)
    for layer, tensor in product(evenness if options["causal"] else (), ("logits", "attention")):
        kept = reference.tensors[layer, tensor]  # masked entries are not measured
        assert kept.grad is not None
        told[layer, tensor, "forward"] = float(kept.detach()[..., allowed].square().mean())
        told[layer, tensor, "backward"] = float(kept.grad[..., allowed].square().mean())
    assert found == pytest.approx(told, rel=1e-10)
    for layer, pair in evenness.items():
        place = (layer, "attention", "forward")
        got = noted[place, "attention_entropy"], noted[place, "concentration"]
        assert got == pytest.approx(pair, rel=1e-11)
    for layer in range(2, DEPTH + 1):
        stack = reference.tensors[layer, "stream"]
        assert stack.grad is not None
        for direction, x in (("forward", stack.detach()), ("backward", stack.grad)):
            names = "pair_correlation", "participation_ratio"
            shown = [noted[(layer, "stream", direction), name] for name in names]
            assert shown == pytest.approx([*resemblance(x)], rel=1e-10)


def resemblance(x: Tensor) -> tuple[float, float]:
    """Pair correlation and participation ratio of the tokens (samples, tokens, units)."""
    kernel, tokens = x @ x.mT, x.shape[1]
    own = kernel.diagonal(dim1=-2, dim2=-1).sum(-1)
    pairs = (kernel.sum((-2, -1)) - own).mean() / (tokens * (tokens - 1))
    ratio = own.square() / kernel.square().sum((-2, -1))
    return float(pairs / (own.mean() / tokens)), float(ratio.mean())


def test_a_pre_norm_block_is_torchs_own_encoder_layer(toy: ist.Dataset) -> None:
    reference = Torch("transformer(patch=4,heads=2,hidden=2)", "relu")
    drawn = [*reference.weights]
    layer = nn.TransformerEncoderLayer(
        WIDTH, 2, 2 * WIDTH, 0.0, batch_first=True, norm_first=True, dtype=torch.float64
    )

    def bias(weights: Any) -> Tensor:
        return torch.zeros(len(weights.matrix)) if weights.bias is None else weights.bias[:, 0]

    stem, *projections, out, first, second = drawn[:7]
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(torch.cat([each.matrix for each in projections]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([bias(each) for each in projections]))
        for linear, own in (
            (layer.self_attn.out_proj, out),
            (layer.linear1, first),
            (layer.linear2, second),
        ):
            linear.weight.copy_(own.matrix)
            linear.bias.copy_(bias(own))
        patches = F.unfold(toy.valid.images.double(), 4, stride=4).mT
        x = F.linear(patches, stem.matrix.double(), bias(stem).double())
        told = float(layer(x).square().mean())
    found, _ = measured("transformer(patch=4,heads=2,hidden=2)", toy, "relu")
    assert found[3, "stream", "forward"] == pytest.approx(told, rel=1e-12)


EVERY = [
    *RESMLPS,
    *RESCNNS[2:5],
    *MLPS[:4],
    *TRANSFORMERS,
    "resmlp(norm=layer,dropout=0.3)",
    "resmlp(drop_path=0.4)",
    "transformer(patch=4,drop_path=0.2,dropout=0.1)",
    "cnn(norm=layer)",
    "cnn(norm=group,dropout=0.2)",
    f"cnn(norm=batch,place=after,batch={BATCH})",
]


@pytest.mark.parametrize("name", EVERY)
def test_seeds_and_tiles_leave_no_trace(name: str, toy: ist.Dataset) -> None:
    whole = measured(name, toy)
    for parts in (measured(name, toy, tile=100), measured(name, toy, batch=3)):
        assert parts[0] == pytest.approx(whole[0], rel=1e-11)
        assert parts[1] == pytest.approx(whole[1], rel=1e-11)


@pytest.mark.parametrize("name", ["transformer(patch=4)", "mlp(norm=layer)", "cnn(norm=batch)"])
def test_activations_beside_others_have_the_same_numbers(name: str, toy: ist.Dataset) -> None:
    placed = networks.get(name).on(SHAPE, WIDTH, DEPTH)
    phis = [activations.get(phi) for phi in ("relu", "tanh", "gelu")]
    init = inits.get("kaiming_normal")
    together = [*run_stack(placed, init, phis, [1], toy.valid, None, SETTINGS)]
    for phi, beside in zip(phis, together, strict=True):
        (alone,) = run_stack(placed, init, [phi], [1], toy.valid, None, SETTINGS)
        np.testing.assert_array_equal(alone.statistics, beside.statistics)
        np.testing.assert_array_equal(alone.numbers, beside.numbers)


def test_a_branch_that_is_scaled_by_zero_adds_nothing(toy: ist.Dataset) -> None:
    found, noted = measured("resmlp(norm=layer,scale=zero)", toy)
    stem = found[1, "stream", "forward"]
    assert all(found[layer, "stream", "forward"] == stem for layer in range(2, DEPTH + 1))
    assert set(noted.values()) == {0.0}


def test_what_is_dropped_is_dropped_as_often_as_asked(toy: ist.Dataset) -> None:
    plain, _ = measured("mlp", toy, "identity")
    dropped, _ = measured("mlp(dropout=0.5)", toy, "identity")
    # the masks of a layer are the first difference: the next layer reads twice the square
    ratio = dropped[2, "preactivation", "forward"] / plain[2, "preactivation", "forward"]
    assert ratio == pytest.approx(2, rel=0.3)
    assert dropped[1, "activation", "forward"] == plain[1, "activation", "forward"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resmlp(scale=deepnorm)", "needs a norm after the sum"),
        ("resmlp(norm=layer,place=after)", "no such place, only pre, post"),
        ("mlp(norm=layer,place=post)", "no such place, only pre, after"),
        ("resmlp(place=post)", "there is none: name a norm"),
        ("resmlp(norm=lyer)", "unknown norm 'lyer': did you mean 'layer'"),
        ("resmlp(scale=fixpu)", "did you mean 'fixup'"),
        ("resmlp(branch=3)", "1 or 2: got 3"),
        ("resmlp(branch=1,hidden=2)", "two products"),
        ("resmlp(hidden=-1)", "hidden=-1 makes no unit of a width of "),
        ("resmlp(hidden=0)", "makes no unit"),
        ("transformer(patch=4,hidden=0.01)", "makes no unit"),
        ("transformer(patch=4,hidden=inf)", "hidden is a factor, finite in float32: got inf"),
        ("resmlp(alpha=inf)", "alpha is a factor, finite in float32: got inf"),
        ("rescnn(alpha=-inf)", "alpha is a factor, finite in float32: got -inf"),
        ("resmlp(groups=2)", "for norm=group"),
        ("mlp(batch=8)", "for norm=batch"),
        ("mlp(norm=batch,batch=1)", "at least 2"),
        ("resmlp(drop_path=-1)", "built: drop_path is a share, at least 0 and below 1: got -1"),
        ("rescnn(drop_path=1)", "built: drop_path is a share"),
        ("transformer(drop_path=2)", "built: drop_path is a share"),
        ("mlp(dropout=1)", "built: dropout is a share"),
        ("cnn(dropout=-0.5)", "built: dropout is a share"),
        ("resmlp(dropout=2)", "built: dropout is a share"),
        ("transformer(patch=0)", "built: patch is a whole number, at least 1: got 0"),
        ("transformer(patch=2.5)", "built: patch is a whole number"),
        ("mlp(dropout=1)", "below 1: got 1"),
        ("resmlp(drop_path=1)", "below 1: got 1"),
        ("transformer(logits=root)", "unknown logits 'root'"),
        ("transformer(positions=sine)", "unknown positions 'sine'"),
        ("transformer(heads=3,patch=4)", "3 heads do not share 8 units"),
        ("transformer(patch=3)", "do not cover images of 8 x 8"),
        ("mlp(norm=group,groups=3)", "do not make 3 groups"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        networks.get(name).on(SHAPE, WIDTH, DEPTH)


@pytest.mark.parametrize(
    ("network", "samples", "words"),
    [
        ("mlp(norm=batch)", 31, "batch=32 is more than the 31 samples"),
        ("mlp(norm=batch,batch=4)", 9, "leave one sample, of which batch norm makes 0"),
        ("resmlp(norm=batch,place=post,batch=4)", 9, "leave one sample"),
        ("mlp(norm=batch,batch=4)", 10, ""),
        ("cnn(norm=batch,batch=4)", 9, ""),  # the positions of one image differ
        ("mlp(norm=layer)", 1, ""),
    ],
)
def test_batches_are_whole_or_can_be_normalized(network: str, samples: int, words: str) -> None:
    leaves = list(ist.networks.get(network).on((1, 28, 28), 8, 3).leaves())
    if not words:
        check_batches(leaves, samples)
        return
    with pytest.raises(ValueError, match=words):
        check_batches(leaves, samples)


def test_a_sweep_refuses_a_batch_of_one_sample(toy: ist.Dataset) -> None:
    grid = ist.Grid(networks=["mlp(norm=batch,batch=4)"], widths=[6], depth=2, samples=5)
    with pytest.raises(ValueError, match=r"network 'mlp.*': 5 samples in batches of 4"):
        ist.run_sweep(grid, toy)
