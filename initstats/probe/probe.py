"""The context in which a model is measured, and its table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from traceback import walk_tb
from typing import Any, ClassVar, Self
from weakref import proxy

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from initstats.moments import bin_edges
from initstats.probe.batch import Loss, called, send_back, unmoved
from initstats.probe.eager import EAGER
from initstats.probe.misses import Miss, unused
from initstats.probe.notes import UNTOLD
from initstats.probe.passes import bare
from initstats.probe.ranks import sharded
from initstats.probe.readings import MODES, read_together
from initstats.probe.recording import UNMASKED, Recorder
from initstats.probe.rows import Row, facts_of, keys_of, notes_of, statistics_of
from initstats.probe.spectra import why_none
from initstats.probe.summary import as_html, as_text, summarize_values
from initstats.probe.watching import Watch

Patterns = str | Iterable[str]


@dataclass(eq=False, repr=False)
class Probe:
    """Measures every operation of a model while it is open, over any number of batches.

    It sees the outputs of modules and of functional operations alike, in the order of execution,
    each under the qualified name of the module whose `forward` runs it; calls of a shared module
    are kept apart. Operations that only rearrange entries (views, transposes, wider casts) get no
    row of their own; a constant that no input reaches is not a signal, and is listed by `missed`.
    Statistics are taken at once, on the tensor's device, so that nothing done in place later can
    spoil them. Compiled models run their own Python code meanwhile. The model's parameters,
    buffers, gradients, modes, hooks and attributes are not touched, nor is any random state;
    outputs agree up to rounding, as fused fast paths are not taken.

    Batches at the same weights and in the same mode of the model are pooled. An update of the
    weights begins a new step, whoever makes it: an optimizer of any kind, a write to `.data`, a
    parametrization, other weights that are loaded. Micro-batches whose gradients accumulate are one
    step. What a pass itself does to the weights (an embedding's `max_norm`) is no update.

    Gradients are the optimizer's. That of a weight is its `grad` when an optimizer of torch steps:
    summed over micro-batches and parts, averaged over ranks, unscaled, clipped. Where none steps,
    it is the `grad` that the last backward left, or what `torch.autograd.grad` gave. Gradients of
    values are divided by the scale of a `GradScaler`, and under `DistributedDataParallel` by the
    number of ranks, so that they belong to the same loss; see `gather`.

    Nothing that fails while something is measured reaches the model: `missed` lists it.

    If the forward pass raises, the error gets a note that names the operation, and an attribute
    `table`: what ran until then.

    Args:
        model: any module.
        backward: measure the gradients of whatever is backpropagated meanwhile, too.
        weights: measure parameters, when they are first used at a step.
        include: measure only modules whose qualified name matches one of these shell patterns.
        exclude: do not measure modules whose name matches one of these.
        every: measure every n-th step. Of an earlier step some 1.6 kB are kept for each row.
        unit_axis: by pattern, the dimension of the units in what these modules make; otherwise it
            is that of the channels (after convolutions) or the last.
        spectra: measure the spectra of values and weights, too, which takes longer.
        mask: booleans, (samples, positions) or (samples,): the entries that count, where others
            are padding. It applies to every value, and gradient of a value, whose dimensions
            without the units' begin so, as (samples, positions, units) and (samples, channels,
            positions) do, or with samples times positions in one. Values that it does not fit are
            measured whole, and `missed` lists them with the kind `mask`. Weights are whole. Set
            the attribute `mask` before each batch, where there are several.

    Raises:
        TypeError: no module.
        ValueError: `every` below 1, patterns that match no module, a mask that is none, or a model
            that FSDP shards.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> with Probe(model) as probe:
    ...     y = model(torch.ones(2, 3))
    >>> probe.table()[["layer", "name", "op", "tensor", "count"]]
       layer      name      op         tensor  count
    0      0         0   input     activation      6
    1      1         0  linear  preactivation      8
    2      1  0.weight  linear         weight     12
    3      1    0.bias  linear         weight      4
    4      2         1    relu     activation      8
    """

    model: nn.Module
    _: KW_ONLY
    backward: bool = False
    weights: bool = True
    include: Patterns | None = None
    exclude: Patterns | None = None
    every: int = 1
    unit_axis: Mapping[str, int] | None = None
    spectra: bool = False
    mask: Tensor | None = None
    recording: ClassVar[type[Recorder]] = Recorder

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"a torch.nn.Module is expected, not {type(self.model).__name__}")
        if reason := sharded(self.model):
            raise ValueError(reason)
        if self.every < 1:
            raise ValueError(f"every={self.every} was given, 1 or more is expected")
        if self.mask is not None and not (self.mask.dtype == torch.bool and self.mask.any()):
            given = f"{self.mask.dtype} of shape {tuple(self.mask.shape)}"
            raise ValueError(f"mask: booleans, some of them true, are expected, not {given}")
        self.network = type(getattr(self.model, "_orig_mod", self.model)).__name__
        self._modules: dict[int, str] = {}
        self.name_modules()
        self._recorder = self.recording(proxy(self))
        self._watch: Watch | None = None
        self._open = ExitStack()

    def name_modules(self) -> dict[int, str]:
        """The modules of the model, by id, with the names that they have now."""
        names = {id(module): bare(name) for name, module in self.model.named_modules()}
        root = self.network
        while root in names.values():  # a module inside has the name of the model's class
            root += "()"
        self._modules.update({ident: name or root for ident, name in names.items()})
        chosen = set(self._modules.values()) if self.include is None else self._match(self.include)
        self._selected = chosen - self._match(self.exclude)
        self._axes: dict[str, int] = {}
        for pattern, axis in (self.unit_axis or {}).items():
            self._axes = dict.fromkeys(self._match(pattern), axis) | self._axes
        return self._modules

    def selected(self, name: str) -> bool:
        """Whether the module of a name is to be measured."""
        return name in self._selected

    def axis_of(self, name: str, otherwise: int | None) -> int | None:
        """The dimension of a module's units that `unit_axis` gives, if it gives one."""
        return self._axes.get(name, otherwise)

    def run(self, inputs: Any, loss: Loss | None = None) -> Self:
        """Measure one batch, and leave the model as it was.

        What the forward pass changed on it (batch norm's statistics, weights that an embedding's
        `max_norm` rewrites, parameters that are replaced, attributes) and random states are put
        back, and gradients are not accumulated.

        Args:
            inputs: what the model is called with: a tuple is its positional arguments, a mapping
                its keyword arguments, anything else its only argument.
            loss: a function of the model's output, used only with `backward`; without one, a
                unit-normal gradient is sent back from every tensor of floats in the output.

        Raises:
            ValueError: `backward` was asked for, and the output has no gradient; or the mask fits
                no value of the model.
            RuntimeError: the probe was opened before.
        """
        self._recorder.watching = False  # a single pass
        with unmoved(self.model) as writing, torch.set_grad_enabled(self.backward), self as probe:
            assert probe._watch is not None
            probe._watch.writing = writing
            output = called(self.model, inputs)
            if self.backward:
                send_back(self.model, inputs, output, loss, self._recorder.captured)
        if self.mask is not None and not self._recorder.masked:
            sizes = tuple(self.mask.shape)
            raise ValueError(
                f"the mask of shape {sizes} fits no value of the model: it must begin as its "
                "inputs do, (samples, positions) or (samples,)"
            )
        return self

    def __enter__(self) -> Self:
        if self._watch is not None:
            raise RuntimeError("a probe opens or runs once: make another, or leave this one open")
        self._watch = Watch(self._modules, self._recorder)
        with ExitStack() as stack:
            self._recorder.probe = self  # until it closes: it may be held by nobody else
            stack.callback(self._recorder.close)
            self._recorder.weight_gradients.open()
            stack.enter_context(EAGER)
            before, after = self._watch.enter_module, self._watch.leave_module
            stack.enter_context(register_module_forward_pre_hook(before))
            stack.enter_context(register_module_forward_hook(after, always_call=True))
            stack.enter_context(self._watch)
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._open.close()
        self._recorder.probe = proxy(self)
        if isinstance(error, Exception):
            error.table = self.table()  # type: ignore[attr-defined]
            if where := self._place_of(error):
                error.add_note(f"raised in {where}; what ran before it is in the error's `table`")
        if self._watch is not None:
            self._watch.failure = None  # whose frames hold the watch

    def table(self, *, latest: bool = False) -> pd.DataFrame:
        """The statistics, one row for each tensor, direction and step, in the order of execution.

        Args:
            latest: only the rows of the present step, none where it is not measured.

        Returns:
            The columns

            - `network`: the model's class; `step`: updates of the weights before it;
            - `layer`: number in the order of execution, 0 for what comes from outside (`op` is
              `input`); of parameters, the first that uses them;
            - `mode`: `train` or `eval`, that of the module whose call began the pass;
            - `name`, `op`, `call`: the module that runs the operation (or the parameter's name),
              the operation, and which call of the module within a pass it is; a second output of
              an operation is `op[1]`;
            - `tensor`: `preactivation` for what an operation with weights gives, `activation` for
              what others do, `weight` for parameters and what is computed of them alone;
            - `direction`: `backward` is the gradient of the loss with respect to the tensor;
            - `inputs`: the layers that the operation read, with commas between;
            - `shape` and `dtype` as first seen; `unit_axis`, the dimension whose entries are the
              units; `units`, how many there are; `entries`, of one unit in one batch: samples
              times positions;
            - `requires_grad`: whether autograd follows the tensor; false for frozen weights, for
              values that were made of these alone, and for those made while gradients were off,
              of which `no_grad` is true;
            - `updated`: whether an update of the weights followed on the step;
            - `update_ratio`, of weights: rms of the update since the step before over the rms of
              the weight then; NaN at the first step, infinite if the weight was 0. A copy of the
              trained weights is kept for it while the probe is open;
            - facts about the operation, NaN where they do not apply: of a value, `gain`,
              1 / sqrt(E phi(z)^2) over z ~ N(0, 1), where phi is the elementwise function, with its
              parameters, that made it of the last value that none made (1 for such values); over
              30 z ~ N(0, 1) where phi is made steep by such a `factor`, as in sin(30 z), else 1;
              `low` and `high`, the bounds of phi where its slope vanishes; `saturated_fraction`,
              entries at such a bound, to 1% of its distance from phi(0), for gru, lstm and rnn_tanh
              of the gates inside (16 samples and steps) that are not held there to remember for
              long, as by a chrono initialization; `shut_fraction`, forget gates inside of an
              lstm below 1%, or output gates if these are more; `normalized`, 1 where a factor
              before it changes nothing; `shares_axis`, the dimension of a softmax, and
              `summed_axis`, that over which a product with values sums it; `paired`, 1 where a
              product pairs the rows of two values, as scores do; `paired_terms`, how many terms an
              entry of it (or of such scores within attention) sums; `draws`, the random numbers
              that it was multiplied by; `unregistered`, entries of weights in it that get gradients
              and are no parameters of the model;
              `read_as_logits`, 1 where a loss takes it for logits, also one that is computed behind
              the model; of a linear map and of its weights, `fan_in`, inputs of a unit, `fan_out`,
              units times positions of a kernel, `sigma_w2`, fan_in times E w^2 of the weights;
            - the statistics, as in a study's table;
            - with `spectra`, `participation_ratio` of a value's units over its entries, and
              `stable_rank` of a weight with a row for each unit: `initstats.probe.spectra`;
            - where any value has them, the columns of `initstats.moments.notes`: `branch_share`, of
              a sum of a value and what a map made of it; `pair_correlation` and, without `spectra`,
              `participation_ratio`, of values (samples, tokens, units), or tokens first where
              attention or a recurrent layer says so; `attention_entropy` and `concentration`, of
              shares that weigh values, before dropout, without rows that may attend to nothing.
        """
        rows = self._readings(latest)
        keys = keys_of(rows, self.network, self._recorder.ended)
        numbers = statistics_of(rows, self.spectra), notes_of(rows, self.spectra)
        return pd.concat([keys, facts_of(rows), *numbers], axis=1)

    def gather(self, group: Any = None) -> Self:
        """Bring together what the probes of all ranks measured; every rank calls this.

        Each rank of a `DistributedDataParallel` model sees a part of the batch. After this, the
        tables of all ranks hold the whole: values and their gradients merged as batches are, and
        the weights once. The present step ends. Until it is called, the accumulators of all steps
        are kept, about 100 bytes a unit (with `spectra`, of a value, 8 times the square of its
        units): in a long training, call it now and then. With a single process it changes nothing.

        Args:
            group: the process group; by default that of all ranks.
        """
        self._recorder.gather(group)
        return self

    def histograms(self) -> pd.DataFrame:
        """The distributions: a row per nonempty bin, as `load_histograms` gives those of a study.

        Returns:
            The key columns of the table, the bin's edges `low` and `high` (both 0 for exact zeros,
            infinite for what is not finite), and its `count` of entries.
        """
        rows = self._readings()
        low, high = bin_edges()
        row = np.repeat(np.arange(len(rows)), [len(reading.histogram) for _, reading in rows])
        none = np.empty((0, 2), np.int64)
        bins, counts = np.concatenate([none, *(reading.histogram for _, reading in rows)]).T
        keys = keys_of(rows, self.network, self._recorder.ended).take(row).reset_index(drop=True)
        return keys.assign(low=low[bins], high=high[bins], count=counts)

    def missed(self) -> pd.DataFrame:
        """What was not measured, and why: modules, tensors, parameters and gradients, one per row.

        Returns:
            `kind`, `name` of the module or parameter, `op` and `reason`.
        """
        misses = [*self._recorder.misses, *self._unused(), *self._without_gradient()]
        for slot in self._recorder.slots.values() if self.spectra else ():
            name, op, tensor, *_ = slot.address
            if why := why_none(slot.shape, slot.axis, weight=tensor == "weight"):
                misses.append(Miss("spectrum", name, op, why))
        return pd.DataFrame(misses, columns=list(Miss._fields))

    @property
    def coverage(self) -> str:
        """`N of M measured`, where M counts the tensors that were measured and what was missed."""
        measured = sum("forward" in slot.seen for slot in self._recorder.slots.values())
        missed = (~self.missed()["kind"].isin([UNMASKED, UNTOLD])).sum()
        return f"{measured} of {measured + missed} measured"

    def summary(self) -> pd.DataFrame:
        """The values of the last step at a glance; see `initstats.probe.summary`."""
        return summarize_values(self.table(), self.histograms())

    def report(self, folder: str | Path) -> Path:
        """Write the model's page, `index.html`, with figures and tables beside it.

        It shows what `diagnose` finds, every value by depth, and of several steps how the values
        went through the training.

        Returns:
            The path of the page.

        Raises:
            ValueError: the folder holds somebody else's page.
            OSError: the folder cannot be written.
        """
        # reports read tables, and are drawn without torch: only here does a probe know of one
        from initstats.report.model import write_model_report

        found = self.table(), self.histograms(), self.missed()
        return write_model_report(folder, *found, coverage=self.coverage, name=self.network)

    def __repr__(self) -> str:
        return f"<Probe of {self.network}: {self.coverage}>"

    def __str__(self) -> str:
        return as_text(self.summary(), self.coverage)

    def _repr_html_(self) -> str:
        return as_html(self.summary(), self.coverage)

    def _match(self, patterns: Patterns | None) -> set[str]:
        """The names of modules that match one of some patterns; each pattern must match some."""
        names, matches = list(self._modules.values()), set[str]()
        for pattern in [patterns] if isinstance(patterns, str) else patterns or ():
            found = {name for name in names if fnmatchcase(name, pattern)}
            if not found:
                known = ", ".join(names)
                raise ValueError(f"no module's name matches {pattern!r}; the modules are: {known}")
            matches |= found
        return matches

    def _readings(self, latest: bool = False) -> list[Row]:
        """All rows of the table, or those of the present step: by step, mode, layer, direction."""
        self._recorder.weight_gradients.settle()
        slots, step = self._recorder.slots.values(), self._recorder.step
        rows = [(slot, reading) for slot in slots for reading in slot.readings(step)]
        if latest:
            rows = [row for row in rows if row[1].step == step]
        read_together(reading for _, reading in rows)
        return sorted(rows, key=lambda r: (r[1].step, MODES.index(r[1].mode), r[0].layer))

    def _unused(self) -> Iterator[Miss]:
        """What the passes did not run, or not where it could be followed."""
        ran, apart = (self._watch.entered, self._watch.apart) if self._watch else (set(), {})
        used, parameters = self._recorder.used, self._recorder.parameters
        return unused(self.model, self.name_modules(), ran, apart, used, parameters)

    def _without_gradient(self) -> Iterator[Miss]:
        """Values whose gradients were waited for, or could not be."""
        slots = self._recorder.slots.values()
        if not any("backward" in slot.seen for slot in slots):
            return
        failed = {(miss.name, miss.op) for miss in self._recorder.misses if miss.kind == "gradient"}
        for slot in slots:
            if slot.attached:
                reason = "the loss does not depend on it"
            elif slot.detached:
                reason = "made while gradients were off (no_grad, or a custom autograd function)"
            else:
                continue
            told = (slot.address.name, slot.address.op) in failed
            if "backward" not in slot.seen and slot.address.tensor != "weight" and not told:
                output = f"[{slot.address.output}]" if slot.address.output else ""
                yield Miss("gradient", slot.address.name, slot.address.op + output, reason)

    def _place_of(self, error: BaseException) -> str:
        """The module in whose code an error was raised, and the operation that raised it."""
        if self._watch and self._watch.failure and self._watch.failure[0] is error:
            return self._watch.failure[1]
        name = ""
        for frame, _ in walk_tb(error.__traceback__):
            name = self._modules.get(id(frame.f_locals.get("self")), name)
        return name
