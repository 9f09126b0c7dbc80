"""Batch normalization in training mode (Ioffe & Szegedy 2015, arXiv:1502.03167)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from initstats.networks.block import Expectation, Leaf, Run
from initstats.networks.normalization import EPS, Normalization
from initstats.networks.parameters import check_sizes
from initstats.plural import counted
from initstats.theory.state import Cotangent, State, Unpredicted


@dataclass(frozen=True)
class BatchNorm(Normalization):
    """A unit less its mean, over its standard deviation, both over a batch and its positions.

    Its gain is 1 and its shift 0, as before training.

    Attributes:
        batch: number of samples that are normalized together; the last ones of the data may be
            fewer, see `check_batches`.

    Raises:
        ValueError: batch is no whole number above 1.
    """

    batch: int = 32

    def __post_init__(self) -> None:
        check_sizes("BatchNorm", least=2, batch=self.batch)  # one sample less its mean is 0

    @property
    def together(self) -> int:
        """Samples that must be in one tile."""
        return self.batch

    def normalized(self, x: Tensor, at: Run) -> Tensor:
        """`forward`, not measured."""
        y, inverses = torch.empty_like(x), []
        for rows, out in zip(self._batches(x), self._batches(y), strict=True):
            torch.sub(rows, rows.mean((-3, -1), keepdim=True), out=out)
            inverse = out.square().mean((-3, -1), keepdim=True).add_(EPS).rsqrt_()
            out.mul_(inverse)
            inverses.append(inverse)
        at.tape += (*inverses, y)
        return y

    def pulled_back(self, gradient: Tensor, at: Run) -> Tensor:
        """`backward`, not measured."""
        y = at.tape.pop()
        pulled = torch.empty_like(gradient)
        batches = zip(*(self._batches(each) for each in (gradient, y, pulled)), strict=True)
        for rows, normed, out in reversed([*batches]):
            torch.mul(normed, (rows * normed).mean((-3, -1), keepdim=True), out=out)
            torch.sub(rows, out, out=out)
            out.sub_(rows.mean((-3, -1), keepdim=True)).mul_(at.tape.pop())
        return pulled

    def expected(self, state: State, at: Expectation) -> State:
        """Second moment 1 over a batch, which loses its mean."""
        if state.pairs is None:
            raise Unpredicted("theory does not follow batch norm over the positions of images yet")
        at.tape.append(state)
        return state.pairs.batch_normed(state, self.batch)

    def heard(self, cotangent: Cotangent, at: Expectation) -> Cotangent:
        """The gradient less its mean and what changes only the size of a unit over the batch."""
        before: State = at.tape.pop()
        assert before.pairs is not None
        return before.pairs.unbatch_normed(cotangent, before, self.batch)

    def _batches(self, x: Tensor) -> Iterator[Tensor]:
        """Views ([seeds,] units, positions, batches, samples of a batch): of the whole batches, and
        of what is left.
        """
        by_sample = x.view(*x.shape[:-1], self.reads.positions, -1)
        count = by_sample.shape[-1]
        whole = count // self.batch * self.batch
        if whole:
            batches = by_sample[..., :whole]
            yield batches.view(*batches.shape[:-1], -1, self.batch)
        if whole < count:
            yield by_sample[..., None, whole:]


def check_batches(leaves: Iterable[Leaf], samples: int) -> None:
    """Check that so many samples make batches for norms, the last of which may be smaller.

    Args:
        leaves: of a network that knows what it reads.

    Raises:
        ValueError: fewer samples than a batch has, which would silently be of another size; or one
            sample is left for the last batch, and less its own mean it is 0.
    """
    for leaf in leaves:
        batch = leaf.together
        if samples < batch:
            raise ValueError(
                f"batch={batch} is more than the {counted(samples, 'sample')} that there are: name "
                f"at most batch={max(samples, 2)}, or take {batch} samples or more"
            )
        if batch > 1 and samples % batch == 1 and leaf.reads.positions == 1:
            raise ValueError(
                f"{samples} samples in batches of {batch} leave one sample, of which batch norm "
                f"makes 0: take {samples - 1} samples, or name another batch"
            )
