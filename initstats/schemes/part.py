"""The parts of a model: each parameter, and what the model does with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["embedding", "product", "gain", "bias", "factor", "token", "other"]
Left = Literal["", "frozen", "adapter"]
Role = Literal["", "query", "key", "value", "packed", "position", "stem", "head", "relative"]


@dataclass(frozen=True)
class Part:
    """A parameter in its model.

    Attributes:
        name: as in `model.named_parameters()`.
        shape: its sizes.
        kind: `product`, the weight of a sum over inputs; `embedding`; `gain` of a norm; `bias`, of
            whatever; `factor`, that multiplies values; `token`, that stands among the values of an
            input; or `other`.
        role: of a product, or of an embedding that is tied to one: `query`, `key`, `value`,
            `packed` (all three), `stem` before and `head` behind all others; `position` and
            `relative` (distances) of an embedding or a token; that of the weight beside it, of a
            bias; empty elsewhere.
        fan_in, fan_out: inputs that a unit sums, outputs that an input reaches, of a product, of
            that to which a bias belongs, or to which an embedding is tied; else NaN.
        axis: that of its units.
        branch: whether it is used in a residual branch.
        last: whether it is the last product of a residual branch, or the norm behind it.
        maps: products one behind another in that branch; 0 outside of branches.
        branches: residual branches of the stream, one behind another; 0 outside.
        stream: which of the model's streams, in the order in which they run; -1 outside.
        head_size: units of an attention head, of what makes queries, keys and values; else 0.
        attention: whether that branch is attention.
        padding: the row of an embedding that stands for padding; -1 without one.
        module: class of the module that holds it.
        convolution: whether it is the weight or the bias of a convolution.
        left: why it is left as it is, whatever a scheme says: `frozen`, where the model trains
            others; `adapter`, of a low-rank pair beside a weight that adds nothing yet.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    role: Role = ""
    fan_in: float = math.nan
    fan_out: float = math.nan
    axis: int = 0
    branch: bool = False
    last: bool = False
    maps: int = 0
    branches: int = 0
    stream: int = -1
    head_size: int = 0
    attention: bool = False
    padding: int = -1
    module: str = ""
    convolution: bool = False
    left: Left = ""

    @property
    def torch_fans(self) -> tuple[float, float]:
        """The same as torch.nn.init computes them: it knows no groups, and no other order.

        It takes no vectors; theirs are as the model uses them.
        """
        if len(self.shape) < 2:
            return self.fan_in, self.fan_out
        places = math.prod(self.shape[2:])
        return self.shape[1] * places, self.shape[0] * places
