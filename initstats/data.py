"""Images with labels, normalized: the embedded MNIST, folders of IDX files, arrays of one's own.

The database and its file format: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning
applied to document recognition" (1998).
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from initstats.idx import read_idx, times
from initstats.plural import counted

Array: TypeAlias = NDArray[Any]
Labelled: TypeAlias = tuple[ArrayLike | Tensor, ArrayLike | Tensor]
"""Images and their labels."""


@dataclass(frozen=True, eq=False)
class Split:
    """Some samples of a dataset: raw values, and the normalization that belongs to them.

    Raw values stay as they were given (a byte a pixel for image files), so that a split is cheap to
    keep and to send to another process; normalized values are computed from them when asked for:
    (raw - mean) / std in float32, where a byte b counts as b / 256.

    Attributes:
        raw: values as given, (samples, features), contiguous.
        labels: class of each sample, (samples,), int64.
        shape: of one sample: (channels, height, width), or (features,).
        mean, std: of the training split; subtracted from every value, and divides it.
    """

    raw: Array = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    shape: tuple[int, ...]
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.raw)

    @cached_property
    def x(self) -> Tensor:
        """Normalized values, (samples, features), float32; kept once computed, but not pickled."""
        return self._normalized(torch.from_numpy(self.raw))

    @property
    def images(self) -> Tensor:
        """Normalized values as a conv net takes them, (samples, channels, height, width).

        Flat samples stay (samples, features). The memory is that of `x`.
        """
        return self.x.view(-1, *self.shape)

    @property
    def y(self) -> Tensor:
        """Class of each sample, (samples,), int64."""
        return torch.from_numpy(self.labels)

    def tile(self, start: int, stop: int) -> Tensor:
        """Normalized samples start..stop-1 as columns, (features, samples), float32, contiguous.

        The same bits as `x[start:stop].T`, without computing all of `x`.
        """
        return self._normalized(torch.from_numpy(self.raw[start:stop]).T)

    def columns(self, indices: NDArray[np.int64]) -> Tensor:
        """Normalized samples as columns, (features, samples), float32, contiguous."""
        return self._normalized(torch.from_numpy(self.raw[indices]).T)

    def first(self, samples: int) -> Split:
        """The first samples, 1 to all of them, in this split's memory; any other number raises."""
        if not 1 <= samples <= len(self):
            raise ValueError(
                f"cannot take {counted(samples, 'sample')}: the split holds 1 to {len(self)}"
            )
        return replace(self, raw=self.raw[:samples], labels=self.labels[:samples])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that decides `x`: raw values, their shape, mean and std."""
        what = f"{len(self)} {self.shape} {self.mean!r} {self.std!r}"
        digest = hashlib.sha256(what.encode())
        digest.update(self.raw.data)
        return digest.hexdigest()

    def _normalized(self, values: Tensor) -> Tensor:
        # floats may lie far from zero, where float32 would misplace the mean; a copy, since they
        # are the user's own
        unit, wide = (256.0, torch.float32) if values.dtype == torch.uint8 else (1.0, torch.float64)
        copy = values.contiguous().to(wide, copy=True)
        return copy.sub_(self.mean * unit).div_(self.std * unit).to(torch.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "x"}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples to train on, to validate with and, if there are any, to test on.

    All splits are normalized with the mean and standard deviation of the training split's values.

    Attributes:
        name: what the table's `dataset` column calls it.
        test: used only to report accuracy; None where there is none.
    """

    name: str
    train: Split
    valid: Split
    test: Split | None = None

    def __repr__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("train", "valid", "test")}
        splits = ", ".join(f"{name} {len(x):,}" for name, x in sizes.items() if x is not None)
        return (
            f"Dataset {self.name!r}: samples of shape {self.shape}, {splits}; normalized with the "
            f"training mean {self.mean:.4f} and std {self.std:.4f}"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (channels, height, width), or (features,)."""
        return self.train.shape

    @property
    def mean(self) -> float:
        """Mean of the training split's values before normalization; a byte b counts as b / 256."""
        return self.train.mean

    @property
    def std(self) -> float:
        """Standard deviation (ddof=1) of the training split's values before normalization."""
        return self.train.std

    @classmethod
    def from_arrays(
        cls, train: Labelled, valid: Labelled, test: Labelled | None = None, *, name: str = "arrays"
    ) -> Dataset:
        """A dataset of tensors or arrays of one's own.

        Args:
            train: images and labels. Images are (samples, features), (samples, height, width) or
                (samples, channels, height, width), of floats, or of bytes counted as b / 256;
                labels are (samples,) integers.
            valid, test: the same, for validation and for the final accuracy.

        Images are kept, not copied: leave them as they are while the dataset is in use.

        >>> images, labels = np.array([[0.0, 2.0], [4.0, 6.0]]), [0, 1]
        >>> Dataset.from_arrays((images, labels), (images, labels)).mean
        3.0

        Raises:
            ValueError: images that are not finite, constant or empty; shapes, types or counts that
                do not fit together. The message says which and where.
        """
        given = [("train", train), ("valid", valid)] + ([("test", test)] if test else [])
        return _dataset(name, *(_given(split, *arrays) for split, arrays in given))


def load_data(
    source: str | Path = "mnist", *, train: int | None = None, valid: int | None = None
) -> Dataset:
    """Read a dataset: the first images of its training file train, the last ones validate.

    Args:
        source: "mnist", the embedded one; or a folder of the four IDX files under their usual
            names, gzipped or not. The names may share a prefix: where several sets share a folder,
            FOLDER/PREFIX tells which, as in `emnist/emnist-letters`.
        train: how many images train; by default all that do not validate.
        valid: how many images validate; by default a sixth of the training file.

    Pixels are bytes, counted as b / 256. Nothing is written to disk.

    >>> mnist = load_data("mnist")
    >>> len(mnist.train), len(mnist.valid), round(mnist.mean, 4), round(mnist.std, 4)
    (50000, 10000, 0.1304, 0.3073)

    Raises:
        ValueError: the folder or a file of it is missing, damaged or not what its name says, or
            holds too few images; the message names the file, what was expected and what was found.
    """
    name, idx_files = _idx_files(_MNIST if source == "mnist" else Path(source))
    whole, test = (_read_part(idx_files, part) for part in ("train", "test"))
    return _dataset(name, *_cut(whole, train, valid), test)


@dataclass(frozen=True, eq=False)
class _Part:
    """Images (samples, ...) and labels (samples,) as read, and what errors call them."""

    images: Array
    labels: Array
    images_name: str
    labels_name: str

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(
                f"{self.labels_name}: expected a label for each of the "
                f"{counted(len(self.images), 'image')} of {self.images_name}, "
                f"found {len(self.labels)}"
            )


def _dataset(name: str, train: _Part, *others: _Part) -> Dataset:
    for part in others:
        if _kind(part.images) != _kind(train.images):
            raise ValueError(
                f"{part.images_name}: expected {_kind(train.images)} as in {train.images_name}, "
                f"found {_kind(part.images)}"
            )
    mean, std = _mean_and_std(torch.from_numpy(train.images))
    if not 0.0 < std < math.inf:
        raise ValueError(
            f"{train.images_name}: expected training images that vary, found mean {mean:.6g} and "
            f"standard deviation {std:.6g}"
        )
    shape = train.images.shape[1:]
    shape = (1, *shape) if len(shape) == 2 else shape
    splits = (
        Split(part.images.reshape(len(part.images), -1), part.labels, shape, mean, std)
        for part in (train, *others)
    )
    return Dataset(name, *splits)


def _kind(images: Array) -> str:
    return f"{images.dtype} images of {times(images.shape[1:])}"


def _mean_and_std(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (ddof=1); of bytes exactly, from the count of each."""
    if values.dtype != torch.uint8:
        std, mean = torch.std_mean(values.double()) if values.numel() > 1 else (0.0, values.item())
        return float(mean), float(std)
    counts = list(enumerate(torch.bincount(values.flatten(), minlength=256).tolist()))
    n, total, squares = (sum(c * b**power for b, c in counts) for power in (0, 1, 2))
    variance = (n * squares - total**2) / (n * (n - 1)) if n > 1 else 0.0
    return total / n / 256.0, math.sqrt(variance) / 256.0


# arrays of the user's own

_PIXELS = ("uint8", "float16", "float32", "float64")


def _given(split: str, images: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> _Part:
    images_name, labels_name = f"{split} images", f"{split} labels"
    pixels, classes = _as_array(images), _as_array(labels)
    if pixels.ndim not in (2, 3, 4) or pixels.size == 0:
        raise ValueError(
            f"{images_name}: expected (samples, features), (samples, height, width) or (samples, "
            f"channels, height, width), none of them 0, found {pixels.shape}"
        )
    if pixels.dtype not in _PIXELS:
        raise ValueError(f"{images_name}: expected one of {_PIXELS}, found {pixels.dtype}")
    if classes.ndim != 1 or classes.dtype.kind not in "iu":
        raise ValueError(
            f"{labels_name}: expected (samples,) integers, found {classes.shape} {classes.dtype}"
        )
    faults = pixels.size - np.count_nonzero(finite := np.isfinite(pixels))
    if faults:
        where = np.unravel_index(finite.argmin(), pixels.shape)
        raise ValueError(
            f"{images_name}: expected finite values, found {faults} of {pixels.size} that are not, "
            f"the first {pixels[where]} at {tuple(map(int, where))}"
        )
    return _Part(pixels, classes.astype(np.int64), images_name, labels_name)


def _as_array(values: ArrayLike | Tensor) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # numpy has no bfloat16
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    # torch wants memory that it may write to
    return np.require(np.asarray(values), requirements=["C", "W"])


# folders of IDX files

_MNIST = Path(__file__).with_name("mnist")
_FILE_NAME = re.compile(r"((?!\.).*?)-?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")


def _idx_files(source: Path) -> tuple[str, dict[str, Path]]:
    """The name of the set of files that a source means, and its files: `train images` and so on."""
    folder, wanted = (source, None) if source.is_dir() else (source.parent, source.name.rstrip("-"))
    sets: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if match := _FILE_NAME.fullmatch(file.name):
            prefix, part, kind = match.groups()
            # sorted: the unzipped file before its .gz, and it wins
            content = f"{'train' if part == 'train' else 'test'} {kind}"
            sets.setdefault(prefix, {}).setdefault(content, file)
    if wanted is None and ("" in sets or len(sets) == 1):
        wanted = min(sets)
    if wanted in sets:
        return wanted or folder.resolve().name, sets[wanted]

    if wanted is not None:
        expected, found = "'mnist', a folder of IDX files or FOLDER/PREFIX", "nothing there"
    elif sets:
        expected, found = "one set of IDX files, or FOLDER/PREFIX", f"prefixes {', '.join(sets)}"
    else:
        expected, found = "IDX files such as train-images-idx3-ubyte.gz", "none"
        if (source / "train").is_dir():
            found = "an image folder, which cannot be read yet"
    raise ValueError(f"{source}: expected {expected}, found {found}")


def _read_part(files: dict[str, Path], part: str) -> _Part:
    for content in (f"{part} images", f"{part} labels"):
        if content not in files:
            found = ", ".join(file.name for file in files.values())
            folder = min(files.values()).parent
            raise ValueError(f"{folder}: expected a file of {content}, found only {found}")
    images, labels = files[f"{part} images"], files[f"{part} labels"]
    pixels, classes = read_idx(images, "images"), read_idx(labels, "labels")
    return _Part(pixels, classes.astype(np.int64), str(images), str(labels))


def _cut(whole: _Part, train: int | None, valid: int | None) -> list[_Part]:
    """The first images, to train on, and the last, to validate with."""
    n = len(whole.images)
    valid = n // 6 if valid is None else valid
    train = n - valid if train is None else train
    if min(train, valid) < 1 or train + valid > n:
        raise ValueError(
            f"{whole.images_name}: expected to share out its {counted(n, 'image')}, at least one "
            f"each, found train={train} and valid={valid}"
        )
    return [
        replace(whole, images=whole.images[rows], labels=whole.labels[rows])
        for rows in (slice(train), slice(n - valid, n))
    ]
