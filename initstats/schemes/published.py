"""Published initializations: for each, what a part of a model is drawn from.

A scheme is a function of a part and of all parts that says what the part is drawn from, or None
where the source says nothing. Its docstring holds the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from initstats.registry import unknown
from initstats.schemes.draw import ONES, ZEROS, Draw, Piece, normal, truncated, uniform
from initstats.schemes.part import Part


class Ruling(NamedTuple):
    """What a part is drawn from.

    Attributes:
        pieces: of the parameter; one, as a rule.
        also: laws that are accepted in their place, as programs differ.
    """

    pieces: tuple[Piece, ...]
    also: tuple[Draw, ...] = ()


Said = Draw | Ruling | None
Scheme = Callable[[Part, Sequence[Part]], Said]

PLACES = ("position", "relative")
"""Roles of what tells a model where its tokens are."""
SCHEMES: dict[str, Scheme] = {}
"""Published initializations by name."""


def register_scheme(function: Scheme) -> Scheme:
    """Add a scheme under its function's name."""
    SCHEMES[function.__name__] = function
    return function


@register_scheme
def gpt2(part: Part, parts: Sequence[Part]) -> Said:
    """std 0.02, and over the root of the number of residual branches at the end of each.

    Radford et al. 2019, section 2.3. Positions have 0.01 in the authors' program.
    """
    if part.kind == "product" and part.last:
        number = part.branches
        return normal(0.02 / math.sqrt(number), f"0.02 / math.sqrt({number})")
    if part.role == "position":
        return _or(normal(0.02), normal(0.01))
    return _plain(part, normal(0.02))


@register_scheme
def bert(part: Part, parts: Sequence[Part]) -> Said:
    """std 0.02 before a cut at two of it.

    Devlin et al. 2019 (arXiv:1810.04805), in the authors' program; transformers does not cut.
    """
    said = _plain(part, truncated(0.02))
    return _or(said, normal(0.02)) if said and said.std else said


@register_scheme
def llama(part: Part, parts: Sequence[Part]) -> Said:
    """std 0.02 for all: the rule of transformers; the papers name none."""
    return _plain(part, normal(0.02))


@register_scheme
def t5(part: Part, parts: Sequence[Part]) -> Said:
    """std 1/sqrt(fan_in), queries also over the root of a head's units, embeddings 1.

    Raffel et al. 2020 (arXiv:1910.10683), in the authors' program: attention does not divide its
    scores.
    """
    if part.role == "relative":
        return _over_root(_width(parts) or part.shape[-1])
    if part.kind == "embedding":
        return normal(1.0)
    if part.kind == "product":
        if part.role == "head":
            return _or(normal(1.0), _over_root(part.fan_in))
        if part.role == "packed" and part.head_size and part.shape[part.axis] % 3 == 0:
            size, every = part.shape[part.axis] // 3, _over_root(part.fan_in)
            less = _over_root(part.fan_in * part.head_size)
            return Ruling(
                (Piece(less, part.axis, 0, size), Piece(every, part.axis, size, 3 * size))
            )
        return _over_root(part.fan_in * (part.head_size or 1 if part.role == "query" else 1))
    return _plain(part, None)


@register_scheme
def vit(part: Part, parts: Sequence[Part]) -> Said:
    """Xavier's uniform law in blocks, biases there 1e-6, patches 1/sqrt(fan_in), a head of zeros.

    Dosovitskiy et al. 2021 (arXiv:2010.11929), as torchvision has it.
    """
    if part.kind == "token":
        return normal(0.02) if part.role in PLACES else ZEROS
    dense = part.branch and not part.attention
    if part.kind == "bias" and dense and not math.isnan(part.fan_in):
        return normal(1e-6)
    if part.kind != "product":
        return _plain(part, normal(0.02))
    if part.role == "head":
        return ZEROS
    if part.convolution:
        fan = part.torch_fans[0]
        return truncated(fan**-0.5, 2 * math.sqrt(fan), f"1 / math.sqrt({fan:.0f})")
    if part.attention and part.last:
        return _or(_default(part), _xavier(part))
    return _xavier(part)


@register_scheme
def vit_timm(part: Part, parts: Sequence[Part]) -> Said:
    """std 0.02, cut at -2 and 2, for linear maps; convolutions as torch draws them: timm's rule."""
    if part.kind == "token":
        return truncated(0.02, 100) if part.role in PLACES else normal(1e-6)
    if part.convolution:
        return _default(part)
    if part.role == "head" and part.kind == "product":
        return _or(truncated(0.02, 100), ZEROS)
    return _plain(part, truncated(0.02, 100))


@register_scheme
def vit_transformers(part: Part, parts: Sequence[Part]) -> Said:
    """std 0.02 for all, biases 0: the rule of transformers."""
    if part.kind == "token":
        return _or(truncated(0.02, 100), normal(0.02), ZEROS)
    said = _plain(part, normal(0.02))
    return _or(said, truncated(0.02)) if said and said.std else said


@register_scheme
def resnet(part: Part, parts: Sequence[Part]) -> Said:
    """Convolutions sqrt(2/fan_out) (He et al. 2015, arXiv:1502.01852), as torchvision has it.

    The last norm of a branch begins at 1, or at 0 where that is asked for (Goyal et al. 2017).
    """
    if part.kind == "product" and part.convolution:
        fan = part.torch_fans[1]
        return normal(math.sqrt(2 / fan), f"math.sqrt(2 / {fan:.0f})")
    if part.kind == "gain" and part.last:
        return _or(ONES, ZEROS)
    if part.kind == "product" or (part.kind == "bias" and part.fan_in > 0 and not part.convolution):
        return _default(part)
    return _plain(part, None)


@register_scheme
def resnet_timm(part: Part, parts: Sequence[Part]) -> Said:
    """As torchvision's, with 0 for the last norm of a branch: timm's rule."""
    if part.kind == "gain" and part.last:
        return ZEROS
    return resnet(part, parts)


@register_scheme
def fixup(part: Part, parts: Sequence[Part]) -> Said:
    """Without norms: branches end in 0, and begin smaller with depth; a head of zeros.

    Zhang et al. 2019 (arXiv:1901.09321): He's std times L^(-1/(2m - 2)) for the others of the m
    products of a branch, where there are L branches.
    """
    if not any(each.branch for each in parts):
        raise ValueError("fixup is for residual branches, and this model has none")
    if part.kind == "factor" and math.prod(part.shape) == 1:
        return ONES
    if part.kind != "product":
        return _plain(part, None)
    if part.last or part.role == "head":
        return ZEROS
    inwards, outwards = part.fan_in, part.torch_fans[1]
    root = 2 * max(part.maps, 2) - 2  # beside a branch's only product, as a gate is, as before it
    power = f" * {part.branches} ** (-1 / {root})" if part.branch else ""
    smaller = part.branches ** (-1 / root) if part.branch else 1.0
    return _or(
        *(
            normal(math.sqrt(2 / fan) * smaller, f"math.sqrt(2 / {fan:.0f}){power}")
            for fan in (inwards, outwards)
        )
    )


@register_scheme
def deepnorm(part: Part, parts: Sequence[Part]) -> Said:
    """Xavier's normal law, in branches times (8N)^(-1/4), but for queries and keys.

    Wang et al. 2022 (arXiv:2203.00555), figure 2, for N layers of two branches; an encoder of N and
    a decoder of M layers of three branches have 0.87 (N^4 M)^(-1/16) and (12M)^(-1/4). The model
    itself multiplies its streams.
    """
    betas = _betas({each.stream: each.branches for each in parts if each.branch})
    if part.kind != "product":
        return _plain(part, None)
    if not part.branch or part.role in ("query", "key"):
        return _xavier(part, normal)
    gain, text = betas[part.stream]
    if part.role != "packed":
        return _xavier(part, normal, gain, text)
    size, axis = part.shape[part.axis] // 3, part.axis
    fans = f"{size + part.shape[1 - axis]}"
    std = math.sqrt(2 / (size + part.shape[1 - axis]))
    plain = normal(std, f"math.sqrt(2 / {fans})")
    less = normal(gain * std, f"{text} * math.sqrt(2 / {fans})")
    return Ruling((Piece(plain, axis, 0, 2 * size), Piece(less, axis, 2 * size, 3 * size)))


def _betas(streams: Mapping[int, int]) -> dict[int, tuple[float, str]]:
    """What DeepNorm multiplies the products in branches with, by stream, and how that is written.

    Args:
        streams: the number of branches by stream.
    """
    match [streams[at] for at in sorted(streams)]:
        case []:
            raise ValueError("deepnorm is for residual branches, and this model has none")
        case [two]:
            return dict.fromkeys(streams, ((4 * two) ** (-0.25), f"{4 * two} ** -0.25"))
        case [two, three] if two % 2 == 0 and three % 3 == 0:
            n, m = two // 2, three // 3
            encoder = 0.87 * (n**4 * m) ** -0.0625, f"0.87 * ({n} ** 4 * {m}) ** -0.0625"
            decoder = (12 * m) ** -0.25, f"{12 * m} ** -0.25"
            return dict(zip(sorted(streams), (encoder, decoder), strict=True))
        case several:
            told = ", ".join(map(str, several))
            raise ValueError(
                "deepnorm is for one stream, or for an encoder with 2 and a decoder with 3 "
                f"branches a layer: this model has streams of {told} branches"
            )


@register_scheme
def mup(part: Part, parts: Sequence[Part]) -> Said:
    """std 1/sqrt(fan_in), of the head 1/fan_in, of embeddings 1.

    Yang et al. 2022 (arXiv:2203.03466), table 3. It asks, too, for learning rates of Adam that
    are over fan_in for hidden weights and the head, and for scores of attention that are over a
    head's units.
    """
    if part.kind == "embedding" and part.role != "relative":
        return normal(1.0)
    if part.kind == "product":
        if part.role == "head":
            return _or(normal(1 / part.fan_in, f"1 / {part.fan_in:.0f}"), ZEROS)
        return _over_root(part.fan_in)
    return _plain(part, None)


def scheme(name: str) -> Scheme:
    """A scheme by its name.

    Raises:
        ValueError: no such scheme.
    """
    if name not in SCHEMES:
        raise unknown("scheme", name, [*SCHEMES, "matched"])
    return SCHEMES[name]


def ruled(parts: Sequence[Part], scheme: Scheme) -> dict[str, Ruling]:
    """What each part is drawn from, by name, without those of which a scheme says nothing.

    A part that is left as it is counts among all parts, but nothing is said of it.
    """
    found: dict[str, Ruling] = {}
    for part in parts:
        said = None if part.left else scheme(part, parts)
        if isinstance(said, Draw):
            said = Ruling((Piece(said),))
        if said is not None:
            found[part.name] = said
    return found


def _plain(part: Part, weights: Draw | None) -> Draw | None:
    """Weights and tokens of one law, gains of 1, biases of 0."""
    if part.kind == "gain":
        return ONES
    if part.kind == "bias":
        return ZEROS
    return weights if part.kind in ("product", "embedding", "token") else None


def _or(first: Draw | None, *others: Draw) -> Said:
    """A law, and others that are accepted in its place."""
    return first and Ruling((Piece(first),), others)


def _over_root(number: float) -> Draw:
    """A normal law with 1 over the root of a number."""
    return normal(number**-0.5, f"1 / math.sqrt({number:.0f})")


def _width(parts: Sequence[Part]) -> int:
    """The units of the stream: those of words, or what queries are made of; 0 without either."""
    for each in parts:
        if each.kind == "embedding" and each.role not in ("relative", "position"):
            return each.shape[1]
    made = (int(each.fan_in) for each in parts if each.role in ("query", "packed"))
    return next(made, 0)


def _default(part: Part) -> Draw:
    """What torch draws weights and biases of linear maps and convolutions from."""
    return uniform((3 * part.fan_in) ** -0.5, f"1 / math.sqrt(3 * {part.fan_in:.0f})")


def _xavier(
    part: Part, law: Callable[[float, str], Draw] = uniform, gain: float = 1.0, text: str = ""
) -> Draw:
    """Xavier's law, with its fans as torch has them."""
    fans = sum(part.torch_fans)
    root = f"math.sqrt(2 / {fans:.0f})"
    return law(gain * math.sqrt(2 / fans), f"{text} * {root}" if text else root)
