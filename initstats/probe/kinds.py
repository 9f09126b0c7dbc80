"""Kinds of operations, by their names in a table. No torch here: tables are read without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


REARRANGING = words(
    "alias channel_shuffle clone contiguous cpu cuda detach expand expand_as flatten "
    "flip get movedim moveaxis permute pin_memory pixel_shuffle pixel_unshuffle ravel repeat "
    "requires_grad reshape reshape_as roll rot90 squeeze swapaxes swapdims t tile transpose "
    "unflatten unsqueeze view view_as"
)
"""Calls, also those in place, whose output holds the entries of their input equally often."""
TOGETHER = words("broadcast_tensors meshgrid")
"""Calls that do so to each of their arguments, and return as many outputs."""
CASTS = words("to type type_as float double half bfloat16")
MAKERS = words("bernoulli empty eye full multinomial ones rand randint randn zeros")
DRAWS = words("bernoulli exponential normal rand randint randn random uniform")
"""Calls, also those in place, that draw random numbers."""
DROPOUTS = words("alpha_dropout dropout feature_alpha_dropout feature_dropout")
OVERWRITING = words(
    "bernoulli_ cauchy_ constant_ copy_ dirac_ exponential_ eye_ fill_ geometric_ kaiming_normal_ "
    "kaiming_uniform_ log_normal_ normal_ ones_ orthogonal_ random_ set_ sparse_ trunc_normal_ "
    "uniform_ xavier_normal_ xavier_uniform_ zero_ zeros_"
)
"""Calls that write to their first argument without reading it."""
ATTENTION = words("flex_attention scaled_dot_product_attention")
"""Calls that are attention of queries, keys and values, their first arguments in this order."""
MIXING = ATTENTION | words(
    "addbmm addmm addmv baddbmm bilinear bmm chain_matmul einsum embedding embedding_bag gru "
    "gru_cell inner linalg_matmul linalg_multi_dot linear lstm lstm_cell matmul mm mv rmatmul "
    "rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell tensordot"
)
"""Calls that make new units, in the last dimension where a weight does not say otherwise."""
RECURRENT = words("gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell")
LINEAR = words("addbmm addmm baddbmm bmm conv1d conv2d conv3d linear matmul mm")
"""Calls that, given weights, are the linear maps of mean-field theory."""
NORMALIZATIONS = words("batch_norm group_norm instance_norm layer_norm rms_norm")
"""Calls that normalize; what is written out in operations is known by what it does."""
POOLING = {
    f"{kind}_pool{n}d" for kind in words("avg max adaptive_avg adaptive_max") for n in (1, 2, 3)
}
PASSING = POOLING | DROPOUTS | {"flatten"}
"""Calls that may come between an activation and the layer that reads it."""
CHOOSING = words(
    "_pack_padded_sequence as_strided chunk dsplit gather getitem hsplit index_select narrow "
    "select split split_with_sizes take_along_dim tensor_split unbind unfold unsafe_chunk "
    "unsafe_split vsplit"
)
"""Calls whose output holds some entries of their input."""
LOOKUPS = words("embedding embedding_bag gather getitem index_select take take_along_dim")
"""Calls that look rows up by an index."""
CARRYING = (REARRANGING | CASTS | PASSING | CHOOSING) | words(
    "_pad_packed_sequence constant_pad_nd pad upsample_bicubic2d upsample_bilinear2d "
    "upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "upsample_trilinear3d"
)
"""Calls whose output is distributed, nearly, as their input."""
FUSED = {
    **dict.fromkeys(
        ATTENTION,
        "attention scores and weights stay inside a fused kernel: ask the model for its plain "
        'attention (transformers: attn_implementation="eager")',
    ),
    **dict.fromkeys(
        ("lstm", "gru", "rnn_tanh", "rnn_relu"),
        "gates and the states of lower layers stay inside a fused kernel",
    ),
}
"""Calls that do not show all the tensors they compute, and which they hide."""
VALUES = {"flex_attention": 1}
"""How many outputs of a call are values of the model, where others are there for gradients."""
CHANNELS_SECOND = words("batch_norm group_norm instance_norm")


def numbers(text: str) -> list[int]:
    """The layers in an entry of the column `inputs`, as in "3,5"."""
    return [int(number) for number in text.split(",")] if text else []


def source(layer: int, values: Mapping[int, pd.Series[Any]]) -> pd.Series[Any] | None:
    """The value that the operation at a layer reads, looked for before pooling and dropout.

    Args:
        layer: number of the operation in the order of execution.
        values: rows of a probe's table by their layer, without the model's input (layer 0).

    Returns:
        The row; None where the operation reads the model's input.
    """
    for number in numbers(values[layer]["inputs"] if layer in values else ""):
        if number in values:
            found = values[number]
            return source(number, values) if found["op"].rstrip("_") in PASSING else found
    return None
