"""An input for a model, made up from what it says of itself or from its first layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from initstats.draws import generator_for

SIDES = (32, 28, 64, 224)
"""Of images, in the order in which they are tried."""
TOKENS, SAMPLES = 8, 2


def candidates(model: nn.Module) -> Iterator[Any]:
    """Inputs that a model may take, the likeliest first, where its first parameter lies.

    All are drawn from one seed.
    """
    first = next(model.parameters(), None)
    for inputs in _candidates(model):
        yield inputs if first is None else _moved(inputs, first.device)


def _candidates(model: nn.Module) -> Iterator[Any]:
    own = getattr(model, "dummy_inputs", None)  # transformers
    if isinstance(own, Mapping) and own:
        vocabulary = _vocabulary(model)
        yield {
            name: x.clamp(max=vocabulary - 1) if _ids(x) and vocabulary else x
            for name, x in own.items()
        }
    configured = getattr(model, "default_cfg", None)  # timm
    size = configured.get("input_size") if isinstance(configured, Mapping) else None
    shapes: list[tuple[int, ...]] = [size] if size else []
    known = _image_side(model)
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield _draw_ids(module.num_embeddings)
            yield (_draw_ids(module.num_embeddings),) * 2
            break
        if found := _shapes(module, known):
            shapes += found
            break
    for shape in shapes:
        yield _draw((SAMPLES, *shape), model)
        yield (_draw((SAMPLES, *shape), model),) * 2
    for parameter in model.parameters():  # of a model that holds its own
        if parameter.ndim == 2:
            yield _draw((SAMPLES, parameter.shape[0]), model)
            yield _draw((SAMPLES, parameter.shape[1]), model)
            yield _draw_ids(parameter.shape[0])
        break


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _moved(x, device) for name, x in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_moved(x, device) for x in inputs)
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs


def _shapes(module: nn.Module, side: int) -> list[tuple[int, ...]]:
    """The shapes, without samples, that a layer may take."""
    if isinstance(module, nn.modules.conv._ConvNd):
        rank = len(module.kernel_size)
        sides = (side, *SIDES) if side else SIDES
        return [(module.in_channels, *[each] * rank) for each in sides]
    if isinstance(module, nn.Linear):
        return [(module.in_features,), (TOKENS, module.in_features)]
    if isinstance(module, nn.MultiheadAttention):
        return [(TOKENS, module.embed_dim)]
    if isinstance(module, nn.RNNBase):
        return [(TOKENS, module.input_size)]
    if isinstance(module, nn.LayerNorm):
        return [(TOKENS, *module.normalized_shape)]
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return [(module.num_features,), *((module.num_features, *[8] * n) for n in (1, 2, 3))]
    return []


def _ids(x: object) -> bool:
    return isinstance(x, Tensor) and not x.is_floating_point()


def _vocabulary(model: nn.Module) -> int:
    sizes = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    return sizes[0] if sizes else 0


def _image_side(model: nn.Module) -> int:
    """The side of images that a model names."""
    for holder in (model, getattr(model, "config", None)):
        for name in ("image_size", "img_size"):
            side = getattr(holder, name, 0)
            if isinstance(side, int) and side > 0:
                return side
    return 0


def _draw_ids(number: int) -> Tensor:
    generator = generator_for(0, "ids")
    return torch.randint(max(number, 1), (SAMPLES, TOKENS), generator=generator)


def _draw(shape: tuple[int, ...], model: nn.Module) -> Tensor:
    x = torch.randn(shape, generator=generator_for(0, "inputs"))
    first = next(model.parameters(), None)
    return x if first is None or not first.is_floating_point() else x.to(first.dtype)
