"""What a model was initialized with, read from its parameters, without data."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from initstats.audits.comparing import Comparison
from initstats.audits.computed import computed, independent
from initstats.audits.consequences import consequences
from initstats.audits.law import CHANCE
from initstats.audits.lock import written
from initstats.audits.parameter import Drawn, drawn
from initstats.audits.reading import Reading
from initstats.audits.rules import OF_SCALE, RULES
from initstats.audits.scale import Formula, depth, explained, fitting, told
from initstats.audits.siblings import Siblings, copies, siblings
from initstats.audits.words import COMPUTED, named_in, sentence
from initstats.diagnosis.findings import COLUMNS, SEVERITIES, Findings
from initstats.diagnosis.rules import Finding
from initstats.plural import counted
from initstats.schemes import Prescription
from initstats.schemes.anatomy import on_meta

if TYPE_CHECKING:
    from initstats.report.page import Files

LEVEL = 1e-4
"""Probability of an alarm about a model that is all as it was meant, at most."""
_TESTS = 5
"""Questions of chance about each parameter: law, scale, mean, kin, and what is expected."""


@dataclass(frozen=True)
class Audit:
    """A model's initialization.

    Attributes:
        network: class of the model.
        parameters: as they were found, in the model's order.
        groups: the same by siblings: one parameter in all blocks.
        formulas: of the scales, by the names of parameters.
        findings: what is wrong, as `diagnose` has it.
        level: probability of a false alarm about the whole model.
        computed: names of the parameters that follow a formula, and were not drawn.
    """

    network: str
    parameters: tuple[Drawn, ...] = field(repr=False)
    groups: tuple[Siblings, ...] = field(repr=False)
    formulas: dict[str, Formula] = field(repr=False)
    findings: Findings = field(repr=False)
    level: float = LEVEL
    computed: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each parameter.

        Columns: `name`; `role`, the name with a * for each number; `module`; `kind`; `shape`;
        `dtype`; `count` of entries; `law`; `mean`; `std`, about 0 unless the mean differs from it;
        `std_error`; `fan_in`, `fan_out`; `formula` of the std, empty where none fits, with its
        value in `expected_std`; `tied` to which names; `trained`.
        """
        return pd.DataFrame([self._row(each) for each in self.parameters])

    def _row(self, each: Drawn) -> dict[str, Any]:
        chance = each.by_chance and each.name not in self.computed
        formula = self.formulas.get(each.name) if each.name not in self.computed else None
        return {
            "name": each.name,
            "role": each.role,
            "module": each.module,
            "kind": each.kind,
            "shape": "x".join(map(str, each.shape)),
            "dtype": each.dtype,
            "count": each.count,
            "law": str(COMPUTED if each.name in self.computed else each.law),
            "mean": each.mean,
            "std": each.std,
            "std_error": each.error * each.std if chance else 0.0,
            "fan_in": each.fan_in,
            "fan_out": each.fan_out,
            "formula": formula.text if formula else "",
            "expected_std": formula.value if formula else math.nan,
            "tied": ", ".join(each.also),
            "trained": each.trained,
        }

    @property
    def roles(self) -> pd.DataFrame:
        """A row for each group of siblings: `role module shape blocks count drawn`."""
        rows = []
        for group in self.groups:
            first = group.members[0]
            clear = [each for each in group.members if each.law.name != "undecided"]
            if not any(each.law.name in CHANCE for each in clear):
                clear = []  # those that are undecided may be of none of these laws
            laws = Counter(
                str(COMPUTED)
                if each.name in self.computed
                else told(each.law, self.formulas.get(each.name), each.std, each.centre)
                for each in clear or group.members
            )
            rows.append(
                {
                    "role": group.role,
                    "module": first.module,
                    "shape": "x".join(map(str, first.shape)),
                    "blocks": depth(group) if first.place else 0,
                    "count": sum(each.count for each in group.members),
                    "drawn": " or ".join(law for law, _ in laws.most_common(3)),
                }
            )
        return pd.DataFrame(rows)

    @property
    def size(self) -> str:
        """The model's class, and how much it holds."""
        entries = sum(each.count for each in self.parameters)
        return (
            f"{self.network}: {counted(len(self.parameters), 'parameter')}, "
            f"{counted(entries, 'entry', 'entries')}"
        )

    @property
    def words(self) -> str:
        """What the model was initialized with, in a sentence."""
        return sentence(self.parameters, self.formulas, self.computed)

    def to_toml(self) -> str:
        """A lock file: what `audit(model, expected=file)` compares a later model with.

        An entry for each parameter, or for the same one in all blocks, says its law and its scale
        as it was measured, with its standard error and the formula that fits.
        """
        return written(self.network, self.parameters, self.groups, self.formulas)

    def named(self, where: str) -> list[str]:
        """The names of the parameters that a finding's `where` is about."""
        return named_in(where, self.parameters)

    def report(self, folder: str | Path, files: Files | None = None) -> Path:
        """Write the page of the audit, `index.html`, with figures and tables beside it.

        Args:
            files: those of figures that are wanted; all by default.

        Returns:
            The path of the page.

        Raises:
            ValueError: the folder holds somebody else's page.
            OSError: the folder cannot be written.
        """
        # here, as an audit in a test need not wait for what draws figures
        from initstats.report.audit import write_audit

        return write_audit(folder, self, *filter(None, [files]))

    def __str__(self) -> str:
        table = self.roles.to_string(index=False) if self.parameters else "nothing to audit"
        return f"{self.size}\n{table}\n{self.findings}"


def audit(
    model: nn.Module,
    x: Any = None,
    *,
    expected: str | Path | Prescription | None = None,
    level: float = LEVEL,
) -> Audit:
    """Say which law each parameter of a model was drawn from, and what is wrong.

    The model is not run, unless an input is given or a published scheme is to be compared with;
    nothing of it is changed: of a lazy one a copy is run.

    Args:
        model: of any kind.
        x: an input, as `measure` takes it; inputs and outputs of weights are then read off the
            operations that use them, and need not be told from the classes of modules.
        expected: what the model should be: a published scheme (`gpt2`, one of
            `initstats.schemes.SCHEMES`), what `prescribe` returned, or a file that `to_toml` wrote.
            What differs is an error.
        level: probability of a false alarm about the whole model, at most.

    Raises:
        ValueError: no module; a level that is no probability; no such scheme or file.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"a torch.nn.Module is audited, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a scripted model hides its modules: audit it before it is scripted")
    if not 0 < level < 1:
        raise ValueError(f"level is a probability between 0 and 1, not {level}")
    if (x is not None or expected is not None) and any(map(is_lazy, model.parameters())):
        model = _copied(model)  # a lazy one becomes another in its first pass
    number = max(1, sum(1 for _ in model.parameters()))
    each = level / _TESTS / number
    with torch.no_grad():
        rows = None if x is None else _measured(model, x)
        parameters = tuple(drawn(model, each, {} if rows is None else _fans(rows)))
        equal = tuple(_equal(model, names) for names in copies(parameters))
        shown = (p.name for p in parameters if p.by_chance)
        rules = frozenset(name for name in shown if computed(model.get_parameter(name)))
        alike = (p.name for p in parameters if p.repeated and p.kind == "other")
        smooth = rules.union(n for n in alike if not independent(model.get_parameter(n)))
    groups = tuple(siblings(parameters, each))
    fits = fitting(groups, each)
    formulas = explained(groups, fits)
    texts = tuple(frozenset(found) for found in fits)
    stuck = None if rows is None else _stuck(rows)
    equal = tuple(filter(None, equal))
    reading = Reading(parameters, groups, formulas, texts, equal, each, stuck, smooth)
    name, other, agreed = type(model).__name__, None, set[str]()
    if expected is not None:
        compared = Comparison.of(model, expected, x)
        with torch.no_grad():
            other = compared.source, list(compared.findings(model, parameters, each))
        agreed = compared.agreeing(parameters, other[1])
    findings = judged(reading, name, other, agreed)
    return Audit(name, parameters, groups, formulas, findings, level, rules)


def judged(
    reading: Reading,
    subject: str,
    compared: tuple[str, list[Finding]] | None = None,
    agreed: Set[str] = frozenset(),
) -> Findings:
    """What all rules find, the gravest first.

    Args:
        compared: what is expected, and what differs from it.
        agreed: names of parameters that are as a scheme has them, so that no other scale is told
            to be theirs.
    """
    rows = []
    every = [(rule.__name__, rule.__doc__ or "", list(rule(reading))) for rule in RULES]
    for rule, (_, _, told_by_it) in zip(RULES, every, strict=True):
        if rule in OF_SCALE:
            told_by_it[:] = [
                each for each in told_by_it if {*named_in(each.where, reading.parameters)} - agreed
            ]
    if compared:
        source, differing = compared
        every.append(("as_expected", f"every parameter is as {source} has it", differing))
    follow = consequences({name: found for name, _, found in every}, reading)
    for name, doc, told_by_it in every:
        meaning = doc.partition("\n")[0]
        rows += [
            (f.severity, name, subject, f.where, f.evidence, f.remedy)
            for f in told_by_it
            if f not in follow
        ]
        if not told_by_it:
            rows.append(("healthy", name, subject, "", meaning, ""))
    found = pd.DataFrame(rows, columns=COLUMNS)
    found["severity"] = pd.Categorical(found["severity"], categories=SEVERITIES, ordered=True)
    return Findings(found.sort_values("severity", kind="stable", ignore_index=True))


def _copied(model: nn.Module) -> nn.Module:
    """A copy of a lazy model; torch cannot copy buffers without numbers."""
    make: Any = UninitializedBuffer  # torch declares other arguments than it takes
    memo = {
        id(x): make(device=x.data.device, dtype=x.data.dtype)
        for x in model.buffers()
        if isinstance(x, UninitializedBuffer)
    }
    return copy.deepcopy(model, memo)


def _measured(model: nn.Module, x: Any) -> pd.DataFrame:
    """The operations of a model."""
    if empty := on_meta(model):
        raise ValueError(
            f"{empty[0]} is on the meta device and holds no numbers: the model cannot run on x; "
            "make it on a device, or audit it without x"
        )
    from initstats.probe import measure

    if any(_blank(name, p) for name, p in model.named_parameters() if not is_lazy(p)):
        # gradients tell which zeros stay
        with suppress(ValueError):  # an output may have none
            return measure(model, x, backward=True)
    return measure(model, x)


def _blank(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter that is no bias is zero, or whole rows of it are.

    One row of zeros may be that of an embedding's padding.
    """
    if "bias" in name.rpartition(".")[2]:
        return False
    if parameter.ndim < 2:
        return not parameter.any()
    return int((~parameter.flatten(1).any(1)).sum()) > 1 or not parameter.any()


def _fans(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Inputs and outputs of weights, as the operations of a model have them."""
    rows = rows[(rows["tensor"] == "weight") & (rows["fan_in"] > 0)]
    return {
        str(name): (float(inputs), float(outputs))
        for name, inputs, outputs in rows[["name", "fan_in", "fan_out"]].itertuples(index=False)
    }


def _stuck(rows: pd.DataFrame) -> tuple[Finding, ...] | None:
    """What `diagnose` says of weights of zeros that never change; None without gradients."""
    from initstats.diagnosis import RULES as CHECKS
    from initstats.diagnosis.profile import profiles

    if not (rows["direction"] == "backward").any():
        return None
    rule = CHECKS["zero_weights"]
    found = [each for profile in profiles(rows) for each in rule.check(profile, rule.threshold)]
    return tuple(each for each in found if each.severity == "error")


def _equal(model: nn.Module, names: list[str]) -> tuple[str, ...]:
    """Those whose entries are all equal to the first's, where these were drawn."""
    first = model.get_parameter(names[0])
    if not independent(first):  # computed, and as it should be in each of them
        return ()
    same = [name for name in names if torch.equal(model.get_parameter(name), first)]
    return tuple(same) if len(same) > 1 else ()
