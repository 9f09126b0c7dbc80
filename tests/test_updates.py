"""Faults of a training: weights that are not trained, and learning rates that do not fit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from initstats.diagnosis import RULES, Findings, diagnose
from initstats.diagnosis.rules.rule import SLOWER
from initstats.probe import Probe, measure

WIDTH, SAMPLES = 32, 64
TRAINING = [name for name, rule in RULES.items() if rule.whole]


def drawn(i: int, o: int) -> nn.Linear:
    layer = nn.Linear(i, o)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / i))
    nn.init.zeros_(layer.bias)
    return layer


def dense(depth: int = 4, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers = [m for _ in range(depth - 1) for m in (drawn(WIDTH, WIDTH), act())]
    return nn.Sequential(*layers, drawn(WIDTH, 10))


def batch(seed: int = 0) -> Tensor:
    return torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed))


def loss_of(y: Tensor) -> Tensor:
    return F.cross_entropy(y, torch.arange(SAMPLES) % 10)


Optimizer = Callable[[Any], torch.optim.Optimizer]


def sgd(rate: float, **options: Any) -> Optimizer:
    return lambda parameters: torch.optim.SGD(parameters, rate, **options)


def adam(rate: float) -> Optimizer:
    return lambda parameters: torch.optim.Adam(parameters, rate)


def train(
    model: nn.Module,
    optimizer: Optimizer | None = None,
    steps: int = 4,
    *,
    trained: Any = None,
    rates: Callable[[int], float] | None = None,
    x: Callable[[int], Any] = batch,
    every: int = 1,
    factor: float = 1.0,
    clip: float = math.inf,
) -> Findings:
    chosen = (optimizer or sgd(0.01))(model.parameters() if trained is None else trained)
    schedule = torch.optim.lr_scheduler.LambdaLR(chosen, rates or (lambda step: 1.0))
    with Probe(model, backward=True, every=every) as probe:
        for step in range(steps):
            chosen.zero_grad()
            (factor * loss_of(model(x(step)))).backward()  # type: ignore[no-untyped-call]
            if clip < math.inf:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            chosen.step()
            schedule.step()
    return diagnose(probe.table())


def told(found: Findings, severity: str = "warning") -> dict[str, Any]:
    """What the rules about trainings found, of a severity or graver, by their names."""
    rows = found[(found["severity"] <= severity) & found["rule"].isin(TRAINING)]
    return {str(row.rule): row for row in rows.itertuples()}


# weights without a gradient


class Halves(nn.Module):
    """Two networks, one behind the other, and what is between them."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.between = dense(2), drawn(10, 10), between

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.between(self.first, x))
        return out


@torch.no_grad()
def without_gradients(first: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = first(x)
    return out


def detached_weight(first: Any, x: Tensor) -> Tensor:
    return F.linear(first[1](first[0](x)), first[2].weight.detach(), first[2].bias)


BEHIND = "second (linear), which reads first.2"
CUTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str, str]] = {
    "detach": (lambda f, x: f(x).detach(), BEHIND, "detach(), .data"),
    "data": (lambda f, x: f(x).data, BEHIND, "detach(), .data"),
    "detach, and more": (
        lambda f, x: f(x).detach().tanh() + 1,
        "(tanh) reads first.2 (linear)",
        "between first.2 (linear) and Halves (tanh): detach(), .data",
    ),
    "no_grad": (
        without_gradients,
        "first.2 (linear) was made while gradients were off",
        "run first.2 (linear) and what comes before it outside of torch.no_grad()",
    ),
    "no_grad, and more": (
        lambda f, x: without_gradients(f, x).tanh(),
        "first.2 (linear) was made while gradients were off",
        "run first.2 (linear) and what comes before it outside of torch.no_grad()",
    ),
    "parameters": (
        lambda f, x: functional_call(f, {n: p.data for n, p in f.named_parameters()}, x),
        "that was made of no parameters",
        "use the parameters themselves",
    ),
    "numpy": (
        lambda f, x: torch.from_numpy(f(x).detach().numpy()),
        "the loss does not depend on what they make",
        "numpy()",
    ),
    "inside": (lambda f, x: f[2](f[1](f[0](x)).detach()), "first.2 (linear), which reads", ""),
}


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", CUTS)
def test_a_half_that_gets_no_gradient(name: str, steps: int) -> None:
    torch.manual_seed(0)
    between, evidence, remedy = CUTS[name]
    model = Halves(between)
    found = train(model, steps=steps) if steps else diagnose(measure(model, batch(), backward=True))
    row = told(found)["weights_without_gradient"]
    assert row.severity == "warning"
    assert row.where.startswith("first.0.weight, first.0.bias")
    assert evidence in row.evidence
    assert remedy in row.remedy
    assert ("no_grad" in row.remedy) == name.startswith("no_grad")  # one cause
    assert row.remedy.endswith("model.get_parameter(name).requires_grad_(False)")


def test_a_weight_that_is_detached_itself() -> None:
    row = told(train(Halves(detached_weight)))["weights_without_gradient"]
    assert "hands none on to the weights" in row.evidence


def test_frozen_weights_are_noted() -> None:
    model = dense()
    model[2].requires_grad_(False)
    found = train(model, trained=[p for p in model.parameters() if p.requires_grad])
    assert not told(found)
    row = told(found, "note")["weights_without_gradient"]
    assert (row.severity, row.where) == ("note", "2.weight, 2.bias")
    assert row.evidence.startswith("2 of 8 parameters are frozen")


class Pooled(nn.Module):
    """A head beside the one that the loss reads, as encoders of transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.pooler = dense(3), drawn(10, 10), drawn(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        self.pooler(h)
        out: Tensor = self.head(h)
        return out


def test_an_output_that_the_loss_leaves_out_is_noted() -> None:
    found = train(Pooled())
    assert not told(found)
    row = told(found, "note")["weights_without_gradient"]
    assert row.where == "pooler.weight, pooler.bias"


class Averaged(nn.Module):
    """A teacher that follows by averages, without gradients, and whose answers are compared."""

    def __init__(self, *, follows: bool) -> None:
        super().__init__()
        self.student, self.follows = dense(2), follows
        self.teacher = copy.deepcopy(self.student)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            for p, q in pairs if self.follows else ():
                p.lerp_(q, 0.1)
            aim = self.teacher(x)
        out: Tensor = self.student(x) - aim
        return out


def test_averages_of_other_weights_are_left_alone() -> None:
    """They move without gradients; those that never move are told once there was an update."""
    assert not told(diagnose(measure(Averaged(follows=False), batch(), backward=True)))
    assert not told(train(Averaged(follows=True), sgd(0.1)))
    assert "weights_without_gradient" in told(train(Averaged(follows=False), sgd(0.1)))


# weights that do not move


def test_what_the_optimizer_does_not_have() -> None:
    model = dense()
    found = told(train(model, trained=[*model.parameters()][:4]))
    assert [*found] == ["weights_without_update"]
    row = found["weights_without_update"]
    assert row.where == "4.weight, 4.bias, 6.weight, 6.bias"
    assert "never move in 3 updates, while 4 others do" in row.evidence
    assert not told(train(model, steps=2, trained=[*model.parameters()][:4]))  # one update


def test_a_layer_that_was_made_after_the_optimizer() -> None:
    model = dense().eval()  # no copies tell the sizes of updates
    before = [*model.parameters()]
    model[4] = drawn(WIDTH, WIDTH)
    assert told(train(model, adam(1e-3), trained=before))["weights_without_update"].where == (
        "4.weight, 4.bias"
    )


def test_updates_that_rounding_takes_away_are_noted() -> None:
    model = nn.Sequential(dense(3), nn.LayerNorm(10)).bfloat16()
    found = train(model, adam(2e-5), x=lambda step: batch(step).bfloat16())
    assert "weights_without_update" not in told(found)
    row = told(found, "note")["weights_without_update"]
    assert "1.weight" in row.where
    assert "float32" in row.remedy


# learning rates


@pytest.mark.parametrize("optimizer", [sgd(1e-10), adam(1e-11), sgd(0.0)])
def test_a_rate_that_moves_nothing(optimizer: Optimizer) -> None:
    torch.manual_seed(0)
    row = told(train(dense(), optimizer, 5))["small_updates"]
    assert "4 updates" in row.evidence
    assert "learning rate" in row.remedy


@pytest.mark.parametrize(("factor", "clip"), [(1e-8, math.inf), (1.0, 1e-6), (1.0, 1.0)])
def test_gradients_that_move_nothing(factor: float, clip: float) -> None:
    torch.manual_seed(0)
    found = told(train(dense(), sgd(0.01), 5, factor=factor, clip=clip))
    if min(factor, clip) >= 1:
        assert not found
    else:
        assert "clipping" in found["small_updates"].remedy


@pytest.mark.parametrize("factor", [1.0, 1e-3])
def test_a_network_that_has_converged_is_not_accused(factor: float) -> None:
    """It has the least squares' solution, and gradients that only rounding leaves."""
    torch.manual_seed(0)
    x, y, model = batch().double(), torch.randn(SAMPLES, 4), nn.Linear(WIDTH, 4)
    ones = torch.cat([x, torch.ones(SAMPLES, 1)], 1)
    solution = torch.linalg.lstsq(ones, y.double()).solution.T.float()
    model.weight.data, model.bias.data = solution[:, :-1].clone(), solution[:, -1].clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with Probe(model, backward=True) as probe:
        for _ in range(5):
            optimizer.zero_grad()
            (factor * (model(x.float()) - y).square().mean()).backward()
            optimizer.step()
    found = diagnose(probe)
    assert not told(found), str(found)
    assert "if the network has converged" in told(found, "note")["small_updates"].remedy


def test_the_remedy_of_a_small_rate_helps() -> None:
    torch.manual_seed(0)
    row = told(train(dense(), sgd(1e-10)))["small_updates"]
    factor = float(row.remedy.rpartition(" ")[2])
    assert not told(train(dense(), sgd(1e-10 * factor)))


TOO_LARGE: dict[str, tuple[Callable[[], nn.Module], Callable[[float], Optimizer], float]] = {
    "sgd": (dense, sgd, 100.0),
    "momentum": (dense, lambda rate: sgd(rate, momentum=0.9), 30.0),
    "nan at once": (dense, sgd, 1e30),
    "nan later": (dense, sgd, 1e4),
    "adam": (dense, adam, 3.0),
    "tanh": (lambda: dense(4, nn.Tanh), sgd, 300.0),
    "shallow": (lambda: nn.Sequential(drawn(WIDTH, 10)), sgd, 1e4),
    "normalized": (lambda: nn.Sequential(nn.LayerNorm(WIDTH), dense(3)), adam, 3.0),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_rate_that_breaks_what_was_sound(name: str) -> None:
    """It is the cause that is told, and no rule advises another initialization."""
    torch.manual_seed(0)
    build, optimizer, rate = TOO_LARGE[name]
    start = build()
    found = train(copy.deepcopy(start), optimizer(rate), 5)
    row = told(found)["large_updates"]
    assert "sound at step 0. The update before step 1" in row.evidence
    assert "not the initialization" in row.evidence
    grave = found[found["severity"] <= "warning"]
    assert grave["rule"].iloc[0] == "large_updates"
    for word in ("lsuv_", "reinitialize_", "nn.init", "mul_", "divide by zero", "derivative"):
        assert not grave["remedy"].str.contains(word, regex=False).any(), str(grave)
    assert not grave["remedy"].str.startswith(SLOWER).any()
    same = found["remedy"][found["remedy"].str.startswith("the same as for ")]
    assert set(same) <= {"the same as for large_updates"}
    factor = float(row.remedy.split("start again with ")[1].split(" ")[0])
    again = train(copy.deepcopy(start), optimizer(rate * factor), 5)
    assert "large_updates" not in told(again), str(again)


def test_a_sick_start_is_the_fault_of_the_initialization() -> None:
    torch.manual_seed(0)
    model = dense(16)
    for layer in [*model][::2]:
        layer.weight.data.mul_(1.8)
    found = train(model, sgd(0.1))
    assert "large_updates" not in told(found)
    remedies = found[found["severity"] <= "warning"].set_index("rule")["remedy"]
    assert "reinitialize_" in str(remedies["signal"])
    assert not remedies.str.contains("not the initialization").any()


def test_raw_inputs_are_named() -> None:
    row = told(train(dense(), sgd(0.5), x=lambda step: 255 * batch(step).abs()))["large_updates"]
    assert row.remedy.startswith("normalize the input, whose rms is 2")


# healthy trainings


class Case(NamedTuple):
    model: nn.Module
    optimizer: Optimizer = adam(1e-3)
    steps: int = 5
    rates: Callable[[int], float] | None = None


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = dense(2).requires_grad_(False)
        self.a, self.b = nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, 10, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.b(self.a(x))
        return out


class Chosen(nn.Module):
    """Experts of which each batch takes one."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.head, self.turn = (
            nn.ModuleList(dense(2) for _ in "123"),
            drawn(10, 10),
            0,
        )

    def forward(self, x: Tensor) -> Tensor:
        self.turn += 1
        out: Tensor = self.head(self.experts[self.turn % 2](x))
        return out


class Words(nn.Module):
    """A few rows of a table a batch, which is the output's table too."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(500, 10, sparse=sparse), dense(2)
        self.mix = drawn(10, WIDTH)
        if not sparse:
            self.out = nn.Linear(10, 500, bias=False)
            self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(self.mix(self.table((50 * x[:, 0].abs()).long() % 500)))
        out: Tensor = self.out(h) if hasattr(self, "out") else h
        return out


def zero_head() -> nn.Sequential:
    model = dense()
    nn.init.zeros_(model.get_parameter("6.weight"))
    return model


def warmed(step: int) -> float:
    return step / 100


HEALTHY: dict[str, Callable[[], Case]] = {
    "sgd": lambda: Case(dense(), sgd(0.1)),
    "momentum": lambda: Case(dense(), sgd(0.01, momentum=0.9)),
    "adam": lambda: Case(dense()),
    "fine tuning": lambda: Case(dense(), lambda p: torch.optim.AdamW(p, 1e-5)),
    "warm-up": lambda: Case(dense(), rates=warmed),
    "warm-up of a tiny rate": lambda: Case(dense(), sgd(1e-6), 8, warmed),
    "one update of nothing": lambda: Case(dense(), sgd(0.1), 2, lambda step: 0.0),
    "cosine": lambda: Case(dense(), sgd(0.1), 10, lambda s: 0.5 + 0.5 * math.cos(math.pi * s / 9)),
    "end of a schedule": lambda: Case(dense(), sgd(1e-6), 8, lambda step: (8 - step) ** 2 / 100),
    "zero head": lambda: Case(zero_head(), sgd(0.1)),
    "lora": lambda: Case(Lora()),
    "experts": lambda: Case(Chosen()),
    "tied words": lambda: Case(Words(sparse=False)),
    "rows of words": lambda: Case(Words(sparse=True), sgd(0.1)),
    "weight norm": lambda: Case(nn.Sequential(weight_norm(drawn(WIDTH, WIDTH)), dense(2))),
    "norms": lambda: Case(nn.Sequential(drawn(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), dense(2))),
    "in evaluation mode": lambda: Case(dense().eval()),
    "scalar": lambda: Case(nn.Sequential(dense(2), nn.PReLU())),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_silence_on_healthy_trainings(name: str) -> None:
    torch.manual_seed(0)
    case = HEALTHY[name]()
    trained = [p for p in case.model.parameters() if p.requires_grad]
    found = train(case.model, case.optimizer, case.steps, trained=trained, rates=case.rates)
    assert not told(found), str(found)


def passes(model: nn.Module, *parts: Any) -> Iterator[tuple[int, Any]]:
    """Steps of several optimizers in turn, each with the loss of one of the outputs."""
    optimizers = [torch.optim.Adam(part.parameters(), 1e-3) for part in parts]
    for step in range(6):
        optimizer = optimizers[step % len(parts)]
        optimizer.zero_grad()
        yield step, optimizer
        optimizer.step()


@pytest.mark.parametrize("every", [1, 2])
def test_optimizers_that_take_turns(every: int) -> None:
    """The judge sees detached samples, then the maker learns by its gradients."""
    model = nn.ModuleDict({"maker": dense(2), "judge": drawn(10, 1)})

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor, *, judging: bool) -> Tensor:
            made = self.parts["maker"](x)
            out: Tensor = self.parts["judge"](made.detach() if judging else made)
            return out

    both = Both()
    with Probe(both, backward=True, every=every) as probe:
        for step, _ in passes(both, model["judge"], model["maker"]):
            both(batch(step), judging=step % 2 == 0).square().mean().backward()
    found = told(diagnose(probe.table()))
    assert "weights_without_update" not in found
    assert "weights_without_gradient" not in found or every == 2


def test_accumulation_evaluation_and_skipped_updates() -> None:
    model = dense()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=10**6)
    with Probe(model, backward=True) as probe:
        for step in range(5):
            optimizer.zero_grad()
            for part in range(2):
                loss = loss_of(model(batch(2 * step + part))) * (math.inf if step == 2 else 1)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                model.eval()(batch(step))
            model.train()
    assert not told(diagnose(probe.table()))


def test_a_single_backward_has_no_updates() -> None:
    found = diagnose(measure(dense(), batch(), backward=True)).set_index("rule")
    assert found["severity"]["weights_without_gradient"] == "healthy"
    for rule in ("weights_without_update", "small_updates", "large_updates"):
        assert found["severity"][rule] == "unchecked"
        assert "of the weights was" in found["evidence"][rule].replace("were", "was")


@pytest.mark.parametrize("parts", [1, 2])
def test_rows_of_zero_weights_that_learn_are_not_dead(parts: int) -> None:
    """Half the rows are zero, as where only the other half got a gradient yet."""

    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = drawn(WIDTH, 20), drawn(20 // parts, 10)
            nn.init.zeros_(self.layer.weight[:10])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(sum(self.layer(x).chunk(parts, -1)))
            return out

    found = diagnose(measure(Chunked(), batch(), backward=True))
    assert found.set_index("rule")["severity"]["dead_units"] == "healthy", str(found)


def test_the_law_of_weights_is_judged_before_any_update() -> None:
    model = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.Tanh(), drawn(4 * WIDTH, 10))
    nn.init.orthogonal_(model.get_parameter("0.weight"))  # gain 1 over fan_out, exactly
    found = train(model, sgd(0.01, momentum=0.9), 6).set_index("rule")
    assert found["severity"]["fan_mode"] == "healthy"


class Gated(nn.Module):
    """A condition that is added inside of a branch; branch and output start at `scale`."""

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        self.condition, self.a, self.b = dense(2), drawn(WIDTH, 10), drawn(10, WIDTH)
        self.out = drawn(WIDTH, 10)
        for layer in (self.b, self.out):
            layer.weight.data.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(x + self.b(F.relu(self.a(x) + self.condition(x))))
        return y


def headed(scale: float, gain: float = 1.0, bias: float = 0.0) -> nn.Sequential:
    """A network of seven maps whose last starts at `scale`, and the others at `gain`."""
    model = dense(7)
    for layer in [*model][::2]:
        layer.weight.data.mul_(gain)
    model.get_parameter("12.weight").data.mul_(scale)
    nn.init.constant_(model.get_parameter("12.bias"), bias)
    return model


BEGUN: dict[str, tuple[str, Callable[[], nn.Module], Optimizer]] = {
    "a branch and the output of zero": ("", Gated, adam(1e-4)),
    "a branch and the output near zero": ("", lambda: Gated(1e-4), adam(1e-4)),
    "the output of zero": ("", lambda: headed(0.0), adam(1e-4)),
    "the output of zero, by gradients": ("", lambda: headed(0.0), sgd(0.01)),
    "odds of 1%": ("", lambda: headed(0.1, 1.0, -4.6), adam(1e-4)),
    "weights behind it too small": ("signal gradient", lambda: headed(0.0, 0.4), adam(1e-4)),
    "weights behind it too large": ("signal gradient", lambda: headed(0.0, 2.2), adam(1e-4)),
}


@pytest.mark.parametrize("name", BEGUN)
def test_weights_that_begin_at_zero_are_not_accused_of_it(name: str) -> None:
    torch.manual_seed(0)
    expected, build, optimizer = BEGUN[name]
    found = train(build(), optimizer, 4)
    assert {*found["rule"][found["severity"] <= "warning"]} == {*expected.split()}, str(found)


@pytest.mark.parametrize("copied", [False, True])
def test_one_update_of_zero_weights_makes_no_copies(copied: bool) -> None:
    """Two units get the same first update of Adam; those behind equal weights stay the same."""
    torch.manual_seed(0)
    model = nn.Sequential(*[*dense(3)][:-1], drawn(WIDTH, 2))
    nn.init.zeros_(model.get_parameter("4.weight"))
    if copied:
        nn.init.constant_(model.get_parameter("2.weight"), 0.1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    with Probe(model, backward=True) as probe:
        for step in range(3):
            optimizer.zero_grad()
            y = model(batch(step).abs())
            (y - y.new_tensor([1.0, 2.0])).square().mean().backward()
            optimizer.step()
    rows = diagnose(probe).query("rule == 'equal_units'")
    assert [*rows["where"]] == (["2"] if copied else [""])
    assert [*rows["severity"]] == ["warning" if copied else "healthy"]
