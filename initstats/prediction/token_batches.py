"""The tokens of a dataset's samples in batches, over all of which batch norm takes its moments."""

from __future__ import annotations

from initstats.data import Split
from initstats.networks import Linear
from initstats.prediction.batches import Batches, batches_of
from initstats.prediction.groups import Groups
from initstats.prediction.sequences import Tokens, token_kernel, token_rows


class TokenBatches(Tokens, Batches):
    """The tokens of some batches of samples, two batches to a group.

    Args:
        split: the samples of the dataset, whose batches follow each other.
        first: the product that makes tokens of them.
        batch: number of samples of a batch.

    Raises:
        ValueError: the dataset has no two whole batches; a batch of so many tokens that theory
            would take minutes.
    """

    def __init__(self, split: Split, first: Linear, batch: int) -> None:
        tokens = first.outputs.positions
        chosen, groups = batches_of(split, batch, batch * tokens)
        rows = token_rows(split, chosen, first).reshape(groups, 2 * batch * tokens, -1)
        lengths = split.x.square().sum(1).double().numpy()
        Groups.__init__(self, token_kernel(rows, lengths, tokens), len(split) * tokens)
        self._lay_out(tokens)
