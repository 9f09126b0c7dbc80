"""How a model is fed, and how its operations follow each other: what is told, and what is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initstats.diagnosis import diagnose
from initstats.probe import Probe, measure

RULES = {"input_scale", "dropped", "softmax_axis", "linear_chain", "cut_output", "small_batch"}
OTHERS = {"mean_shift", "saturation", "dead_units"}
"""Rules that look at the same values, and must not accuse what these leave alone."""


def told(model: nn.Module, x: Any) -> dict[str, str]:
    """What these rules say, as the severity of each; others are only asked for faults."""
    found = diagnose(measure(model, x, backward=True))
    faults = found[found["severity"] <= "note"]
    said = {str(row.rule): str(row.severity) for row in faults[::-1].itertuples()}
    return {r: s for r, s in said.items() if r in RULES or (r in OTHERS and s != "note")}


class Layers(nn.Module):
    """A function of some layers and of the input, after He's initialization."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function
        he(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def he(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def stack(*modules: nn.Module) -> nn.Module:
    return he(nn.Sequential(*modules))


def between(*modules: nn.Module) -> nn.Module:
    """A small network with something behind its activation."""
    return stack(nn.Linear(64, 64), nn.ReLU(), *modules, nn.Linear(64, 8))


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape or (16, 3, 8, 8)).float()


def conv(i: int = 3, o: int = 8, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(i, o, kernel, groups=groups)


def linears(*widths: int) -> list[nn.Linear]:
    return [nn.Linear(i, o) for i, o in pairwise(widths)]


Case = Callable[[], tuple[nn.Module, Tensor]]
NOISE = (128, 64)
FED: dict[str, tuple[str, Case]] = {
    "bytes": ("warning", lambda: (stack(conv(), nn.ReLU(), conv(8)), images())),
    "bytes as integers": (
        "warning",
        lambda: (Layers(lambda x, c: c(x.float()), conv()), images().byte()),
    ),
    "bytes before a norm": (
        "note",
        lambda: (stack(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv(8)), images()),
    ),
    "bytes over 255": ("note", lambda: (Layers(lambda x, c: c(x / 255), conv()), images())),
    "bytes normalized": (
        "",
        lambda: (Layers(lambda x, c: c((x / 255 - 0.5) / 0.25), conv()), images()),
    ),
    "integers normalized": (
        "",
        lambda: (
            Layers(lambda x, c: c(x.permute(0, 3, 1, 2).float() / 127.5 - 1), conv()),
            images(16, 8, 8, 3).byte(),
        ),
    ),
    "one of many": ("", lambda: (between(), torch.eye(64)[torch.randint(0, 64, (128,))])),
    "unit vectors": ("note", lambda: (between(), F.normalize(torch.randn(NOISE)) / 2)),
    "kelvin": ("warning", lambda: (between(nn.Identity()), 9 + torch.randn(NOISE))),
    "tiny": ("warning", lambda: (between(), 1e-6 * torch.randn(NOISE))),
    "recurrent": (
        "warning",
        lambda: (nn.LSTM(8, 8, batch_first=True), 255 * torch.rand(16, 9, 8)),
    ),
    "normalized first": (
        "",
        lambda: (nn.Sequential(nn.BatchNorm1d(64), between()), 9 + torch.randn(NOISE)),
    ),
}


@pytest.mark.parametrize("name", FED)
def test_what_a_model_is_fed(name: str) -> None:
    torch.manual_seed(0)
    severity, build = FED[name]
    assert told(*build()).get("input_scale", "") == severity


def test_of_several_inputs_the_one_that_is_far_is_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 8), nn.Linear(64, 8)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            out: Tensor = self.a(x) + self.b(y)
            return out

    table = measure(Two(), (torch.randn(NOISE), 500 * torch.randn(NOISE)))
    (row,) = diagnose(table).query("rule == 'input_scale'").itertuples()
    assert (row.severity, row.where) == ("warning", "b (input)")


def drop_path(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    h = a(x).relu()
    out: Tensor = b(h * h.new_empty(len(h), 1).bernoulli_(0.5))
    return out


def by_hand(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    h = a(x).relu()
    out: Tensor = b(h * (torch.rand_like(h) < 0.05) / 0.05)
    return out


def largest(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    h = a(x)
    out: Tensor = b(h * (h >= h.topk(3, -1)[0][:, -1:]))
    return out


DROPPED: dict[str, tuple[str, Case]] = {
    "nearly all": ("warning", lambda: (between(nn.Dropout(0.95)), torch.randn(NOISE))),
    "nine of ten": ("warning", lambda: (between(nn.Dropout(0.9)), torch.randn(NOISE))),
    "four of five": ("note", lambda: (between(nn.Dropout(0.8)), torch.randn(NOISE))),
    "half": ("", lambda: (between(nn.Dropout(0.5)), torch.randn(NOISE))),
    "in evaluation": ("", lambda: (between(nn.Dropout(0.95)).eval(), torch.randn(NOISE))),
    "channels": (
        "warning",
        lambda: (
            stack(conv(3, 64), nn.ReLU(), nn.Dropout2d(0.95), conv(64)),
            torch.randn(16, 3, 8, 8),
        ),
    ),
    "by hand": ("warning", lambda: (Layers(by_hand, *linears(64, 64, 8)), torch.randn(NOISE))),
    "paths of few samples": (
        "",
        lambda: (Layers(drop_path, *linears(64, 64, 8)), torch.randn(8, 64)),
    ),
    "the largest": ("", lambda: (Layers(largest, *linears(64, 64, 8)), torch.randn(NOISE))),
    "noise": (
        "",
        lambda: (
            Layers(lambda x, a, b: b(a(x) * (1 + torch.rand(64)).relu()), *linears(64, 64, 8)),
            torch.randn(NOISE),
        ),
    ),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_is_dropped(name: str) -> None:
    torch.manual_seed(0)
    severity, build = DROPPED[name]
    assert told(*build()).get("dropped", "") == severity


@pytest.mark.parametrize(
    ("place", "dead"),
    [("behind", False), ("before", False), ("channels", False), ("behind", True)],
)
def test_what_is_dropped_is_not_dead(place: str, dead: bool) -> None:
    """Of 32 samples a share of 0.95 leaves two: many units are constant by chance."""
    torch.manual_seed(0)
    drop: nn.Module = nn.Dropout2d(0.95) if place == "channels" else nn.Dropout(0.95)
    layer = conv(3, 64) if place == "channels" else nn.Linear(64, 64)
    parts = [drop, nn.ReLU()] if place == "before" else [nn.ReLU(), drop]
    model = stack(layer, *parts)
    if dead:
        nn.init.constant_(layer.bias, -30.0)  # type: ignore[arg-type]
    x = torch.randn(32, 3, 8, 8) if place == "channels" else torch.randn(32, 64)
    found = diagnose(measure(model, x, backward=True)).query("rule == 'dead_units'").iloc[0]
    assert (found["severity"] == "error") == dead, found["evidence"]
    assert dead or found["severity"] == "healthy", found["evidence"]


def exponentials(x: Tensor, a: nn.Module) -> Tensor:
    e: Tensor = a(x).exp()
    return e / e.sum(0)


def attention(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    out: Tensor = (q(x) @ k(x).mT / 8).softmax(-1) @ v(x)
    return out


def linear_attention(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    out: Tensor = (q(x) / 4).softmax(-1) @ ((k(x) / 4).softmax(1).mT @ v(x))
    return out


SEQUENCE = (8, 12, 64)
ALIKE = (8, 8, 64)
"""As many samples as positions, and as heads: no size tells a dimension from another."""


def scored(
    average: Callable[[Tensor, Tensor], Tensor], *, split: bool = True, shape: Any = ALIKE
) -> Case:
    """A layer of attention with eight heads, or one; what is made of its scores and values."""

    def function(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, out: nn.Module) -> Tensor:
        heads = [layer(x) for layer in (q, k, v)]
        if split:
            heads = [h.view(*h.shape[:2], 8, 8).transpose(1, 2) for h in heads]
        scores = heads[0] @ heads[1].mT / math.sqrt(heads[0].shape[-1])
        y = average(scores, heads[2])
        result: Tensor = out(y.transpose(1, 2).flatten(2) if split else y)
        return x + result

    return lambda: (Layers(function, *linears(*5 * [64])), torch.randn(shape))


def folded(s: Tensor, v: Tensor) -> Tensor:
    """Samples and heads in one dimension, in a type of half the size, and with dropout."""
    a = F.dropout(s.flatten(0, 1).softmax(1).half().float(), 0.1)
    return torch.bmm(a, v.flatten(0, 1)).view_as(v)


def masked(s: Tensor, v: Tensor) -> Tensor:
    seen = torch.ones(s.shape[-2:]).tril().bool()
    return s.masked_fill(~seen, -1e9).softmax(-1) @ v


def slots(s: Tensor, v: Tensor) -> Tensor:
    a = s.softmax(-2) + 1e-8
    return (a / a.sum(-1, keepdim=True)) @ v


def slots_later(s: Tensor, v: Tensor) -> Tensor:
    a = s.softmax(-2)
    return (a @ v) / a.sum(-1, keepdim=True)


def both_ways(s: Tensor, v: Tensor) -> Tensor:
    return (s.softmax(-1) @ s.softmax(-2).mT) @ v


def inverted(s: Tensor, v: Tensor) -> Tensor:
    """Shares that are multiplied from both sides, as an iteration to an inverse does."""
    a = s.softmax(-1)
    z = a.mT * 0.1
    return z @ (a @ (z @ v))


def by_channels(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    out: Tensor = (q(x).mT @ k(x) / 8).softmax(-1) @ v(x).mT
    return out.mT


def talking(x: Tensor, q: nn.Module, k: nn.Module, mix: nn.Module) -> Tensor:
    heads = [layer(x).unflatten(-1, (8, 8)).transpose(1, 2) for layer in (q, k)]
    a = torch.einsum("bhqk,gh->bgqk", (heads[0] @ heads[1].mT / 3).softmax(-1), mix.weight)
    out: Tensor = a @ heads[1]
    return out


def features(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module) -> Tensor:
    """A kernel of shares of features, for queries and keys alike."""
    out: Tensor = (q(x) / 4).softmax(-1) @ ((k(x) / 4).softmax(-1).mT @ v(x))
    return out


def routed(x: Tensor, a: nn.Module) -> Tensor:
    """Capsules: each part votes for wholes, and is shared out among those that agree with it."""
    votes = a(x).view(-1, 4, 4, 4)
    agreed, whole = torch.zeros(len(x), 4, 4), votes[:, 0]
    for _ in range(3):
        whole = torch.einsum("bij,bije->bje", agreed.softmax(-1), votes).tanh()
        agreed = agreed + torch.einsum("bije,bje->bij", votes, whole)
    out: Tensor = whole.flatten(1)
    return out


def clusters(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    """Nodes of graphs that are assigned to clusters, by neighbours that come as an input."""
    near = x @ x.mT
    out: Tensor = (near @ a(x) / 100).softmax(-1).mT @ (near @ b(x) / 100)
    return out


SOFTMAX: dict[str, tuple[bool, Case]] = {
    "samples": (True, lambda: (stack(nn.Linear(64, 8), nn.Softmax(0)), torch.randn(NOISE))),
    "logs": (True, lambda: (stack(nn.Linear(64, 8), nn.LogSoftmax(0)), torch.randn(NOISE))),
    "positions": (True, lambda: (stack(nn.Linear(64, 8), nn.Softmax(1)), torch.randn(SEQUENCE))),
    "images": (True, lambda: (stack(conv(), nn.Softmax(0)), torch.randn(16, 3, 8, 8))),
    "by hand": (True, lambda: (Layers(exponentials, nn.Linear(64, 8)), torch.randn(NOISE))),
    "classes": (False, lambda: (stack(nn.Linear(64, 8), nn.Softmax(1)), torch.randn(NOISE))),
    "channels": (False, lambda: (stack(conv(), nn.Softmax(1)), torch.randn(16, 3, 8, 8))),
    "attention": (False, lambda: (Layers(attention, *linears(64, 64, 64, 64)),
                                  torch.randn(SEQUENCE))),
    "linear attention": (False, lambda: (Layers(linear_attention, *linears(64, 64, 64, 64)),
                                         torch.randn(SEQUENCE))),
    "pooling": (False, lambda: (Layers(lambda x, a: (a(x).softmax(1) * x).sum(1),
                                       nn.Linear(64, 1)), torch.randn(SEQUENCE))),
    "pooling by heads": (False, lambda: (Layers(lambda x, a: a(x).softmax(1).mT @ x,
                                                nn.Linear(64, 4)), torch.randn(SEQUENCE))),
    "a bag of instances": (False, lambda: (Layers(lambda x, a: a(x).T.softmax(1) @ x,
                                                  nn.Linear(64, 4)), torch.randn(NOISE))),
    "dropped weights": (False, lambda: (Layers(
        lambda x, a: F.dropout(a(x).softmax(0), 0.1).T @ x, nn.Linear(64, 4)),
        torch.randn(NOISE))),
    "a place in an image": (False, lambda: (Layers(
        lambda x, a: a(x).flatten(2).softmax(-1), conv()), torch.randn(16, 3, 8, 8))),
    "a position of an answer": (False, lambda: (Layers(
        lambda x, a: a(x)[..., 0].softmax(1), nn.Linear(64, 2)), torch.randn(SEQUENCE))),
    "scores over samples": (True, scored(lambda s, v: s.softmax(0) @ v)),
    "scores over heads": (True, scored(lambda s, v: s.softmax(1) @ v)),
    "scores over queries": (True, scored(lambda s, v: s.softmax(2) @ v)),
    "scores over keys": (False, scored(lambda s, v: s.softmax(3) @ v)),
    "one head over samples": (True, scored(lambda s, v: s.softmax(0) @ v, split=False)),
    "one head over queries": (True, scored(lambda s, v: s.softmax(1) @ v, split=False)),
    "letters over queries": (True, scored(
        lambda s, v: torch.einsum("...ij,...jd->...id", s.softmax(-2), v))),
    "letters over keys": (False, scored(
        lambda s, v: torch.einsum("xyij,xyjd->xyid", s.softmax(-1), v))),
    "keys before queries": (False, scored(
        lambda s, v: torch.einsum("bhkq,bhkd->bhqd", s.softmax(2), v))),
    "values first": (False, scored(lambda s, v: (v.mT @ s.softmax(2)).mT)),
    "folded over queries": (True, scored(folded)),
    "masked": (False, scored(masked)),
    "slots": (False, scored(slots)),
    "slots, divided later": (False, scored(slots_later)),
    "both ways": (False, scored(both_ways, shape=SEQUENCE)),
    "inverted": (False, scored(inverted)),
    "by channels": (False, lambda: (Layers(by_channels, *linears(*4 * [64])),
                                    torch.randn(SEQUENCE))),
    "talking heads": (False, lambda: (Layers(talking, *linears(64, 64, 64), nn.Linear(8, 8)),
                                      torch.randn(SEQUENCE))),
    "features": (False, lambda: (Layers(features, *linears(*4 * [64])), torch.randn(SEQUENCE))),
    "capsules": (False, lambda: (Layers(routed, nn.Linear(64, 64)), torch.randn(NOISE))),
    "clusters": (False, lambda: (Layers(clusters, *linears(64, 8), *linears(64, 64)),
                                 torch.randn(SEQUENCE))),
}  # fmt: skip


@pytest.mark.parametrize("name", SOFTMAX)
def test_the_dimension_of_a_softmax(name: str) -> None:
    torch.manual_seed(0)
    wrong, build = SOFTMAX[name]
    found = told(*build())
    assert found.pop("softmax_axis", "") == ("warning" if wrong else "")
    assert set(found.values()) <= {"note"}


CHAINS: dict[str, tuple[str, Case]] = {
    "two": ("0 to 1", lambda: (stack(*linears(64, 64, 64)), torch.randn(NOISE))),
    "three": ("0 to 1 to 2", lambda: (stack(*linears(64, 64, 64, 8)), torch.randn(NOISE))),
    "dropped between": (
        "0 to 2",
        lambda: (stack(nn.Linear(64, 64), nn.Dropout(0.1), nn.Linear(64, 8)), torch.randn(NOISE)),
    ),
    "convolutions": ("0 to 1", lambda: (stack(conv(3, 16), conv(16, 16)), images() / 128 - 1)),
    "flattened": (
        "0 to 2",
        lambda: (stack(conv(3, 16), nn.Flatten(), nn.Linear(16 * 36, 8)), images() / 128 - 1),
    ),
    "a bottleneck": ("", lambda: (stack(*linears(64, 8, 64)), torch.randn(NOISE))),
    "depthwise first": (
        "",
        lambda: (stack(conv(16, 16, 3, 16), conv(16, 32, 1)), torch.randn(8, 16, 9, 9)),
    ),
    "pointwise first": (
        "",
        lambda: (stack(conv(8, 16, 1), conv(16, 16, 3, 16)), torch.randn(8, 8, 9, 9)),
    ),
    "pixels shuffled": (
        "",
        lambda: (stack(conv(8, 32), nn.PixelShuffle(2), conv(8, 3)), torch.randn(8, 8, 9, 9)),
    ),
    "a norm between": (
        "",
        lambda: (
            stack(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8)),
            torch.randn(NOISE),
        ),
    ),
    "into an encoder": (
        "",
        lambda: (
            nn.Sequential(
                nn.Linear(16, 32), nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True)
            ),
            torch.randn(8, 12, 16),
        ),
    ),
    "one map, many times": (
        "",
        lambda: (Layers(lambda x, a: a(a(a(x))), nn.Linear(64, 64)), torch.randn(NOISE)),
    ),
    "values and outputs": (
        "",
        lambda: (
            Layers(
                lambda x, a, b: b(F.scaled_dot_product_attention(x, x, a(x))), *linears(64, 64, 64)
            ),
            torch.randn(SEQUENCE),
        ),
    ),
    "a latent that is drawn": (
        "",
        lambda: (
            Layers(lambda x, a, b: b(a(x) + torch.randn(64)), *linears(64, 64, 64)),
            torch.randn(NOISE),
        ),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_linear_maps_that_follow_each_other(name: str) -> None:
    torch.manual_seed(0)
    where, build = CHAINS[name]
    found = diagnose(measure(*build())).query("rule == 'linear_chain'").iloc[0]
    assert (found["severity"], found["where"]) == ("warning" if where else "healthy", where)


def loss(function: Callable[[Tensor], Tensor]) -> Case:
    """A classifier that computes its loss of what a function makes of its logits."""
    y = torch.arange(128) % 8
    return lambda: (
        Layers(lambda x, a: F.cross_entropy(function(a(x)), y), nn.Linear(64, 8)),
        torch.randn(NOISE),
    )


def likelihood(x: Tensor, a: nn.Module) -> Tensor:
    return F.nll_loss(a(x).softmax(-1).log(), torch.arange(128) % 8)


def graph_attention(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    scores = F.leaky_relu((a(x)[:, None] + b(x)[None])[..., 0])
    return scores.softmax(-1) @ x


CUT: dict[str, tuple[str, Case]] = {
    "softmax, then the loss": ("warning", loss(lambda h: h.softmax(-1))),
    "relu, then the loss": ("warning", loss(torch.relu)),
    "two softmaxes": ("warning", loss(lambda h: h.softmax(-1).log_softmax(-1))),
    "logits": ("", loss(lambda h: h)),
    "logs of shares": ("", loss(lambda h: h.log_softmax(-1))),
    "a bounded activation": ("", loss(lambda h: 30 * torch.tanh(h / 30))),
    "shares and their likelihood": (
        "",
        lambda: (Layers(likelihood, nn.Linear(64, 8)), torch.randn(NOISE)),
    ),
    "shares at the end": (
        "note",
        lambda: (stack(nn.Linear(64, 8), nn.Softmax(-1)), torch.randn(NOISE)),
    ),
    "relu at the end": ("note", lambda: (stack(nn.Linear(64, 8), nn.ReLU()), torch.randn(NOISE))),
    "tanh at the end": ("", lambda: (stack(nn.Linear(64, 8), nn.Tanh()), torch.randn(NOISE))),
    "attention of graphs": (
        "",
        lambda: (Layers(graph_attention, *linears(64, 1), *linears(64, 1)), torch.randn(32, 64)),
    ),
}


@pytest.mark.parametrize("name", CUT)
def test_what_cuts_the_logits(name: str) -> None:
    torch.manual_seed(0)
    severity, build = CUT[name]
    assert told(*build()).get("cut_output", "") == severity


LABELS = torch.arange(128) % 8
SHARES = F.one_hot(LABELS, 8).float()
BEHIND: dict[str, tuple[str, nn.Module, Callable[[Tensor], Tensor]]] = {
    "softmax": ("warning", nn.Softmax(-1), lambda y: F.cross_entropy(y, LABELS)),
    "softmax, by a module": ("warning", nn.Softmax(-1), lambda y: nn.CrossEntropyLoss()(y, LABELS)),
    "sigmoid": (
        "warning",
        nn.Sigmoid(),
        lambda y: F.binary_cross_entropy_with_logits(y, SHARES),
    ),
    "sigmoid, one of its units": (
        "warning",
        nn.Sigmoid(),
        lambda y: nn.BCEWithLogitsLoss()(y[:, 0], SHARES[:, 0]),
    ),
    "relu": ("warning", nn.ReLU(), lambda y: F.cross_entropy(y, LABELS)),
    "logits": ("", nn.Identity(), lambda y: F.cross_entropy(y, LABELS)),
    "shares that are meant": ("", nn.Sigmoid(), lambda y: F.binary_cross_entropy(y, SHARES)),
    "a bounded output": ("", nn.Tanh(), lambda y: F.binary_cross_entropy_with_logits(y, SHARES)),
    "targets": (
        "note",
        nn.Softmax(-1),
        lambda y: F.cross_entropy(torch.randn(128, 8, requires_grad=True) * y.sum(), y.detach()),
    ),
}


@pytest.mark.parametrize("name", BEHIND)
def test_a_loss_behind_the_model_says_whether_it_takes_logits(name: str) -> None:
    torch.manual_seed(0)
    severity, last, loss = BEHIND[name]
    model = stack(nn.Linear(64, 8), last)
    with Probe(model, backward=True) as probe:
        loss(model(torch.randn(NOISE))).backward()  # type: ignore[no-untyped-call]
    found = diagnose(probe).query("rule == 'cut_output'")["severity"].iloc[0]
    assert found == (severity or "healthy")


def test_shares_that_are_targets_inside_of_the_model_are_none() -> None:
    """A student learns the shares of its teacher."""
    case = Layers(
        lambda x, a, b: F.binary_cross_entropy_with_logits(a(x), b(x).sigmoid()), *linears(64, 8),
        *linears(64, 8),
    )  # fmt: skip
    assert "cut_output" not in told(case, torch.randn(NOISE))
    twice = Layers(
        lambda x, a: F.binary_cross_entropy_with_logits(a(x).sigmoid(), SHARES), *linears(64, 8)
    )
    assert told(twice, torch.randn(NOISE))["cut_output"] == "warning"


def attending(factor: float, width: int = 64, mask: bool = False) -> nn.Module:
    def function(x: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, out: nn.Module) -> Tensor:
        scores = q(x) @ k(x).mT * factor
        if mask:
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), -1e9)
        y: Tensor = x + out(scores.softmax(-1) @ v(x))
        return y

    model = Layers(function, *linears(*5 * [width]))
    for number in range(4):
        nn.init.xavier_normal_(model.get_parameter(f"layers.{number}.weight"))
    return model


SCORES: dict[str, tuple[bool, Callable[[], nn.Module]]] = {
    "not divided": (True, lambda: attending(1.0)),
    "not divided, wide": (True, lambda: attending(1.0, 256)),
    "multiplied": (True, lambda: attending(8.0)),
    "not divided, masked": (True, lambda: attending(1.0, mask=True)),
    "divided": (False, lambda: attending(1 / 8)),
    "divided, masked": (False, lambda: attending(1 / 8, mask=True)),
    "divided, wide": (False, lambda: attending(1 / 16, 256)),
    "few features": (False, lambda: attending(1.0, 8)),
}


@pytest.mark.parametrize("name", SCORES)
def test_the_size_of_scores(name: str) -> None:
    torch.manual_seed(0)
    large, build = SCORES[name]
    model = build()
    width = model.get_parameter("layers.0.weight").shape[0]
    found = diagnose(measure(model, torch.randn(8, 16, width), backward=True))
    row = found[found["rule"] == "saturation"].iloc[0]
    assert (row["severity"] == "warning") == large, str(found)
    if large:
        assert row["where"] == "Layers (softmax)"
        assert "divide the scores by the root of the size of a head" in row["remedy"]


def test_scores_that_were_learned_may_be_large() -> None:
    torch.manual_seed(0)
    model = attending(1 / 8)
    for number in (0, 1):
        weight = model.get_parameter(f"layers.{number}.weight").data
        weight[:, :4] *= 16.0  # no law that weights are drawn from
        weight[:, 4:] *= 0.3
    x = torch.randn(8, 16, 64)
    table = measure(model, x, backward=True)
    (scores,) = table[(table["op"] == "mul") & (table["direction"] == "forward")]["std"]
    assert scores > 5
    assert "saturation" not in told(model, x)


def gate(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    y: Tensor = c((a(x) + 0.0 * b(x)).relu())
    return y


def zero_buffer(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    y: Tensor = c(torch.cat([a(x), b(x).relu() * torch.zeros(64)], -1).relu()[..., :64])
    return y


def kept_in_the_graph(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    y: Tensor = c(a(x).relu()) + 0.0 * b(x).sum() + (b(x) * 0.0).mean()
    return y


def a_state(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    y: Tensor = c((a(x) + b(x) + x * 0.0).relu())
    return y


def a_first_state(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    """A recurrence with gates that the input makes, and a state that begins at 0."""
    gates, state = b(x).sigmoid().split(32, -1), torch.zeros(len(x), 32)
    for gate in gates:
        state = gate * state + a(x)[:, :32]
    y: Tensor = c(torch.cat([state, state], -1).relu())
    return y


class Scaled(Layers):
    """A branch with a factor that starts at 0: a parameter, or what a schedule raises."""

    def __init__(self, *, learns: bool) -> None:
        super().__init__(gate, *linears(64, 64), *linears(64, 64), *linears(64, 8))
        self.factor: Any = nn.Parameter(torch.zeros(())) if learns else 0.0
        self.learns = learns

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.layers
        y: Tensor = c((a(x) + self.factor * b(x)).relu())
        self.factor = self.factor if self.learns else self.factor + 0.1
        return y


def branches(function: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    return lambda: Layers(function, *linears(64, 64), *linears(64, 64), *linears(64, 8))


FACTORS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "a number": ("warning", branches(gate)),
    "a buffer": ("warning", branches(zero_buffer)),
    "a parameter": ("", lambda: Scaled(learns=True)),
    "a schedule": ("", lambda: Scaled(learns=False)),
    "kept in the graph": ("", branches(kept_in_the_graph)),
    "no branch": ("", branches(a_state)),
    "a first state": ("", branches(a_first_state)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_a_branch_that_is_multiplied_by_zero(name: str) -> None:
    torch.manual_seed(0)
    severity, build = FACTORS[name]
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Probe(model, backward=True) as probe:
        for step in range(11):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(NOISE)), LABELS).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step == 0:
                first = diagnose(probe).query("rule == 'zero_factor'")["severity"].iloc[0]
    found = diagnose(probe).query("rule == 'zero_factor'").iloc[0]
    assert found["severity"] == (severity or "healthy"), found["evidence"]
    assert severity == "" or (first, "mul" in found["where"]) == ("note", True)


def words_of(std: float, *, norm: str) -> nn.Module:
    """A table of words before two blocks with norms inside, and maybe one before or after all."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 64), nn.Linear(64, 50)
            self.first = nn.LayerNorm(64) if norm == "first" else nn.Identity()
            self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))
            self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
            he(self)
            nn.init.normal_(self.table.weight, std=std)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(self.table(x) + torch.randn(x.shape[1], 64) * 0.02)
            for n, b in zip(self.norms, self.blocks, strict=True):
                h = h + b(n(h))
            y: Tensor = self.head(F.layer_norm(h, (64,)) if norm == "last" else h)
            return y

    return Model()


@pytest.mark.parametrize(
    ("std", "norm", "severity"),
    [
        (50.0, "inside", "warning"),
        (50.0, "last", "warning"),
        (50.0, "first", "note"),
        (8.0, "last", ""),
    ],
)
def test_the_size_of_a_table_of_words(std: float, norm: str, severity: str) -> None:
    torch.manual_seed(0)
    model, x = words_of(std, norm=norm), torch.randint(50, (8, 16))
    found = diagnose(measure(model, x, backward=True)).query("rule == 'input_scale'").iloc[0]
    assert found["severity"] == (severity or "healthy")
    if severity:
        exec(found["remedy"], {"model": model})
        assert "input_scale" not in told(model, x)


def test_small_logits_are_noted_and_small_layers_are_an_error() -> None:
    torch.manual_seed(0)
    x = torch.randn(NOISE)

    def jumps(model: nn.Module) -> Any:
        found = diagnose(measure(model, x, backward=True))
        return found[found["rule"] == "scale_jump"].iloc[0]

    row = jumps(Layers(lambda x, a, b: b(a(x).relu()) / 100, *linears(64, 64, 8)))
    assert (row["severity"], row["where"]) == ("note", "Layers (div)")
    assert "it is an output" in row["evidence"]
    small = stack(*linears(64, 64), nn.ReLU(), *linears(64, 64), nn.ReLU(), *linears(64, 8))
    for layer in small.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1e-3)
    row = jumps(small)
    assert (row["severity"], row["where"]) == ("error", "0 (linear), 2 (linear), 4 (linear)")
    exec(row["remedy"], {"model": small, "nn": nn, "math": math})
    assert jumps(small)["severity"] == "healthy"
    head = stack(*linears(64, 64), nn.ReLU(), *linears(64, 8))
    nn.init.normal_(head.get_parameter("2.weight"), std=1e-3)
    assert jumps(head)["severity"] == "healthy"


@pytest.mark.parametrize(
    ("samples", "trains", "expected"), [(2, True, "note"), (2, False, ""), (64, True, "")]
)
def test_a_batch_for_a_batch_normalization(samples: int, trains: bool, expected: str) -> None:
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU())
    assert told(model.train(trains), torch.randn(samples, 16)).get("small_batch", "") == expected


def test_the_remedy_for_an_input_is_its_standardization() -> None:
    model, x = stack(conv(), nn.ReLU(), conv(8)), images()
    found = diagnose(measure(model, x)).query("rule == 'input_scale'")
    given = {"x": x}
    exec(found["remedy"].iloc[0], {}, given)
    assert abs(given["x"].mean().item()) < 1e-2
    assert math.isclose(given["x"].std().item(), 1, rel_tol=1e-2)
