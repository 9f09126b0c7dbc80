"""What there is to repair in a model, and what is left alone and why."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from initstats.probe.operations import unmeasurable
from initstats.probe.passes import bare
from initstats.repair import reasons
from initstats.repair.keeping import Kept
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

Patterns = str | Iterable[str]
_LISTED = 30
"""The most names that an error lists."""


class Plan:
    """The weights of a model that its operations use, in their order.

    Args:
        model, inputs: as `lsuv_`.
        kept: the model as it was.
        include, exclude: patterns of modules' or parameters' names.
        frozen: whether parameters that are not trained are changed as well.

    Attributes:
        weights: what can be drawn and scaled.
        reasons: why a parameter (by id) is left, in words that go on after "left because".
        names: all qualified names of each parameter (by id).
        traces: what the last pass left of parameters in the model.
        moved: buffers that followed changed parameters, with the parameters (by id).
        idle: the weights that read what weights of zero make, which stay.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        kept: Kept,
        *,
        include: Patterns | None,
        exclude: Patterns | None,
        frozen: bool,
    ) -> None:
        self.model, self._kept_model = model, kept
        self.moved: list[tuple[Tensor, frozenset[int]]] = []
        self.idle: set[Weight] = set()
        self.weights: list[Weight] = []
        self.parameters: dict[int, nn.Parameter] = {}
        self.names: dict[int, list[str]] = {}
        self.idents: dict[str, int] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.parameters[id(parameter)] = parameter
            self.idents[bare(name)] = id(parameter)
            self.names.setdefault(id(parameter), []).append(bare(name))
        self.modules = {bare(name): module for name, module in model.named_modules()}
        self.reasons = dict.fromkeys(self.parameters, reasons.UNSEEN)
        self._excluded = self._matches("exclude", exclude)
        self._included = self._matches("include", include)
        self._frozen = frozen
        self._padding: list[tuple[int, int]] = []
        self._asides: dict[int, str] = {}
        self._uses = Counter[int]()
        self.traces = follow(model, inputs, self._meet, self._meet_added)
        for ident, reason in self._asides.items():
            self._leave(ident, reason)
        for weight in self.weights:
            weight.uses = self._uses[id(weight.parameters[0])]
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
        return [buffer for weight in self.weights for buffer in self._buffers(weight)]

    def _buffers(self, weight: Weight) -> list[Tensor]:
        """The buffers that the model keeps for a weight."""
        own = {id(parameter) for parameter in weight.parameters}
        found = [buffer for buffer, sources in self.moved if sources & own]
        if weight.module:
            module, name = weight.module
            found += vars(module)["_modules"]["parametrizations"][name].buffers()
        return found

    def leave_traces(self) -> None:
        """Have what is computed of changed parameters, and stays in the model, follow them."""
        changed = {id(parameter) for parameter in self.changed}
        for buffer, values, sources in self.traces.buffers:
            if sources & changed:
                buffer.copy_(values)
        for module, name, values in self.traces.attributes:
            vars(module)[name] = values

    def advance(self) -> bool:
        """Have buffers that a pass computed of changed parameters go on from there; whether any."""
        changed = {id(parameter) for parameter in self.changed}
        found = [(buffer, of) for buffer, _, of in self.traces.buffers if of & changed]
        for buffer, values, of in self.traces.buffers:
            if of & changed:
                buffer.copy_(values)
        self.moved = found
        return bool(found)

    def outcome(self, name: str) -> str:
        """What became of a parameter."""
        ident = self.idents[name]
        others = [other for other in self.names[ident] if other != name]
        tied = f", tied to {', '.join(others)}" if others else ""
        weight = self.weight_of(ident)
        if any(parameter is self.parameters[ident] for parameter in self.changed):
            assert weight is not None
            return f"{self._done(weight, self.parameters[ident])}{tied}"
        if weight:
            return f"left because {reasons.unneeded(weight.name)}{tied}"
        return f"left because {self.reasons[ident]}{tied}"

    def _done(self, weight: Weight, parameter: nn.Parameter) -> str:
        """What was done to a parameter of a weight, or to its bias."""
        if any(parameter is bias.parameter for bias in weight.biases):
            return "done"
        rest = f"{reasons.held(weight.held)}{self._followed(weight)}"
        if weight.unscaled:
            return f"drawn, not scaled because {weight.unscaled}{rest}"
        near = ", as near as the model's own computation of it allows" if weight.nearly else ""
        factor = weight.factor
        times = f", as what follows multiplies it by {factor:.4g} first" if factor > 1 else ""
        return f"done{near}{times}{rest}"

    def _followed(self, weight: Weight) -> str:
        """The buffers that hold something else now, as the model keeps them for a weight."""
        own = {id(buffer) for buffer in self._buffers(weight)} & self._kept_model.moved()
        names = [name for name, buffer in self.model.named_buffers() if id(buffer) in own]
        verb = "follow" if len(names) > 1 else "follows"
        return f"; {', '.join(map(bare, names))} {verb} it" if names else ""

    def weight_of(self, ident: int) -> Weight | None:
        """The weight that a parameter (by id) is part of, or the bias of."""
        for weight in self.weights:
            biases = [bias.parameter for bias in weight.biases]
            if any(id(parameter) == ident for parameter in (*weight.parameters, *biases)):
                return weight
        return None

    def keep_draw(self) -> None:
        """Leave what cannot be scaled."""
        for weight in [*self.weights]:
            for bias in weight.biases:
                self.reasons[id(bias.parameter)] = reasons.ONLY_WEIGHTS
            weight.biases = []
            if gates(weight.op):
                self.leave(weight, reasons.curved(weight.op))

    def leave(self, weight: Weight, reason: str) -> None:
        """Leave a weight, and its biases, as they were."""
        self.weights.remove(weight)
        for bias in weight.biases:
            self.reasons[id(bias.parameter)] = reasons.follows(weight.op)
        for parameter in weight.parameters:
            self.reasons[id(parameter)] = reason
        self._kept_model.put_back([*self.changed, *self.buffers])

    def included(self, weight: Weight) -> bool:
        """Whether a weight is to be drawn, however deliberate it looks."""
        names = {name for p in weight.parameters for name in self.names[id(p)]}
        return bool(names & self._included)

    def _meet(self, use: Use) -> Any:
        """Take a use into account; the operation's result, if it had to run for that."""
        if (row := _padding_row(use)) is not None and len(use.sources) == 1:
            self._padding.append((next(iter(use.sources)), row))
        if use.signal is not None:
            self._uses.update(use.sources)
        if weight := self.find(use.operand, use.sources):
            self._add_biases(weight, use)
            return None
        reason = self._against(use)
        layout = None if reason else _layout(use)
        if layout is not None:
            self._add(use, layout)
            result = use.run()
            self.weights[-1].outputs.append(Output.of(result))
            return result
        for ident in use.sources:
            why = self._kept(ident) or reason or reasons.unknown(use.op)
            if use.signal is None:
                self._asides[ident] = why  # such as asking for its shape
            else:
                self._leave(ident, why)
        for _, sources in use.biases:
            for ident in sources:
                self._leave(ident, self._kept(ident) or reasons.follows(use.op))
        return None

    def _leave(self, ident: int, reason: str) -> None:
        """Leave a parameter, unless a reason is known."""
        if self.reasons[ident] == reasons.UNSEEN:
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
            return reasons.beside(use.op, kept[0])
        if use.signal is None:
            return reasons.parametric(use.op)
        if not use.is_product:
            return reasons.looks_up(use.op)
        if not use.signal.numel():
            return reasons.UNREACHED
        if use.operand.ndim < 2:
            return reasons.vector(use.op)
        if len(self._bodies(use)) != 1:
            return reasons.together(use.op, (self.names[i][0] for i in sorted(use.sources)))
        return unmeasurable(use.operand)

    def _kept(self, ident: int) -> str:
        """Why a parameter must stay, whatever uses it; empty where it need not."""
        parameter = self.parameters[ident]
        if set(self.names[ident]) & self._excluded:
            return reasons.EXCLUDED
        if not (parameter.requires_grad or self._frozen):
            return reasons.FROZEN
        if parameter.is_inference():
            return reasons.INFERENCE
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
        self._add_biases(weight, use)

    def _add_biases(self, weight: Weight, use: Use) -> None:
        """Take what a use of a weight adds to its output as biases of that weight."""
        taken = {id(bias.parameter) for w in self.weights for bias in w.biases}
        for operand, sources in use.biases:
            if not sources & taken and weight.layout.channels == operand.numel():
                self._add_bias(weight, operand, sources)
                taken |= sources
                if gates(use.op):
                    break  # each matrix of a recurrent layer has a bias of its own

    def _add_bias(self, weight: Weight, operand: Tensor, sources: frozenset[int]) -> None:
        against = [self._kept(ident) for ident in sources]
        if len(sources) == 1 and not any(against):
            parameter = self.parameters[next(iter(sources))]
            weight.biases.append(Bias(operand.detach(), parameter))
            return
        for ident in sources:
            self.reasons[ident] = max(against) or reasons.SEVERAL

    def _keep_row(self, parameter: nn.Parameter, row: int) -> None:
        """Keep a row of a parameter in every weight that shows it."""
        rows = torch.empty_strided(parameter.shape, parameter.stride(), dtype=torch.bool)
        rows.fill_(False)[row] = True
        for weight in self.weights:
            if not weight.computed and overlap(weight.operand, parameter):
                x = weight.operand
                start = x.storage_offset() - parameter.storage_offset()
                weight.fixed = rows.as_strided(x.shape, x.stride(), start).to(x.device)

    def _matches(self, argument: str, patterns: Patterns | None) -> set[str]:
        """The names of parameters that match a pattern, or are inside a module that does."""
        names = [name for names in self.names.values() for name in names]
        root = type(self.model).__name__
        found = set[str]()
        for pattern in [patterns] if isinstance(patterns, str) else patterns or ():
            if not isinstance(pattern, str):
                given = f"{argument}={pattern!r}"
                raise TypeError(f"{given}: patterns of names are expected, as in {argument}='head'")
            inside = {n for n in self.modules if fnmatchcase(n or root, pattern)}
            matched = {
                name
                for name in names
                if fnmatchcase(name, pattern)
                or any(not module or name.startswith(f"{module}.") for module in inside)
            }
            if not (inside or matched):
                known = [*(name or root for name in self.modules), *names]
                raise ValueError(_no_match(f"{argument}={pattern!r}", pattern, known))
            found |= matched
        return found


def _no_match(given: str, pattern: str, known: list[str]) -> str:
    """The words for a pattern that matches nothing, with the nearest name."""
    near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ";"
    listed = difflib.get_close_matches(pattern, known, n=_LISTED, cutoff=0.0)
    some = "the nearest are" if len(known) > _LISTED else "there are"
    names = ", ".join(name for name in known if name in listed)
    return f"{given} matches no module and no parameter{hint} {some}: {names}"


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
