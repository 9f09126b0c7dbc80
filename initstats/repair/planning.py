"""What there is to repair in a model, and what is left alone and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from initstats.probe.operations import unmeasurable
from initstats.probe.passes import bare
from initstats.repair.layout import Layout, layout_of, rows_of_gates
from initstats.repair.uses import Use, follow, gates
from initstats.repair.weights import (
    Bias,
    Output,
    Weight,
    overlap,
    parametrization_of,
    shares_storage,
)

UNSEEN = "no operation that uses it was seen"


class Plan:
    """The weights of a model that its operations use, in their order.

    Args:
        model, inputs: as `lsuv_`.
        exclude: patterns of modules' or parameters' names.
        frozen: whether parameters that are not trained are changed as well.

    Attributes:
        weights: what can be drawn and scaled.
        reasons: why a parameter (by id) is left, in words that go on after "left because".
        names: all qualified names of each parameter (by id).
        traces: what the last pass left of parameters in the model.
    """

    def __init__(
        self, model: nn.Module, inputs: Any, exclude: str | Iterable[str] | None, frozen: bool
    ) -> None:
        self.model = model
        self.weights: list[Weight] = []
        self.parameters: dict[int, nn.Parameter] = {}
        self.names: dict[int, list[str]] = {}
        self.idents: dict[str, int] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.parameters[id(parameter)] = parameter
            self.idents[bare(name)] = id(parameter)
            self.names.setdefault(id(parameter), []).append(bare(name))
        self.modules = {bare(name): module for name, module in model.named_modules()}
        self.reasons = dict.fromkeys(self.parameters, UNSEEN)
        self._excluded = self._matches(exclude)
        self._frozen = frozen
        self._padding: list[tuple[int, int]] = []
        self.traces = follow(model, inputs, self._meet, self._meet_added)
        for ident, row in self._padding:
            self._keep_row(self.parameters[ident], row)

    def find(self, operand: Tensor, sources: frozenset[int]) -> Weight | None:
        """The weight that an operation uses."""
        for weight in self.weights:
            if weight.computed:
                if sources == {id(parameter) for parameter in weight.parameters}:
                    return weight
            elif overlap(weight.operand, operand):
                return weight
        return None

    def used(self, use: Use) -> Weight | None:
        """The weight that a signal is multiplied with; None where there is none of either."""
        if not use.is_product or use.signal is None or not use.signal.numel():
            return None
        return self.find(use.operand, use.sources)

    @property
    def changed(self) -> list[nn.Parameter]:
        """The parameters that hold something else than before, or may do so."""
        return [parameter for weight in self.weights for parameter in weight.changed]

    @property
    def buffers(self) -> list[Tensor]:
        """The buffers that a parametrization sets together with its parameters."""
        modules = [weight.module for weight in self.weights if weight.module]
        parts = [vars(module)["_modules"]["parametrizations"][name] for module, name in modules]
        return [buffer for part in parts for buffer in part.buffers()]

    def leave_traces(self) -> None:
        """Have what is computed of changed parameters, and stays in the model, follow them."""
        changed = {id(parameter) for parameter in self.changed}
        for buffer, values, sources in self.traces.buffers:
            if sources & changed:
                buffer.copy_(values)
        for module, name, values in self.traces.attributes:
            vars(module)[name] = values

    def outcome(self, name: str) -> str:
        """What became of a parameter."""
        ident = self.idents[name]
        others = [other for other in self.names[ident] if other != name]
        tied = f", tied to {', '.join(others)}" if others else ""
        if any(parameter is self.parameters[ident] for parameter in self.changed):
            return f"done{tied}"
        if weight := self.weight_of(ident):
            return f"left because {weight.name} needs no change of it{tied}"
        return f"left because {self.reasons[ident]}{tied}"

    def weight_of(self, ident: int) -> Weight | None:
        """The weight that a parameter (by id) is part of, or the bias of."""
        for weight in self.weights:
            biases = [bias.parameter for bias in weight.biases]
            if any(id(parameter) == ident for parameter in (*weight.parameters, *biases)):
                return weight
        return None

    def keep_draw(self) -> None:
        """Leave what cannot be scaled."""
        for weight in self.weights:
            for bias in weight.biases:
                self.reasons[id(bias.parameter)] = "only weights are scaled"
            weight.biases = []
            if gates(weight.op):
                reason = f"{weight.op} is not linear in it, so that no scale fits"
                self.reasons |= {id(parameter): reason for parameter in weight.parameters}
        self.weights = [weight for weight in self.weights if not gates(weight.op)]

    def _meet(self, use: Use) -> Any:
        """Take a use into account; the operation's result, if it had to run for that."""
        if (row := _padding_row(use)) is not None and len(use.sources) == 1:
            self._padding.append((next(iter(use.sources)), row))
        if self.find(use.operand, use.sources):
            return None
        reason = self._against(use)
        layout = None if reason else _layout(use)
        if layout is not None:
            self._add(use, layout)
            result = use.run()
            self.weights[-1].outputs.append(Output.of(result))
            return result
        for ident in use.sources:
            unknown = f"{use.op} uses it in a way that is not known"
            self._leave(ident, self._kept(ident) or reason or unknown)
        for _, sources in use.biases:
            for ident in sources:
                self._leave(ident, self._kept(ident) or f"so is the weight that {use.op} uses")
        return None

    def _leave(self, ident: int, reason: str) -> None:
        """Leave a parameter, unless a reason is known."""
        if self.reasons[ident] == UNSEEN:
            self.reasons[ident] = reason

    def _meet_added(self, use: Use) -> None:
        """Take a parameter into account that is added to what a product made."""
        weight = self.find(*use.after) if use.after else None
        if weight is None or use.operand.numel() != weight.layout.channels:
            self._meet(use)
            return
        self._add_bias(weight, use.operand, use.sources)

    def _against(self, use: Use) -> str:
        """Why a use gives no weight to repair; empty where it does."""
        kept = [self.names[ident][0] for ident in use.sources if self._kept(ident)]
        if kept:
            return f"{use.op} uses it together with {kept[0]}, which stays"
        if use.signal is None:
            return f"only parameters reach {use.op}, which uses it"
        if not use.is_product:
            return f"{use.op}, which uses it, sums over no inputs"
        if not use.signal.numel():
            return "no entry of the batch reaches it"
        if use.operand.ndim < 2:
            return f"it is a vector in {use.op}"
        if len(self._bodies(use)) != 1:
            names = ", ".join(self.names[ident][0] for ident in sorted(use.sources))
            return f"{use.op} multiplies by what is computed of {names} together"
        return unmeasurable(use.operand)

    def _kept(self, ident: int) -> str:
        """Why a parameter must stay, whatever uses it; empty where it need not."""
        parameter = self.parameters[ident]
        if set(self.names[ident]) & self._excluded:
            return "it is excluded"
        if not (parameter.requires_grad or self._frozen):
            return "it is frozen (requires_grad is False)"
        if parameter.is_inference():
            return "it was made in inference mode, and cannot be written to"
        return unmeasurable(parameter)

    def _bodies(self, use: Use) -> list[nn.Parameter]:
        """The parameters that could hold the entries of a weight."""
        made_of = [self.parameters[ident] for ident in use.sources]
        if any(shares_storage(parameter, use.operand) for parameter in made_of):
            return made_of
        count = use.operand.numel()
        return [p for p in made_of if p.ndim > 1 and p.numel() == count]

    def _add(self, use: Use, layout: Layout) -> None:
        body = self._bodies(use)[0]
        others = [self.parameters[i] for i in use.sources if self.parameters[i] is not body]
        name = self.names[id(body)][0]
        module = parametrization_of(name, self.modules)
        layer = name.partition(".parametrizations.")[0] if module else name.rpartition(".")[0]
        weight = Weight(layer or name, use.op, use.operand, [body, *others], layout, module)
        self.weights.append(weight)
        taken = {id(bias.parameter) for w in self.weights for bias in w.biases}
        for operand, sources in use.biases:
            if not sources & taken and layout.channels == operand.numel():
                self._add_bias(weight, operand, sources)
                taken |= sources
                if gates(use.op):
                    break  # each matrix of a recurrent layer has a bias of its own

    def _add_bias(self, weight: Weight, operand: Tensor, sources: frozenset[int]) -> None:
        reasons = [self._kept(ident) for ident in sources]
        if len(sources) == 1 and not any(reasons):
            parameter = self.parameters[next(iter(sources))]
            weight.biases.append(Bias(operand.detach(), parameter))
            return
        for ident in sources:
            self.reasons[ident] = max(reasons) or "a bias is computed of several parameters"

    def _keep_row(self, parameter: nn.Parameter, row: int) -> None:
        """Keep a row of a parameter in every weight that shows it."""
        rows = torch.empty_strided(parameter.shape, parameter.stride(), dtype=torch.bool)
        rows.fill_(False)[row] = True
        for weight in self.weights:
            if not weight.computed and overlap(weight.operand, parameter):
                x = weight.operand
                start = x.storage_offset() - parameter.storage_offset()
                weight.fixed = rows.as_strided(x.shape, x.stride(), start).to(x.device)

    def _matches(self, exclude: str | Iterable[str] | None) -> set[str]:
        """The names of parameters that match a pattern, or are inside a module that does."""
        names = [name for names in self.names.values() for name in names]
        root = type(self.model).__name__
        found = set[str]()
        for pattern in [exclude] if isinstance(exclude, str) else exclude or ():
            inside = {n for n in self.modules if fnmatchcase(n or root, pattern)}
            matched = {
                name
                for name in names
                if fnmatchcase(name, pattern)
                or any(not module or name.startswith(f"{module}.") for module in inside)
            }
            if not (inside or matched):
                known = ", ".join([*(name or root for name in self.modules), *names])
                raise ValueError(
                    f"exclude={pattern!r} matches no module and no parameter; there are: {known}"
                )
            found |= matched
        return found


def _layout(use: Use) -> Layout | None:
    if count := gates(use.op):
        # the projection of an LSTM's state has no gates, and fewer rows than what has
        whole = len(use.operand) == max(len(peer) for peer in use.peers)
        return rows_of_gates(use.operand, count if whole else 1)
    layout = layout_of(use.operation, use.operand)
    return layout and replace(layout, blocks=use.blocks)


def _padding_row(use: Use) -> int | None:
    """The row that an embedding keeps for padding."""
    place = {"embedding": 2, "embedding_bag": 8}.get(use.op)
    if place is None:
        return None
    row = use.operation.argument(place, "padding_idx")
    return row if isinstance(row, int) and row >= 0 else None
