"""Each rule fires where it should and is silent beside: the thresholds, by models made for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from initstats.diagnosis import diagnose
from initstats.diagnosis.profile import profiles
from initstats.diagnosis.rules.loops import over
from initstats.probe import Probe, measure


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def stack(widths: Sequence[int], std: Callable[[int, int], float]) -> nn.Sequential:
    """Rectified layers of some widths, normal of a std that follows from both."""
    model = nn.Sequential()
    for number, (i, o) in enumerate(pairwise(widths)):
        layer = nn.Linear(i, o)
        nn.init.normal_(layer.weight, std=std(i, o))
        nn.init.zeros_(layer.bias)
        model.extend([nn.ReLU(), layer] if number else [layer])
    return model


def told(model: nn.Module, x: Any, rule: str, *, backward: bool = True) -> dict[str, Any]:
    """What a rule says, by severity."""
    found = diagnose(measure(model, x, backward=backward)).query(f"rule == '{rule}'")
    return {str(row.severity): row for row in found.itertuples()}


def he(i: int, _: int) -> float:
    return math.sqrt(2 / i)


def by_out(_: int, o: int) -> float:
    return math.sqrt(2 / o)


@pytest.mark.parametrize(
    ("widths", "std", "severity"),
    [
        ((240, 80, 20), by_out, "note"),  # the head is left to the next rows
        ((240, 48, 48), by_out, "warning"),
        ((60, 240, 240), by_out, "warning"),
        ((80, 240, 240), by_out, "note"),
        ((240, 200, 200), by_out, "healthy"),
        ((240, 48, 48), he, "healthy"),
    ],
)
def test_fan_mode_is_graver_the_less_square_the_layer(
    widths: Sequence[int], std: Callable[[int, int], float], severity: str
) -> None:
    model = stack(widths, std)
    if widths[-1] != widths[-2]:
        nn.init.normal_(model.get_parameter("2.weight"), std=he(*widths[-2:]))
    assert set(told(model, torch.randn(64, widths[0]), "fan_mode")) == {severity}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(128, 384), nn.ReLU(), nn.Linear(384, 10)),
        lambda: nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 20)),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)),
        lambda: nn.Sequential(nn.Linear(64, 192), nn.GELU(), nn.Linear(192, 64)),
    ],
)
def test_defaults_have_one_cause(build: Callable[[], nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    model = build()
    first = next(model.parameters())
    x = torch.randn(32, 3, 9, 9) if first.ndim == 4 else torch.randn(32, first.shape[1])
    found = diagnose(measure(model, x)).set_index("rule")["severity"]
    assert found["fan_mode"] == "healthy"
    assert found["default_init"] == "note"


def test_orthogonal_weights_are_not_scaled_by_fan_out() -> None:
    """They keep the norm of a vector, whatever the sizes."""
    model = stack((32, 128, 512), he)
    for name in ("0.weight", "2.weight"):
        nn.init.orthogonal_(model.get_parameter(name), math.sqrt(2))
    assert set(told(model, torch.randn(64, 32), "fan_mode")) == {"healthy"}


def test_uniform_weights_that_are_not_torchs() -> None:
    model = stack([100] * 6, he)
    for number in range(0, 9, 2):
        nn.init.uniform_(model.get_parameter(f"{number}.weight"), -0.097, 0.097)
    assert set(told(model, torch.randn(64, 100), "default_init")) == {"healthy"}
    for number in range(0, 9, 2):
        nn.init.uniform_(model.get_parameter(f"{number}.weight"), -0.1, 0.1)
    assert set(told(model, torch.randn(64, 100), "default_init")) == {"note"}


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + torch.relu(self.fc(x))
        return out


@pytest.mark.parametrize(
    ("depth", "act", "between", "severity"),
    [
        (3, nn.ReLU, nn.Identity, "note"),
        (9, nn.ReLU, nn.Identity, "warning"),
        (9, nn.GELU, nn.Identity, "warning"),
        (6, nn.Tanh, nn.Identity, "note"),
        (12, nn.Tanh, nn.Identity, "warning"),
        (9, nn.ReLU, lambda: nn.LayerNorm(64), "note"),
    ],
)
def test_defaults_are_as_grave_as_what_they_leave(
    depth: int, act: Callable[[], nn.Module], between: Callable[[], nn.Module], severity: str
) -> None:
    """The oracle: the part of the last layer that differs from sample to sample, by hand."""
    layers = [m for _ in range(depth) for m in (nn.Linear(64, 64), between(), act())]
    model, x = nn.Sequential(*layers[:-1]), torch.randn(256, 64)
    found = told(model, x, "default_init")
    assert set(found) == {severity}
    if between is nn.Identity:
        left = (model(x).std(0).square().mean() / x.std(0).square().mean()).sqrt().item()
        assert (left < 0.01) == (severity == "warning")
        assert f"become {left:.2g} times" in found[severity].evidence


def test_defaults_beside_shortcuts_do_not_add_up() -> None:
    model = nn.Sequential(*[Skipping() for _ in range(12)])
    assert set(told(model, torch.randn(64, 64), "default_init")) == {"note"}


@pytest.mark.parametrize(
    ("groups", "severity"), [(1, "healthy"), (2, "healthy"), (4, "warning"), (16, "warning")]
)
def test_fan_out_counts_the_units_of_all_groups(groups: int, severity: str) -> None:
    """As torch.nn.init does, so that weights of many groups come out too small.

    Of two groups the squared gain of 2 becomes 1, which is that of another gain.
    """
    model = nn.Sequential(nn.Conv2d(16, 16, 3, groups=groups, bias=False), nn.ReLU())
    nn.init.kaiming_normal_(model.get_parameter("0.weight"), mode="fan_out")
    x = torch.randn(8, 16, 9, 9)
    assert set(told(model, x, "fan_mode")) == {severity}
    normalized = nn.Sequential(model[0], nn.BatchNorm2d(16))
    assert set(told(normalized, x, "fan_mode")) == {"healthy"}


def test_gradient_is_compared_by_its_norm() -> None:
    """Under He's initialization the norm stays, and the mean square grows as layers narrow."""
    x = torch.randn(64, 64)
    model = stack([64, 2048, 1024, 512, 256, 128, 64, 32, 16, 8], he)
    assert set(told(model, x, "gradient")) == {"healthy"}
    model = stack([64, 2048, 1024, 512, 256, 128, 64, 32, 16, 8], lambda i, o: 5 * he(i, o))
    assert "explodes" in told(model, x, "gradient")["error"].evidence


class PostNorm(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.fc, self.drop, self.norm = nn.Linear(64, 64), nn.Dropout(0.1), nn.LayerNorm(64)
        nn.init.normal_(self.fc.weight, std=factor / 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + self.drop(self.fc(x)))
        return out


def test_normalization_behind_a_residual_sum_counts() -> None:
    x = torch.randn(64, 64)
    assert set(told(nn.Sequential(PostNorm(9), PostNorm(1)), x, "weight_scale")) == {"warning"}
    plain = stack([64] * 4, lambda i, _: 9 / math.sqrt(i))
    assert set(told(plain, x, "weight_scale")) == {"error"}


class Written(nn.Module):
    """A normalization that is written out in operations."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.fc, self.form = nn.Linear(64, 64), form
        nn.init.normal_(self.fc.weight, std=9 / 8)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.fc(x)
        if self.form == "rms":
            return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (h - h.mean(-1, keepdim=True)) / (h.std(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("form", ["rms", "std"])
def test_a_normalization_written_out_counts(form: str) -> None:
    assert set(told(Written(form), torch.randn(64, 64), "weight_scale")) == {"warning"}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT / 32**0.5
        out: Tensor = self.out(scores.softmax(-1) @ self.v(x))
        return out


def test_queries_keys_and_values_are_beside_each_other() -> None:
    (profile,) = profiles(measure(nn.Sequential(Attention(), Attention()), torch.randn(4, 5, 32)))
    names = profile.along(profile.graph.path)["name"]
    assert [name.rpartition(".")[2] in "qkv" for name in names] == [True, False] * 2
    assert [name for name in names if name.endswith("out")] == ["0.out", "1.out"]


@pytest.mark.parametrize(("z", "severity"), [(1.0, "healthy"), (1.8, "healthy"), (4.0, "warning")])
@pytest.mark.parametrize("act", [nn.Tanh, nn.Sigmoid, lambda: nn.Hardtanh(-2, 2)])
def test_saturation_counts_entries_at_the_bounds(
    act: Callable[[], nn.Module], z: float, severity: str
) -> None:
    x = z * torch.randn(256, 32) * (2 if isinstance(act(), nn.Sigmoid) else 1)
    model = nn.Sequential(act(), nn.Linear(32, 32))
    assert set(told(model, x, "saturation")) == {severity}


@pytest.mark.parametrize(
    "act", [nn.ReLU6, lambda: nn.Hardtanh(-5, 5), nn.ELU, nn.Softplus, nn.SiLU, nn.GELU]
)
def test_what_is_hardly_at_a_bound_is_not_saturated(act: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(64, 64), act(), nn.Linear(64, 4))
    nn.init.kaiming_normal_(model.get_parameter("0.weight"))
    assert set(told(model, torch.randn(256, 64), "saturation")) == {"healthy"}


class Scaled(nn.Module):
    def __init__(self, after: Callable[[Tensor], Tensor], factor: float = 100.0) -> None:
        super().__init__()
        self.fc, self.out, self.after, self.factor = (
            nn.Linear(32, 32),
            nn.Linear(32, 4),
            after,
            factor,
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.after(self.fc(x) * self.factor))
        return out


@pytest.mark.parametrize(
    ("after", "factor", "severity"),
    [
        (lambda h: h, 100.0, "warning"),
        (torch.relu, 100.0, "warning"),
        (lambda h: h, 1 / 500, "warning"),
        (lambda h: h, 5.0, "healthy"),
        (lambda h: h.softmax(-1), 100.0, "healthy"),
        (lambda h: h.softmax(-1), 1 / 500, "note"),
        (lambda h: h.softmax(-1) * h, 1 / 500, "warning"),
        (lambda h: nn.functional.layer_norm(torch.relu(h), (32,)), 100.0, "healthy"),
        (torch.sin, 1000.0, "healthy"),
        (lambda h: h / 50, 100.0, "healthy"),
        (lambda h: h + torch.tanh(1000 * h), 1 / 500, "healthy"),
    ],
)
def test_a_factor_is_a_fault_where_nothing_undoes_it(
    after: Callable[[Tensor], Tensor], factor: float, severity: str
) -> None:
    found = told(Scaled(after, factor), torch.randn(64, 32), "scale_jump")
    assert severity in found
    if severity == "warning":
        assert found["warning"].where == "Scaled (mul)"


def _later(h: Tensor) -> Tensor:
    return torch.ones(h.shape[-2:], dtype=torch.bool).triu(1)


def _shared_by_hand(h: Tensor) -> Tensor:
    e = (h - h.amax(-1, keepdim=True)).exp()
    shares: Tensor = e / e.sum(-1, keepdim=True)
    return shares


SHARES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda h: h.softmax(-1),
    "masked": lambda h: h.masked_fill(_later(h), -math.inf).softmax(-1),
    "added": lambda h: (h + torch.zeros(1).where(~_later(h), -math.inf)).softmax(-1),
    "chosen": lambda h: torch.where(_later(h), -1e9, h).softmax(-1),
    "beside": lambda h: torch.cat([h, torch.zeros_like(h[..., :1])], -1).softmax(-1)[..., :-1],
    "without the maximum": lambda h: (h - h.amax(-1, keepdim=True)).softmax(-1),
    "by hand": _shared_by_hand,
}


class Scores(nn.Module):
    """Attention beside a shortcut; queries, scores or values are multiplied by factors."""

    def __init__(self, share: Callable[[Tensor], Tensor] | None, q: float, s: float, v: float):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(64, 64, bias=False) for _ in range(4))
        for layer in (self.q, self.k, self.v, self.out):
            nn.init.normal_(layer.weight, std=0.02)
        self.norm, self.share, self.factors = nn.LayerNorm(64), share, (q, s, v)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, s, v = self.factors
        queries, keys, values = self.q(h) * q, self.k(h), self.v(h) * v
        if self.share is None:
            attend = nn.functional.scaled_dot_product_attention
            seen = attend(queries, keys, values, scale=s)
        else:
            seen = self.share(queries @ keys.mT * s) @ values
        out: Tensor = x + self.out(seen)
        return out


@pytest.mark.parametrize(
    ("share", "q", "s", "v", "severity"),
    [
        *((share, 1.0, 1 / 64, 1.0, "note") for share in SHARES.values()),
        (SHARES["plain"], 1 / 64, 1.0, 1.0, "note"),
        (None, 1 / 64, 1.0, 1.0, "note"),
        (SHARES["plain"], 1.0, 1 / 8, 1 / 500, "error"),
        (None, 1.0, 1 / 8, 1 / 500, "error"),
        (lambda h: (h.softmax(-1) - 1 / 64) * h, 1.0, 1 / 64, 1.0, "warning"),
    ],
)
def test_scores_of_which_only_shares_are_made_may_be_small(
    share: Callable[[Tensor], Tensor] | None, q: float, s: float, v: float, severity: str
) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Scores(share, q, s, v) for _ in range(2))), torch.randn(2, 256, 64)
    found = diagnose(measure(model, x, backward=True))
    rows = found[found["rule"] == "scale_jump"]
    told = [each for each in rows["severity"] if each in ("error", "warning")]
    assert (told == []) == (severity == "note"), str(found)
    if severity == "note":
        assert not (found["severity"] <= "warning").any(), str(found)


def _squeezed(f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    return f(y.mean((2, 3)))


GATES: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "sigmoid": lambda f, y: _squeezed(f, y).sigmoid(),
    "hardsigmoid": lambda f, y: nn.functional.hardsigmoid(_squeezed(f, y)),
    "softmax": lambda f, y: _squeezed(f, y).softmax(-1) * 32,
    "twice": lambda f, y: 2 * (f(y.mean((2, 3))) + f(y.amax((2, 3)))).sigmoid(),
    "by hand": lambda f, y: 1 / (1 + (-_squeezed(f, y)).exp()),
}


class Excited(nn.Module):
    """Channels that are multiplied by gates, which are made of their means."""

    def __init__(self, gate: Callable[..., Tensor], act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32)
        self.down, self.up, self.out = nn.Linear(32, 8), nn.Linear(8, 32), nn.Linear(32, 5)
        self.gate, self.act = gate, act

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).relu()
        gates = self.gate(lambda p: self.up(self.act(self.down(p))), y)
        out: Tensor = self.out((y * gates[:, :, None, None]).mean((2, 3)))
        return out


def graves(model: nn.Module, x: Tensor) -> set[str]:
    found = diagnose(measure(model, x, backward=True))
    return set(found["rule"][found["severity"] <= "warning"])


@pytest.mark.parametrize("drawn", ["default", "fan_out"])
@pytest.mark.parametrize("gate", GATES)
def test_what_only_gates_are_made_of_is_noted(gate: str, drawn: str) -> None:
    torch.manual_seed(0)
    act = nn.functional.relu if gate != "sigmoid" else nn.functional.silu
    model, x = Excited(GATES[gate], act), torch.randn(32, 3, 16, 16)
    for layer in (model.down, model.up) if drawn == "fan_out" else ():
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    assert graves(model, x) == set()


def test_dead_units_are_graver_where_they_cost_more() -> None:
    torch.manual_seed(0)
    model, x = Excited(GATES["sigmoid"], nn.functional.relu), torch.randn(32, 3, 16, 16)
    nn.init.constant_(model.down.bias, -30)  # all units of the bottleneck
    assert set(told(model, x, "dead_units")) == {"warning"}
    plain = stack((64, 8, 64, 5), he)
    with torch.no_grad():
        plain.get_parameter("0.bias")[:4] = -30
    assert set(told(plain, torch.randn(128, 64), "dead_units")) == {"warning"}


@pytest.mark.parametrize(
    "between",
    [
        [nn.BatchNorm2d(128), nn.ReLU()],
        [nn.ReLU(), nn.BatchNorm2d(128)],
        [nn.MaxPool2d(2), nn.BatchNorm2d(128)],
        [nn.LeakyReLU(), nn.Dropout2d(0.1), nn.GroupNorm(4, 128)],
    ],
)
def test_fan_out_before_a_normalization_is_harmless(between: list[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 128, 3, bias=False), *between)
    nn.init.kaiming_normal_(model.get_parameter("0.weight"), mode="fan_out")
    assert graves(model, torch.randn(8, 16, 9, 9)) == set()


class Zeroed(nn.Module):
    """A branch beside a shortcut, whose last factors may be zero."""

    def __init__(self, zeros: str) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 32)
        self.alpha = nn.Parameter(torch.ones(()))
        for name in zeros.split():
            nn.init.zeros_(self.get_parameter(name))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.alpha * self.down(self.norm(torch.relu(self.up(x))))
        return out


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("zeros", "stuck"),
    [
        ("alpha", False),
        ("down.weight", False),
        ("down.weight down.bias", False),
        ("norm.weight", False),
        ("norm.weight norm.bias", False),
        ("alpha down.weight down.bias", True),
        ("down.weight down.bias norm.weight norm.bias", True),
    ],
)
def test_one_zero_learns_and_two_do_not(zeros: str, stuck: bool, backward: bool) -> None:
    """The oracle: whether some steps of training move what is zero."""
    model, x = nn.Sequential(Zeroed(zeros), nn.Linear(32, 4)), torch.randn(64, 32)
    found = diagnose(measure(model, x, backward=backward))
    grave = found[found["severity"] <= "warning"]
    assert (grave["rule"].tolist() == ["zero_weights"]) == stuck, str(grave)
    assert stuck or grave.empty, str(grave)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - x[:, :4].sin()).square().mean().backward()
        optimizer.step()
    weights = [model.get_parameter(f"0.{name}") for name in zeros.split() if "bias" not in name]
    assert any(bool((weight == 0).all()) for weight in weights) == stuck


def test_padding_is_no_fault() -> None:
    """Rows of padding are zero, alike, and masked."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.fc = nn.Embedding(50, 32, padding_idx=0), nn.Linear(32, 32)

        def forward(self, ids: Tensor) -> Tensor:
            h = torch.tanh(self.fc(self.embedding(ids)))
            scores = (h @ h.mT).masked_fill((ids == 0)[:, None], torch.finfo(h.dtype).min)
            return scores.softmax(-1) @ h

    ids = torch.randint(1, 50, (16, 12))
    ids[:, 4:] = 0
    found = diagnose(measure(Reader(), ids, backward=True))
    assert found[found["severity"] <= "warning"].empty, str(found)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["a"], "f('a')"),
        (["0.w", "2.w"], "f('0.w')\nf('2.w')"),
        (["0.w", "2.w", "4.w"], "for i in range(0, 5, 2): f(f'{i}.w')"),
        (["h.1.w", "h.2.w", "h.3.w"], "for i in range(1, 4): f(f'h.{i}.w')"),
        (["h.0.w", "h.1.w", "h.2.w"], "for i in range(3): f(f'h.{i}.w')"),
        (["0.w", "1.w", "4.w"], "for i in (0, 1, 4): f(f'{i}.w')"),
        (["c1", "c2", "c3"], "for i in range(1, 4): f(f'c{i}')"),
        (["0.a.0", "1.a.1", "2.a.2"], "for i in range(3): f(f'{i}.a.{i}')"),
        (["0.1", "1.2", "2.3"], "for i in range(3): f(f'{i}.{i + 1}')"),
        (["a1.0", "a1.1", "a2.0", "a2.1"],
         "for name in [f'a{i}.{j}' for i in range(1, 3) for j in range(2)]: f(name)"),
        (["0.q", "0.k", "1.q", "1.k", "o"],
         "for name in [name for i in range(2) for name in (f'{i}.q', f'{i}.k')]: f(name)\nf('o')"),
        (["l0.1", "l1.5", "l2.3"], "for i0, i1 in [(0, 1), (1, 5), (2, 3)]: f(f'l{i0}.{i1}')"),
        (["a01", "a02", "a03"], "for name in ['a01', 'a02', 'a03']: f(name)"),
        (["up", "down", "it's"], "for name in ['up', 'down', \"it's\"]: f(name)"),
    ],
)  # fmt: skip
def test_a_line_for_many_places(names: list[str], line: str) -> None:
    assert over(names, "f({})") == line
    seen: list[str] = []
    exec(line, {"f": seen.append})
    assert sorted(seen) == sorted(names)


def test_what_is_printed_runs() -> None:
    """The lines of a remedy for many places are printed as they are, whatever the width."""
    layers = [m for _ in range(12) for m in (nn.Sequential(nn.Linear(64, 64)), nn.ReLU())]
    model, x = nn.Sequential(*layers), torch.randn(64, 64)
    printed = str(diagnose(measure(model, x)).query("rule == 'default_init'"))
    first, *rest = printed.partition("  remedy: ")[2].splitlines()
    assert len(rest) <= 2
    exec("\n".join([first, *map(str.strip, rest)]), {"model": model, "nn": nn, "math": math})
    assert set(told(model, x, "default_init")) == {"healthy"}


def test_modes_and_steps_are_judged_apart() -> None:
    """A table with a mode for each pass has a profile for each; a fault is told with its steps."""
    model = stack([32] * 4, he)
    with Probe(model) as probe:
        model(torch.randn(64, 32))
    table = probe.table()
    table = pd.concat([table.assign(mode="train"), table.assign(mode="eval")])
    assert len(profiles(table)) == 2
    assert diagnose(table)["rule"].is_unique
