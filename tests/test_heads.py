"""The last maps on the way to an output may be small, whatever is made of their units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initstats as ist


def orthogonal(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def trunk(outputs: int, last: float) -> nn.Sequential:
    first, second = orthogonal(8, 64, 2**0.5), orthogonal(64, 64, 2**0.5)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), orthogonal(64, outputs, last))


class ActorCritic(nn.Module):
    """Networks of PPO (Schulman et al. 2017) as they are usually initialized."""

    def __init__(self, end: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.actor, self.critic, self.end = trunk(4, 0.01), trunk(1, 1.0), end
        self.logstd = nn.Parameter(torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Any:
        return self.end(self.actor(x), self.logstd.exp(), self.critic(x))


ENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "scaled": lambda a, std, v: (a * std, v),
    "beside": lambda a, std, v: (a, std, v),
    "distribution": lambda a, std, v: (torch.distributions.Normal(a, std), v),
    "independent": lambda a, std, v: torch.distributions.Independent(
        torch.distributions.Normal(a, std + 0 * v), 1
    ),
    "mapping": lambda a, std, v: {"mean": a * std, "value": v},
    "squashed": lambda a, std, v: (torch.tanh(a), std, v),
    "chunk": lambda a, std, v: (*a.chunk(2, -1), std, v),
    "halved": lambda a, std, v: (0.5 * a, std, v),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_small_head_is_no_fault(end: str) -> None:
    torch.manual_seed(0)
    ist.assert_healthy(ActorCritic(ENDS[end]), torch.randn(32, 8))


class Followed(nn.Module):
    """A small map whose output another one reads, or that is multiplied with another output."""

    def __init__(self, *, product: bool) -> None:
        super().__init__()
        self.first, self.second = trunk(8, 0.01), trunk(8, 0.01 if product else 1.0)
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        y = 0.5 * self.first(x)
        out: Tensor = y @ self.second(x).T if self.product else self.second(y)
        return out


@pytest.mark.parametrize("product", [False, True])
def test_a_small_map_within_is_a_fault(product: bool) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=r"scale_jump at .*first\.4"):
        ist.assert_healthy(Followed(product=product), torch.randn(32, 8))
