"""Zeros that stay: weights of 0 that get no gradient, whatever other zeros become."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from initstats.probe.batch import called
from initstats.probe.objective import loss_of


def stuck(model: nn.Module, x: Any, names: Iterable[str]) -> frozenset[str]:
    """Which of a model's weights, all of them 0, get no gradient; in a copy of the model.

    A last layer of zeros hides the gradient of all others until its first step. So those that get
    one are drawn, and the others are asked again.

    Args:
        names: of the weights.
    """
    waiting = {*names}
    if not waiting:
        return frozenset()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(0)
        own, x = copy.deepcopy(model), copy.deepcopy(x)
        for parameter in own.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        while waiting:
            own.zero_grad()
            try:
                loss_of(called(own, x), None).backward()  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError):  # it cannot be trained, or not on this input
                return frozenset()
            gradients = {name: own.get_parameter(name).grad for name in waiting}
            used = {name: grad for name, grad in gradients.items() if grad is not None}
            moving = {name for name, grad in used.items() if bool(grad.any())}
            if not moving:
                return frozenset(used)
            for name in moving:
                weight = own.get_parameter(name)
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
            waiting -= moving
    return frozenset()
