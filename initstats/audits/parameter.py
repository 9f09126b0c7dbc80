"""The parameters of a model, each with the law that it was drawn from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from initstats.audits.law import CHANCE, FAR, Law, law_of
from initstats.draws import generator_for

Kind = Literal["weight", "embedding", "gain", "bias", "other"]
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])|(?<=_l)\d+")
_AT_ONCE = 2**20  # entries that are added up at a time
_GAINS = ("gain", "scale", "gamma")
_NORM = re.compile("norm", re.IGNORECASE)


@dataclass(frozen=True)
class Drawn:
    """A parameter as it was found.

    Attributes:
        name: as in `model.named_parameters()`.
        also: further names of the same tensor, which are tied to it.
        module: class of the module that holds it.
        kind: `weight` of a sum over inputs, `embedding`, `gain` of a norm, `bias`, or `other`.
        shape: its sizes.
        dtype: of its entries, as `float32`.
        trained: whether it asks for a gradient.
        law: the law of its entries, without the padding row.
        mean: of its entries.
        std: root mean square deviation of its entries from 0, or from the mean where that is not 0.
        error: standard error of `std`, as a share of it, under the law.
        fan_in: inputs that a unit sums; NaN where none are known.
        fan_out: outputs that an input reaches, likewise; the width of an embedding.
        units: how many an output has, or matrices in a stack, as experts are kept;
            0 of what is neither.
        padding: largest size of the entries of an embedding's padding row; NaN without one.
        tiny: share of entries that are so small that their type holds them with fewer digits.
        repeated: units, of those that are not zero, whose weights are equal to another's.
        blank: matrices of a stack that are zero.
        strays: entries beyond 20 standard deviations, which `mean` and `std` leave out.
        block: a number that blocks with the same parameters, of the same shapes, share.
    """

    name: str
    also: tuple[str, ...]
    module: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    trained: bool
    law: Law
    mean: float
    std: float
    error: float
    fan_in: float
    fan_out: float
    units: int
    padding: float
    tiny: float
    repeated: int
    blank: int
    strays: int
    block: int

    @property
    def role(self) -> str:
        """Its name with a * for each number: what the same parameters of all blocks share."""
        return role_of(self.name)

    @property
    def place(self) -> tuple[int, ...]:
        """The numbers in its name."""
        return tuple(int(found) for found in _NUMBER.findall(self.name))

    @property
    def owner(self) -> str:
        """The block that it belongs to: its name up to the last number."""
        return self.name[: max((found.end() for found in _NUMBER.finditer(self.name)), default=0)]

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def centre(self) -> float:
        """The mean, where it is another than 0 by more than chance; else 0."""
        return self.mean if leans(self.mean, self.std, self.count) else 0.0

    @property
    def by_chance(self) -> bool:
        """Whether its entries were drawn."""
        return self.law.name in CHANCE or self.law.name in ("orthogonal", "unlike any")


def role_of(name: str) -> str:
    """A parameter's name with a * for each number."""
    return _NUMBER.sub("*", name)


def drawn(model: nn.Module, level: float, fans: dict[str, tuple[float, float]]) -> Iterator[Drawn]:
    """Every parameter of a model, in its order, tied ones once.

    Args:
        level: as of `law_of`.
        fans: inputs and outputs of weights by name, where they are known better than from modules.
    """
    names: dict[int, list[str]] = {}
    blocks = _blocks(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        end = max((found.end() for found in _NUMBER.finditer(name)), default=0)
        block = blocks.get(name[:end], 0)
        also = tuple(names[id(parameter)][1:])
        yield _one(name, also, owner, parameter, level, fans.get(name), block)


def _blocks(model: nn.Module) -> dict[str, int]:
    """A number for each make of block, by the block's name up to its own number."""
    held: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for name, parameter in model.named_parameters():
        shape = () if isinstance(parameter, nn.UninitializedParameter) else tuple(parameter.shape)
        for found in _NUMBER.finditer(name):
            held.setdefault(name[: found.end()], []).append((name[found.end() :], shape))
    makes = {make: number for number, make in enumerate(dict.fromkeys(map(tuple, held.values())))}
    return {prefix: makes[tuple(make)] for prefix, make in held.items()}


def _one(
    name: str,
    also: tuple[str, ...],
    owner: nn.Module,
    parameter: Tensor,
    level: float,
    known: tuple[float, float] | None,
    block: int,
) -> Drawn:
    """One parameter."""
    lazy = isinstance(parameter, nn.UninitializedParameter)
    x = torch.empty(0) if lazy or parameter.is_meta else parameter.detach()
    x = torch.view_as_real(x) if x.is_complex() else x
    padding = math.nan
    row = getattr(owner, "padding_idx", None)
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) and isinstance(row, int) and x.ndim == 2:
        padding = float(x[row].abs().max())
        x = torch.cat([x[:row], x[row + 1 :]]) if row else x[1:]
    shown = x.new_empty(2, 2) if lazy and _sums(owner) else parameter if parameter.is_meta else x
    kind = _kind(name, owner, shown)
    law = law_of(x, level)
    mean, std, tiny, strays = math.nan, math.nan, math.nan, 0
    if law.name not in ("empty", "not finite"):
        mean, std, tiny, strays = moments(x)
    fan_in, fan_out = known or _fans(owner, name, x)
    stacked = (
        kind == "other" and not parameter.is_complex() and x.ndim > 2 and min(x.shape[-2:]) > 1
    )
    units = _by_unit(owner, x) if kind == "weight" else x if stacked else x.new_empty(0)
    return Drawn(
        name=name,
        also=also,
        module=type(owner).__name__,
        kind=kind,
        shape=() if lazy else tuple(parameter.shape),
        dtype=str(parameter.dtype).removeprefix("torch."),
        trained=parameter.requires_grad,
        law=law,
        mean=mean,
        std=std,
        error=math.sqrt((law.kurtosis - 1) / 4 / max(x.numel() * (1 - law.zeros), 1)),
        fan_in=fan_in,
        fan_out=fan_out,
        units=len(units),
        blank=int((~units.flatten(1).any(1)).sum()) if stacked else 0,
        padding=padding,
        tiny=tiny,
        strays=strays,
        block=block,
        repeated=_repeated(units) if law.name in CHANCE else 0,
    )


def moments(x: Tensor) -> tuple[float, float, float, int]:
    """Mean, root mean square deviation, share below the normal numbers, and number of strays."""
    flat, least = x.reshape(-1), torch.finfo(x.dtype).tiny if x.is_floating_point() else 0
    mean, second = _summed(flat)
    low, high = (float(end) for end in torch.aminmax(flat))
    strays, far = 0, FAR * math.sqrt(second)
    if max(-low, high) > far:
        kept = flat[flat.abs() <= far]
        strays = flat.numel() - kept.numel()
        mean, second = _summed(kept)
    small = 0.0
    if math.sqrt(second) < 1e4 * least:
        small = float(((flat != 0) & (flat.abs() < least)).double().mean())
    deviation = math.sqrt(max(second - mean**2, 0))
    apart = leans(mean, deviation, flat.numel())
    return mean, deviation if apart else math.sqrt(second), small, strays


def leans(mean: float, std: float, count: int) -> bool:
    """Whether entries lie around another number than 0."""
    return abs(mean) > 5 * std / math.sqrt(max(count, 1))


def _summed(flat: Tensor) -> tuple[float, float]:
    """Mean, and mean square."""
    total = square = 0.0
    for start in range(0, flat.numel(), _AT_ONCE):
        part = flat[start : start + _AT_ONCE]
        part = part.float() if part.element_size() < 4 or not part.is_floating_point() else part
        total += float(part.sum(dtype=torch.float64))
        square += float((part * part).sum(dtype=torch.float64))
    if square < 1e-30 * flat.numel():  # squares of such numbers vanish in their type
        flat = flat.double()
        return float(flat.mean()), float(flat.square().mean())
    return total / flat.numel(), square / flat.numel()


def _kind(name: str, owner: nn.Module, x: Tensor) -> Kind:
    """What a parameter is for."""
    own = name.rpartition(".")[2]
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if "bias" in own:
        return "bias"
    if own in _GAINS and x.numel() == max(x.shape, default=1):
        return "gain"
    if x.ndim <= 1 and ("weight" in own or own in _GAINS):
        return "gain" if _NORM.search(type(owner).__name__) or own != "weight" else "other"
    return "weight" if x.ndim >= 2 and _sums(owner) else "other"


def _sums(owner: nn.Module) -> bool:
    """Whether a module's matrices are weights of sums."""
    known = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
    return isinstance(owner, (*known, nn.Bilinear)) or type(owner).__name__ == "Conv1D"


def _by_unit(owner: nn.Module, x: Tensor) -> Tensor:
    """A weight with its units first."""
    swapped = isinstance(owner, nn.modules.conv._ConvTransposeNd) and owner.groups == 1
    return x.transpose(0, 1) if swapped or type(owner).__name__ == "Conv1D" else x


def _fans(owner: nn.Module, name: str, x: Tensor) -> tuple[float, float]:
    """Inputs and outputs of a weight, or of that to which a bias belongs, as its module uses it."""
    if "bias" in name.rpartition(".")[2]:
        weight = getattr(owner, name.rpartition(".")[2].replace("bias", "weight"), None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            return math.nan, math.nan
        return _fans(owner, "weight", weight)
    if x.ndim < 2:
        return math.nan, math.nan
    first, second, places = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return math.nan, second
    if not _sums(owner):
        return math.nan, math.nan
    if type(owner).__name__ == "Conv1D":
        return first, second
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return first // owner.groups * places, second * places
    if isinstance(owner, nn.modules.conv._ConvNd):
        return second * places, first // owner.groups * places
    if isinstance(owner, nn.Bilinear):
        return second * places, first
    return second * places, first * places


def _repeated(x: Tensor) -> int:
    """How many units have the weights of another; (units, ...)."""
    if x.ndim < 2 or x.shape[0] < 2 or x[0].numel() < 2:
        return 0
    rows = x.flatten(1)
    generator = generator_for(0, "sums of units")
    sums = rows.float() @ torch.randn(rows.shape[1], generator=generator).to(x.device)
    ordered, order = sums.sort()
    near = ((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)).nonzero().flatten().tolist()
    return sum(torch.equal(rows[order[at]], rows[order[at + 1]]) for at in near)
