"""The audit's recall over planted faults, its silence about sound models, and known mistakes."""

from __future__ import annotations

import copy
import math
import random
import re
import runpy
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import initstats as ist
from initstats.audits.parameter import role_of

TESTS = Path(__file__).parent
INITIALIZED = runpy.run_path(str(TESTS / "initialized.py"))
MODELS: dict[str, Any] = INITIALIZED["MODELS"]
SOUND: dict[str, Any] = runpy.run_path(str(TESTS / "test_sound_models.py"))["SOUND"]
FAULTY = ("error", "warning")
FAR = 1.1
"""Wrong scales nearer than this to the right one are not planted: nobody calls them wrong."""
pytestmark = pytest.mark.filterwarnings("default")  # other people's


class Case(NamedTuple):
    """A fault to plant: in one weight or block, or in all that share its role."""

    model: str
    kind: str
    place: str
    seed: int


class Planted(NamedTuple):
    """Names of the parameters that are wrong; a reference is needed where no others tell."""

    names: list[str]
    reference: bool


# what the weights of a sound model are


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The matrices and kernels of sums that were drawn, by name, tied ones once."""
    own = {name for name, _ in model.named_parameters()}
    sums = (nn.Linear, nn.Conv2d, hf.pytorch_utils.Conv1D)
    return {
        f"{name}.weight": module.weight.data
        for name, module in model.named_modules()
        if isinstance(module, sums) and float(module.weight.abs().max()) > 0
        if module.weight.numel() >= 1500
        if f"{name}.weight" in own
    }


def fans(model: nn.Module, name: str) -> tuple[float, float]:
    """Inputs and outputs of a weight."""
    module: Any = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.Conv2d):
        places, groups = math.prod(module.kernel_size), module.groups
        return module.in_channels * places / groups, module.out_channels * places / groups
    outputs, inputs = module.weight.shape
    return (inputs, outputs) if isinstance(module, nn.Linear) else (outputs, inputs)


def make(model: nn.Module, name: str) -> list[tuple[str, torch.Size]]:
    """Names and shapes in the block of a parameter: T5's first block is not made as the others."""
    start = re.match(r"\D*\d+", name)
    block = start[0] + "." if start else name
    return [
        (n.removeprefix(block), p.shape) for n, p in model.named_parameters() if n.startswith(block)
    ]


def law(w: Tensor) -> str:
    """uniform, truncated or normal: by the kurtosis, which is 1.8, 2.4 (cut at 2) or 3."""
    kurtosis = float((w**4).mean() / w.square().mean() ** 2)
    return "uniform" if kurtosis < 2.1 else "truncated" if kurtosis < 2.6 else "normal"


def rms(w: Tensor) -> float:
    return float(w.detach().square().mean().sqrt())


def redraw(w: Tensor, name: str, std: float) -> None:
    """A draw anew, by the law of what is there."""
    if name == "uniform":
        nn.init.uniform_(w, -std * 3**0.5, std * 3**0.5)
    elif name == "normal":
        nn.init.normal_(w, std=std)
    else:
        wide = std / 0.8796256610342398
        nn.init.trunc_normal_(w, std=wide, a=-2 * wide, b=2 * wide)


def scaled(factor: Callable[[nn.Module, str, Tensor], float]) -> Callable[..., bool]:
    """A fault of the scale; False where a weight's wrong scale is much the same as the right."""

    def plant(model: nn.Module, name: str, w: Tensor) -> bool:
        by = factor(model, name, w)
        if max(by, 1 / by) < FAR:
            return False
        redraw(w, law(w), by * rms(w))
        return True

    return plant


def _averaged(model: nn.Module, name: str, w: Tensor) -> float:
    """1/sqrt(fan_in) for a fixed std, the mean of both fans for one that goes with the inputs."""
    inputs, outputs = fans(model, name)
    if abs(rms(w) / 0.02 - 1) < 0.1:
        return float(inputs**-0.5 / 0.02)
    return math.sqrt(2 * inputs / (inputs + outputs))


def _transposed(model: nn.Module, name: str, w: Tensor) -> float:
    """Fans of a kernel that is read as (height, width, inputs, outputs); of a matrix, swapped."""
    inputs, outputs = fans(model, name)
    if w.ndim == 4:
        return math.sqrt(inputs / math.prod(w.shape[:3]))
    return math.sqrt(inputs / outputs)


def _another(model: nn.Module, name: str, w: Tensor) -> bool:
    """A uniform law for another, or a normal one for it, of the same std."""
    redraw(w, "normal" if law(w) == "uniform" else "uniform", rms(w))
    return True


def _cut(model: nn.Module, name: str, w: Tensor) -> bool:
    """A cut at two standard deviations that nobody made up for."""
    std, before = rms(w), law(w)
    if before == "uniform":
        return False
    if before == "truncated":
        redraw(w, before, 0.8796256610342398 * std)
    else:
        nn.init.trunc_normal_(w, std=std, a=-2 * std, b=2 * std)
    return True


def _default(model: nn.Module, name: str, w: Tensor) -> bool:
    """As torch draws it."""
    inputs = fans(model, name)[0]
    same = law(w) == "uniform" and abs(math.log(rms(w) * math.sqrt(3 * inputs))) < 0.1
    nn.init.uniform_(w, -(inputs**-0.5), inputs**-0.5)
    return not same


def _zero(model: nn.Module, name: str, w: Tensor) -> bool:
    w.zero_()
    return True


KINDS: dict[str, Callable[[nn.Module, str, Tensor], bool]] = {
    "wrong fan": scaled(_averaged),
    "transposed fans": scaled(_transposed),
    "std x 3": scaled(lambda *_: 3.0),
    "std x 1.5": scaled(lambda *_: 1.5),
    "cut, not made up for": _cut,
    "another law": _another,
    "zero": _zero,
    "torch's default": _default,
}
BY_BLOCK = ("block forgotten", "block cloned")
DEPTH = "no depth scale"
ONE, TWO, ALL, LOCKED = "one", "another one", "all", "all, by a lock file"


def planted(model: Any, case: Case) -> Planted | None:
    """Plant a fault; None where a model has no place for it."""
    made, chance = MODELS[case.model], random.Random(case.seed)
    torch.manual_seed(case.seed)
    if case.kind in BY_BLOCK:
        return _block(model, case, chance) if made.blocks else None
    able = weights(model)
    plant = KINDS.get(case.kind) or scaled(lambda *_: made.factor)
    if case.kind == DEPTH:
        ends = f"{made.blocks}."
        able = {n: w for n, w in able.items() if n.endswith(made.scaled or ("-",)) and ends in n}
    if case.kind == "cut, not made up for" and made.cuts and case.place == ALL:
        return None
    for name in chance.sample([*able], len(able)):
        role, shape = role_of(name), able[name].shape
        alike = [n for n, w in able.items() if role_of(n) == role and w.shape == shape]
        if case.place in (ALL, LOCKED):
            if case.kind in ("wrong fan", "transposed fans"):
                alike = [*able]  # in the whole model
            done = [plant(model, n, able[n]) for n in alike]  # all, whatever the first says
            if any(done):
                return Planted(alike, True)
        elif plant(model, name, able[name]):
            chain = role.startswith("*.")
            kin = [n for n in alike if make(model, n) == make(model, name)]
            return Planted([name], len(kin) < 4 or chain)
    return None


def _block(model: Any, case: Case, chance: random.Random) -> Planted | None:
    """One block of a model as torch leaves it, or as another is."""
    place = MODELS[case.model].blocks
    blocks = model.get_submodule(place)
    if case.place in (ALL, LOCKED):
        return None
    shapes = [[p.shape for p in block.parameters()] for block in blocks]
    one = chance.randrange(1, len(blocks))
    if case.kind == "block cloned":
        others = [n for n in range(len(blocks)) if n != one and shapes[n] == shapes[one]]
        if not others:
            return None
        blocks[one].load_state_dict(blocks[chance.choice(others)].state_dict())
        return Planted([f"{place}.{one}.{n}" for n, _ in blocks[one].named_parameters()], False)
    ours = [n for n in weights(model) if n.startswith(f"{place}.{one}.")]
    done = [_default(model, n, model.get_parameter(n).data) for n in ours]
    if not any(done):
        return None
    return Planted(ours, sum(shape == shapes[one] for shape in shapes) < 4)


# what the audit says


@cache
def sound(name: str, seed: int) -> Any:
    """A sound model; copied before a fault is planted."""
    torch.manual_seed(seed)
    return MODELS[name].build()


@cache
def lock(name: str) -> str:
    """The lock file of a model that was drawn by another seed."""
    return ist.audit(sound(name, 1000)).to_toml()


def named(audited: Any) -> set[str]:
    """What errors and warnings are about."""
    findings = audited.findings
    wheres = findings.loc[findings["severity"].isin(FAULTY), "where"]
    return {place for where in wheres for place in where.replace(": ", ", ").split(", ")}


def found(case: Case, file: Path) -> bool | None:
    """Whether a fault is found; None where there is no place for it."""
    model = copy.deepcopy(sound(case.model, case.seed % 3))
    with torch.no_grad():
        fault = planted(model, case)
    if fault is None:
        return None
    made, expected, x = MODELS[case.model], None, None
    if fault.reference:
        expected, x = file, None
        if case.place == ALL and made.scheme:
            expected, x = made.scheme, made.x()
        elif case.place == ALL:
            return None  # told by the lock file
        else:
            file.write_text(lock(case.model))
    places = named(ist.audit(model, x, expected=expected))
    names = {name.removeprefix("... ") for name in places}
    return bool(names & ({*fault.names} | {role_of(name) for name in fault.names}))


def cases() -> list[Case]:
    """Each kind at each place of each model; not all have a place for it."""
    return [
        Case(name, kind, place, 7 * number + count)
        for number, (name, _) in enumerate(MODELS.items())
        for count, kind in enumerate((*KINDS, DEPTH, *BY_BLOCK))
        for place in (ONE, TWO, ALL, LOCKED)
    ]


def recall(drawn: list[Case], file: Path) -> tuple[list[Case], list[Case]]:
    """The faults that could be planted, and those of them that were missed."""
    told = {case: found(_own(case), file) for case in drawn}
    put = [case for case, hit in told.items() if hit is not None]
    missed = [case for case in put if not told[case]]
    kinds, misses = Counter(case.kind for case in put), Counter(case.kind for case in missed)
    rows = [f"{kind:22} {count:4} planted {misses[kind]:3} missed" for kind, count in kinds.items()]
    sys.stdout.write("\n".join(["", *rows, *map(str, missed), ""]))
    return put, missed


def _own(case: Case) -> Case:
    return case._replace(seed=case.seed + 1000 * (case.place == TWO))


def test_planted_faults_are_found(tmp_path: Path) -> None:
    drawn = random.Random(1).sample(cases(), 30)
    put, missed = recall(drawn, tmp_path / "lock.toml")
    assert len(put) >= 15
    assert len(missed) <= 1


@pytest.mark.mutations
def test_of_all_planted_faults_nearly_all_are_found(tmp_path: Path) -> None:
    put, missed = recall(cases(), tmp_path / "lock.toml")
    assert len(put) >= 300
    assert len({case.model for case in put}) >= 20
    assert len(missed) <= 0.05 * len(put)


# silence

SEEDS = 20
LEARNED = ("trained", "watched", "lsuv")
"""Ends of names of models whose scales follow from data, not from a draw."""


def alarms(name: str, seeds: range, file: Path) -> list[Any]:
    """What errors and warnings say of a sound model, alone and beside the lock file of a seed."""
    torch.manual_seed(1000)
    file.write_text(ist.audit(SOUND[name]()[0]).to_toml())
    told = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = SOUND[name]()[0]
        for expected in (None,) if name.endswith(LEARNED) else (None, file):
            findings = ist.audit(model, expected=expected).findings
            bad = findings[findings["severity"].isin(FAULTY)]
            told += [(name, seed, *row) for row in bad[["rule", "where", "evidence"]].values]
    return told


SOUND |= {f"published {name}": lambda m=made: (m.build(), None) for name, made in MODELS.items()}


@pytest.mark.mutations
@pytest.mark.parametrize("name", SOUND)
def test_sound_models_raise_no_alarm(name: str, tmp_path: Path) -> None:
    assert not alarms(name, range(SEEDS), tmp_path / "lock.toml")


@pytest.mark.parametrize("name", [*SOUND][::6])
def test_a_sound_model_raises_no_alarm(name: str, tmp_path: Path) -> None:
    assert not alarms(name, range(2), tmp_path / "lock.toml")


def test_enough_models_are_sound() -> None:
    assert len(SOUND) >= 50


# mistakes that were shipped


def language(scheme: str, **made: Any) -> Any:
    torch.manual_seed(0)
    return INITIALIZED["by_scheme"](
        INITIALIZED["Language"](**made), scheme, INITIALIZED["tokens"]()
    )


def told(audited: Any, rule: str) -> Any:
    findings = audited.findings
    return findings[(findings["rule"] == rule) & findings["severity"].isin(FAULTY)]


def test_a_scale_that_was_never_applied() -> None:
    """transformers#47458: GPT-2's `c_proj` were to be drawn with 0.02 / sqrt(2 layers).

    The line compared `c_proj.weight` with names that begin with the block's, and so never ran:
    all of them were drawn with 0.02. It was repaired in July 2026.
    """
    torch.manual_seed(0)
    model = MODELS["gpt2"].build()
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            nn.init.normal_(parameter, std=0.02)
    assert not told(ist.audit(model), "out_of_line").size
    found = told(ist.audit(model, MODELS["gpt2"].x(), expected="gpt2"), "as_expected")
    (where,), (remedy,) = found["where"], found["remedy"]
    names = [name for name, _ in model.named_parameters() if name.endswith("c_proj.weight")]
    assert sorted(where.split(", ")) == sorted(names)
    assert len(names) == 8  # of attention, and of the other branch, in four blocks
    exec(remedy, {"model": model, "nn": nn, "math": math})
    for name in names:
        assert rms(model.get_parameter(name)) == pytest.approx(0.02 / 8**0.5, rel=0.05)


def test_a_scale_that_was_applied_twice() -> None:
    """OLMo#607: the last map of a block was divided by sqrt(2 layers) once more than was meant."""
    model = language("gpt2")
    for layer in model.layers:
        layer.w2.weight.data /= math.sqrt(8)
    found = told(ist.audit(model, INITIALIZED["tokens"](), expected="gpt2"), "as_expected")
    (row,) = found.to_dict("records")
    assert row["where"].startswith("layers.0.w2.weight")
    assert "0.35" in row["evidence"]


def test_a_scale_that_was_applied_to_another_map() -> None:
    """llama2.c#579: `w3`, the other factor of the gate, was scaled in the place of `w2`, the last.

    Many programs have the line from there (happy-llm#200, minimind#136).
    """
    model = language("gpt2", gated=True)
    for layer in model.layers:
        layer.w2.weight.data *= math.sqrt(8)
        layer.w3.weight.data /= math.sqrt(8)
    found = told(ist.audit(model, INITIALIZED["tokens"](), expected="gpt2"), "as_expected")
    assert {role_of(where.split(", ")[0]) for where in found["where"]} == {
        "layers.*.w2.weight",
        "layers.*.w3.weight",
    }


def grouped(scale: float = 1.0) -> Any:
    """Convolutions as torch draws them; those in groups by another factor."""
    sizes = ((3, 32, 1), (32, 64, 4), (64, 64, 8), (64, 128, 1), (128, 64, 16))
    model: Any = nn.Sequential(*(nn.Conv2d(i, o, 3, groups=g) for i, o, g in sizes))
    for module in model:
        module.weight.data /= module.groups**0.5 if scale != 1 else 1.0
    return model


def test_fans_of_all_groups_together(tmp_path: Path) -> None:
    """mlx#4536: convolutions in groups were drawn with the inputs of all groups for `fan_in`.

    Their entries are too small by the square root of the number of groups.
    """
    file = tmp_path / "lock.toml"
    torch.manual_seed(0)
    file.write_text(ist.audit(grouped()).to_toml())
    assert not named(ist.audit(grouped(), expected=file))
    wrong = named(ist.audit(grouped(2.0), expected=file))
    assert {"1.weight", "2.weight", "4.weight"} <= wrong
    assert not {"0.weight", "3.weight"} & wrong


def test_layers_that_are_copies_of_one() -> None:
    """pytorch#120396: nn.TransformerEncoder copies the layer it is given, with its numbers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(48, 4, 96)
    found = told(ist.audit(nn.TransformerEncoder(layer, 3)), "equal_parameters")
    assert found["where"].str.contains("layers.0.linear1.weight").any()
    assert found["where"].str.contains("layers.0.self_attn.in_proj_weight").any()
