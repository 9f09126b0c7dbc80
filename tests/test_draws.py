"""Numbers that are drawn aside are not those that users draw after `torch.manual_seed`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats.draws import generator_for, seed_for
from initstats.probe.objective import loss_of
from initstats.schemes.inputs import candidates

SEEDS = range(12)


def users(*shape: int) -> list[Tensor]:
    """What the first draw after a plain seed gives."""
    return [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]


def alike(x: Tensor, others: list[Tensor]) -> float:
    """The largest correlation with one of them."""
    return max(
        abs(float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1])) for y in others
    )


class Returned(nn.Module):
    """What it is given, kept with the gradient that comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.sent: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.scale
        y.register_hook(self.sent.append)  # type: ignore[no-untyped-call]
        return y


def test_the_gradient_that_is_sent_back_is_nobodys_input() -> None:
    for x in users(40, 50):
        model = Returned()
        ist.measure(model, x, backward=True)
        (sent,) = model.sent
        assert float(sent.std()) == pytest.approx(1, abs=0.1)
        assert alike(sent, users(40, 50)) < 0.1  # 4.5 standard errors


def test_theory_sends_the_same_gradient() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(64, 64), nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    measured = ist.measure(model, x, backward=True)
    predicted = ist.predict_model(model, x, backward=True)
    keys = ["layer", "name", "op", "tensor", "direction"]
    both = predicted.merge(measured, on=keys, suffixes=("", "_measured"))
    both = both[(both["direction"] == "backward") & (both["tensor"] != "weight")]
    last = both.sort_values("layer").tail(1)  # its gradient is what is sent
    found, expected = last["second_moment"].item(), last["second_moment_measured"].item()
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_target_is_nobodys_output() -> None:
    for x in users(40, 50):  # (x - y)^2 has the mean 2
        assert loss_of(x.requires_grad_(), None).item() == pytest.approx(2, abs=0.2)


def test_weights_of_a_coordinate_check_are_nobodys_input() -> None:
    drawn = []

    def factory(n: int) -> nn.Module:
        model = nn.Linear(50, n)
        nn.init.normal_(model.weight)
        drawn.append(model.weight.detach().clone())
        return model

    ist.coordinate_check(factory, (40, 80), x=users(40, 50)[0], seeds=3)
    for weight in drawn:
        assert alike(weight[:40], users(40, 50)) < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_of_a_repair_are_nobodys_input(seed: int) -> None:
    model = nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 40))
    ist.reinitialize_(model, "lecun_normal", users(40, 50)[0], seed=seed)
    first: Any = model[0]
    assert alike(first.weight.detach(), users(40, 50)) < 0.1


def test_inputs_that_are_made_up_are_nobodys_weights() -> None:
    for x in candidates(nn.Linear(500, 300)):
        assert isinstance(x, tuple) or not x.is_floating_point() or alike(x, users(*x.shape)) < 0.2


def test_purposes_and_seeds_have_draws_of_their_own() -> None:
    assert len({seed_for(seed, name) for seed in SEEDS for name in ("a", "b")}) == 24
    assert torch.equal(
        torch.rand(3, generator=generator_for(1, "a")),
        torch.rand(3, generator=generator_for(1, "a")),
    )
