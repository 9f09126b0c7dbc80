"""A model as it was, to be put back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Kept:
    """All that a repair could move in a model: tensors, whether they are trained, and modes.

    Args:
        model: any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, module.training, {**module._parameters}, {**module._buffers}, _plain(module))
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)  # which cannot be given others
        ]
        tensors = {id(x): x for x in (*model.parameters(), *model.buffers())}
        for _, _, parameters, buffers, plain in self._modules:
            for x in (*parameters.values(), *buffers.values(), *plain.values()):
                if x is not None:
                    tensors[id(x)] = x
        self._tensors = [
            (x, x.data, x.detach().clone(), x.requires_grad)
            for x in tensors.values()
            if not torch.nn.parameter.is_lazy(x)
        ]

    def moved(self) -> set[int]:
        """The ids of the buffers that hold something else now."""
        values = {id(x): values for x, _, values, _ in self._tensors}
        pairs = (
            (module._buffers.get(name), values.get(id(before)))
            for module, _, _, buffers, _ in self._modules
            for name, before in buffers.items()
        )
        return {
            id(now)
            for now, before in pairs
            if now is not None and before is not None and not _same_bits(now, before)
        }

    def put_back(self, but: Sequence[Tensor] = ()) -> None:
        """Put everything back, or everything but some tensors."""
        left = {id(x) for x in but}
        memory = {_memory(x) for x in but} - {0}
        for module, training, parameters, buffers, plain in self._modules:
            module.training = training
            module._parameters.update(parameters)
            for name, buffer in buffers.items():
                if id(module._buffers.get(name)) not in left:
                    module._buffers[name] = buffer
            vars(module).update(plain)
        with torch.no_grad():
            for x, data, values, trained in self._tensors:
                if x.requires_grad != trained:
                    x.requires_grad_(trained)
                if id(x) in left or _memory(x) in memory:
                    continue
                if x.layout == torch.strided and x.data_ptr() != data.data_ptr():
                    x.data = data
                if not _same_bits(x, values):
                    x.detach().copy_(values)


def _memory(x: Tensor) -> int:
    """Where the entries of a tensor are; 0 where they are nowhere, or in several places."""
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else 0


def _plain(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that are plain attributes, such as a weight that a hook computes."""
    return {name: x for name, x in vars(module).items() if isinstance(x, Tensor)}


def _same_bits(x: Tensor, y: Tensor) -> bool:
    if x.is_meta:
        return True  # it has none
    if x.layout != torch.strided or x.dtype != y.dtype or x.shape != y.shape:
        return False
    bits = [t.detach().reshape(-1).view(torch.uint8) for t in (x, y)]
    return torch.equal(*bits)
