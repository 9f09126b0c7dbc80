from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import re
import socket
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import initstats as ist
from initstats.data import Array, Split

SHA_256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MNIST = Path(ist.data.__file__).with_name("mnist")

# ---- the embedded MNIST


@pytest.mark.parametrize("name", SHA_256)
def test_embedded_files_are_the_standard_ones(name: str) -> None:
    content = gzip.decompress((MNIST / f"{name}.gz").read_bytes())
    assert hashlib.sha256(content).hexdigest() == SHA_256[name]
    assert SHA_256[name] in (MNIST / "NOTICE").read_text()


def test_mnist_is_the_lessons(mnist: ist.Dataset) -> None:
    assert (mnist.name, mnist.shape) == ("mnist", (1, 28, 28))
    assert mnist.test is not None
    assert [len(s) for s in (mnist.train, mnist.valid, mnist.test)] == [50_000, 10_000, 10_000]
    assert f"{mnist.mean:.4f} {mnist.std:.4f}" == "0.1304 0.3073"
    # the first digits of the three files
    digits = [s.y[:4].tolist() for s in (mnist.train, mnist.valid, mnist.test)]
    assert digits == [[5, 0, 4, 1], [3, 8, 6, 9], [7, 2, 1, 0]]


def test_mnist_statistics_are_exact(mnist: ist.Dataset) -> None:
    pixels = mnist.train.raw.ravel()
    blocks = [block.astype(np.float64) / 256 for block in np.array_split(pixels, 50)]
    mean = sum(block.sum() for block in blocks) / pixels.size
    variance = sum(((block - mean) ** 2).sum() for block in blocks) / (pixels.size - 1)
    assert mnist.mean == pytest.approx(mean, rel=1e-13)
    assert mnist.std == pytest.approx(variance**0.5, rel=1e-13)


def test_normalized_mnist(mnist: ist.Dataset) -> None:
    x = mnist.valid.x
    assert (x.shape, x.dtype, mnist.valid.y.dtype) == ((10_000, 784), torch.float32, torch.int64)
    # published for the validation set, with the training statistics: -0.0058, 0.9924
    assert x.double().mean().item() == pytest.approx(-0.0058, abs=1e-4)
    assert x.double().std().item() == pytest.approx(0.9924, abs=1e-4)
    tiles = torch.cat([mnist.train.tile(i, i + 5_000).flatten() for i in range(0, 50_000, 5_000)])
    assert abs(tiles.mean(dtype=torch.float64).item()) < 1e-6
    assert abs(tiles.std().item() - 1) < 1e-6


# ---- splits


def images_of(kind: str, samples: int = 30) -> Array:
    """Pixels of one kind, far from zero mean and different in every column."""
    generator = np.random.default_rng(3)
    if kind == "uint8":
        return generator.integers(0, 256, (samples, 7, 5), dtype=np.uint8)
    return (generator.normal(size=(samples, 35)) * 3 + np.arange(35) + 100).astype(kind)


def dataset_of(kind: str) -> ist.Dataset:
    pixels, labels = images_of(kind), np.arange(30)
    return ist.Dataset.from_arrays((pixels[:20], labels[:20]), (pixels[20:], labels[20:]))


KINDS = ["uint8", "float16", "float32", "float64"]


@pytest.mark.parametrize("kind", KINDS)
@given(bounds=st.tuples(st.integers(0, 21), st.integers(0, 21)))
def test_tile_has_the_bits_of_x(kind: str, bounds: tuple[int, int]) -> None:
    split = dataset_of(kind).train
    tile = split.tile(*bounds)
    assert tile.is_contiguous()
    assert tile.dtype == split.x.dtype == torch.float32
    assert torch.equal(tile, split.x[slice(*bounds)].T)


@pytest.mark.parametrize("kind", KINDS)
def test_normalization_against_float64(kind: str) -> None:
    data = dataset_of(kind)
    pixels = images_of(kind).reshape(30, 35).astype(np.float64) / (256 if kind == "uint8" else 1)
    mean, std = pixels[:20].mean(), pixels[:20].std(ddof=1)
    assert data.mean == pytest.approx(mean, rel=1e-14)
    assert data.std == pytest.approx(std, rel=1e-12)
    expected = (pixels[20:] - mean) / std
    # floats are rounded once, at the end; bytes also where they leave the mean, in units of 1/256
    bound = 0.5001 * np.spacing(np.abs(expected).astype(np.float32))
    if kind == "uint8":
        bound = 2 * bound + np.finfo(np.float32).eps / std
    assert np.all(np.abs(data.valid.x.numpy() - expected) <= bound)


def test_values_far_from_zero() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.normal(size=(50, 8))
    near, far = (
        ist.Dataset.from_arrays((shifted, range(50)), (shifted, range(50)))
        for shifted in (pixels, pixels + 2.0**30)
    )
    # 2**30 costs a float64 30 of its 52 bits
    assert (near.train.x - far.train.x).abs().max() < 1e-6
    single = (pixels + 1e5).astype(np.float32)
    x = ist.Dataset.from_arrays((single, range(50)), (single, range(50))).train.x
    assert abs(x.double().mean()) < 1e-7


def test_computing_leaves_the_users_values_alone() -> None:
    # one feature, so that a column of samples is contiguous as it is
    pixels = torch.arange(6.0).reshape(6, 1)
    data = ist.Dataset.from_arrays((pixels, range(6)), (pixels, range(6)))
    assert data.train.x.std() == pytest.approx(1)
    assert data.train.tile(0, 6).shape == (1, 6)
    assert torch.equal(pixels, torch.arange(6.0).reshape(6, 1))


def test_default_dtype_does_not_matter() -> None:
    expected = dataset_of("uint8").train.x
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(dataset_of("uint8").train.x, expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_first_samples(toy: ist.Dataset) -> None:
    first = toy.train.first(5)
    assert (len(first), first.shape) == (5, (1, 8, 8))
    assert torch.equal(first.x, toy.train.x[:5])
    assert torch.equal(first.y, toy.train.y[:5])
    assert np.shares_memory(first.raw, toy.train.raw)


@pytest.mark.parametrize("samples", [0, -1, 97])
def test_first_refuses_what_is_not_there(toy: ist.Dataset, samples: int) -> None:
    with pytest.raises(ValueError, match=f"cannot take {samples} samples.* 1 to 96"):
        toy.train.first(samples)


def test_pickled_split_is_its_bytes(mnist: ist.Dataset) -> None:
    split = mnist.valid.first(100)
    before = split.x
    pickled = pickle.dumps(split)
    assert len(pickled) < 100 * (784 + 8) + 1_000
    back: Split = pickle.loads(pickled)
    assert torch.equal(back.x, before)
    assert torch.equal(back.y, split.y)
    assert back.fingerprint == split.fingerprint


def test_fingerprint_tells_apart_what_decides_x() -> None:
    pixels, labels = images_of("uint8") // 2, np.arange(30)

    def fingerprint(fit: Array, valid: Array) -> str:
        return ist.Dataset.from_arrays((fit, labels), (valid, labels)).valid.fingerprint

    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    flat = pixels.reshape(30, 35)
    apart = pixels.copy()
    apart[0, 0, :2] += np.array([1, -1], np.int8).view(np.uint8)
    prints = [
        fingerprint(pixels, pixels),
        fingerprint(pixels, changed),  # a pixel
        fingerprint(pixels + 1, pixels),  # the mean only
        fingerprint(apart, pixels),  # the standard deviation only
        fingerprint(flat, flat),  # the shape of a sample
        fingerprint(pixels.astype(np.float32), pixels.astype(np.float32)),  # the type
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint(pixels.copy(), pixels.copy())


# ---- arrays of the user's own


@pytest.mark.parametrize(
    ("given_shape", "shape"),
    [((6, 12), (12,)), ((6, 4, 3), (1, 4, 3)), ((6, 2, 3, 2), (2, 3, 2))],
)
def test_shapes(given_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
    pixels = torch.randn(given_shape, generator=torch.Generator().manual_seed(0))
    data = ist.Dataset.from_arrays((pixels, range(6)), (pixels, range(6)), (pixels, range(6)))
    assert data.test is not None
    assert data.shape == data.valid.shape == data.test.shape == shape
    assert data.train.x.shape == (6, 12)
    assert torch.allclose(data.train.x * data.std + data.mean, pixels.reshape(6, 12), atol=1e-6)


DRAWN = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("pixels", "values"),
    [
        (DRAWN.bfloat16(), DRAWN.bfloat16().float()),
        (DRAWN.clone().requires_grad_(), DRAWN),
        (DRAWN.T, DRAWN.T.contiguous()),
        (np.frombuffer(bytes(range(24)), np.uint8).reshape(4, 6), torch.arange(24.0).view(4, 6)),
        ([[1.0, 2.0], [3.0, 4.0]], torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
    ],
    ids=["bfloat16", "requires_grad", "transposed", "read_only", "list"],
)
def test_unusual_arrays_are_taken(pixels: torch.Tensor, values: torch.Tensor) -> None:
    labels = range(len(values))
    data = ist.Dataset.from_arrays((pixels, labels), (pixels, torch.tensor(labels)))
    assert torch.allclose(data.train.x, (values - values.mean()) / values.std(), atol=1e-6)
    assert torch.equal(data.train.tile(0, len(values)), data.train.x.T)
    assert data.train.fingerprint == data.valid.fingerprint
    assert data.valid.y.tolist() == list(labels)


GOOD = np.arange(12.0).reshape(4, 3)


def with_faults(*faults: float) -> Array:
    pixels = GOOD.copy()
    pixels.flat[5 : 5 + len(faults)] = faults
    return pixels


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        (
            (with_faults(np.inf, np.nan), range(4)),
            (GOOD, range(4)),
            r"train images: expected finite values, found 2 of 12 .*, the first inf at \(1, 2\)",
        ),
        ((GOOD, range(4)), (with_faults(np.nan), range(4)), r"valid images: .* 1 of 12 .* nan"),
        ((GOOD, range(3)), (GOOD, range(4)), "train labels: .* 4 images of train images, found 3"),
        (
            (GOOD, range(4)),
            (GOOD[:, :2], range(4)),
            "valid images: .* of 3 as in .*, found .* of 2",
        ),
        (
            (GOOD, range(4)),
            (GOOD.astype(np.uint8), range(4)),
            "valid images: expected float64 .* found uint8",
        ),
        ((GOOD.astype(int), range(4)), (GOOD, range(4)), "train images: expected one of .* int64"),
        ((GOOD > 3, range(4)), (GOOD, range(4)), "train images: expected one of .* bool"),
        ((GOOD[0], range(3)), (GOOD, range(4)), r"train images: expected \(samples, .* \(3,\)"),
        ((GOOD[:0], range(0)), (GOOD, range(4)), r"train images: .* found \(0, 3\)"),
        ((GOOD, GOOD[:, 0]), (GOOD, range(4)), r"train labels: expected .* found \(4,\) float64"),
        ((GOOD, [range(4)]), (GOOD, range(4)), r"train labels: expected .* found \(1, 4\) int64"),
        ((GOOD * 0 + 0.1, range(4)), (GOOD, range(4)), "train images: .* vary, .* deviation 0"),
        (
            (np.full((3, 5), 7, np.uint8), range(3)),
            (np.full((3, 5), 7, np.uint8), range(3)),
            "train images: .* vary, found mean 0.0273438 and standard deviation 0",
        ),
        (([[3.0]], [0]), ([[3.0]], [0]), "train images: .* vary"),
        (
            (np.array([[3]], np.uint8), [0]),
            (np.array([[3]], np.uint8), [0]),
            "train images: .* vary",
        ),
        ((GOOD * 1e307, range(4)), (GOOD, range(4)), "train images: .* vary, .* inf"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    train: tuple[Array, range], valid: tuple[Array, range], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ist.Dataset.from_arrays(train, valid)
    assert "\n" not in str(caught.value)


# ---- folders of IDX files

NAMES = TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = tuple(SHA_256)


def idx(array: Array) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def contents() -> dict[str, bytes]:
    """A small data set of 25 + 6 images of 3 x 4."""
    generator = np.random.default_rng(1)
    shapes = [(25, 3, 4), (25,), (6, 3, 4), (6,)]
    arrays = [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    return dict(zip(NAMES, map(idx, arrays), strict=True))


def write(folder: Path, rename: Callable[[str], str] = str, zipped: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents().items():
        path = folder / (rename(name) + (".gz" if zipped else ""))
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


def assert_is_the_small_set(data: ist.Dataset) -> None:
    pixels = np.frombuffer(contents()[NAMES[0]][16:], np.uint8).reshape(25, 12)
    assert data.test is not None
    assert data.shape == (1, 3, 4)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [21, 4, 6]
    assert np.array_equal(data.train.raw, pixels[:21])
    assert np.array_equal(data.valid.raw, pixels[21:])
    assert data.valid.y.tolist() == list(contents()[NAMES[1]][-4:])
    assert data.mean == pytest.approx(pixels[:21].mean() / 256)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "rename",
    [
        str,
        lambda name: "emnist-letters-" + name.replace("t10k", "test"),
        lambda name: name.replace("-idx", ".idx"),
    ],
    ids=["standard", "prefix", "dot"],
)
def test_folder_of_idx_files(tmp_path: Path, rename: Callable[[str], str], zipped: bool) -> None:
    data = ist.load_data(write(tmp_path / "glyphs", rename, zipped))
    assert_is_the_small_set(data)
    assert data.name == ("emnist-letters" if "emnist" in rename("") else "glyphs")


def test_several_sets_in_one_folder(tmp_path: Path) -> None:
    for prefix in ("emnist-letters-", "emnist-digits-"):
        write(tmp_path, lambda name, prefix=prefix: prefix + name)  # type: ignore[misc]
    with pytest.raises(ValueError, match="FOLDER/PREFIX, found prefixes emnist-digits, emnist-l"):
        ist.load_data(tmp_path)
    for spelled in ("emnist-digits", "emnist-digits-"):
        data = ist.load_data(f"{tmp_path}/{spelled}")
        assert_is_the_small_set(data)
        assert data.name == "emnist-digits"
    # the unadorned names are the folder's own
    assert ist.load_data(write(tmp_path)).name == tmp_path.name


def test_unzipped_file_wins_and_strays_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, lambda name: f"k-{name}")
    (tmp_path / f"k-{TRAIN_IMAGES}.gz").write_bytes(b"half a downl")
    (tmp_path / f"._k-{TRAIN_IMAGES}").write_bytes(b"resource fork")
    (tmp_path / "README.txt").write_text("read me")
    assert_is_the_small_set(ist.load_data(tmp_path))


def test_content_decides_what_is_zipped(tmp_path: Path) -> None:
    write(tmp_path, lambda name: name + ".gz")  # unzipped by a browser, the name left
    assert_is_the_small_set(ist.load_data(tmp_path))


def test_sizes_of_splits(tmp_path: Path) -> None:
    data = ist.load_data(write(tmp_path), train=3, valid=2)
    whole = ist.load_data(tmp_path)
    assert np.array_equal(data.train.raw, whole.train.raw[:3])
    assert np.array_equal(data.valid.raw, whole.valid.raw[-2:])
    assert data.mean == pytest.approx(data.train.raw.mean() / 256)
    assert [len(ist.load_data(tmp_path, valid=9).train), len(whole.train)] == [16, 21]


@pytest.mark.parametrize(
    ("train", "valid"), [(0, 1), (1, 0), (-1, 2), (24, 2), (26, 1), (None, 25)]
)
def test_impossible_sizes(tmp_path: Path, train: int | None, valid: int) -> None:
    message = f"{NAMES[0]}: expected to share out its 25 images.*valid={valid}"
    with pytest.raises(ValueError, match=message):
        ist.load_data(write(tmp_path), train=train, valid=valid)


def bad(name: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    """Replaces a file's content, or takes the file away."""

    def spoil(folder: Path) -> None:
        content = change((folder / name).read_bytes())
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad(TRAIN_LABELS, lambda _: None), "expected a file of train labels, found only t10k-i"),
        (bad(TEST_IMAGES, lambda _: None), "expected a file of test images, found only"),
        (
            bad(TRAIN_IMAGES, lambda content: content[:-1]),
            rf"{TRAIN_IMAGES}: expected 25 x 3 x 4 images, .* in 316 bytes, found 315 bytes",
        ),
        (bad(TRAIN_IMAGES, lambda content: content + b"0"), "in 316 bytes, found 317 bytes"),
        (bad(TRAIN_IMAGES, lambda content: content[:6]), f"{TRAIN_IMAGES}: .*, found 6 bytes"),
        (
            bad(TRAIN_IMAGES, lambda _: b""),
            f"{TRAIN_IMAGES}: expected magic number 2051 .* found 0",
        ),
        (
            bad(TEST_LABELS, lambda _: contents()[TEST_IMAGES]),
            rf"{TEST_LABELS}: expected magic number 2049 \(labels\), found 2051 \(images\)",
        ),
        (
            bad(TRAIN_IMAGES, lambda _: contents()[TRAIN_LABELS]),
            rf"{TRAIN_IMAGES}: expected magic number 2051 \(images\), found 2049 \(labels\)",
        ),
        (bad(TRAIN_IMAGES, lambda _: b"<html>404"), f"{TRAIN_IMAGES}: .* found 1013478509"),
        (
            bad(TRAIN_LABELS, lambda _: contents()[TEST_LABELS]),
            f"{TRAIN_LABELS}: expected a label for each of the 25 images of .*, found 6",
        ),
        (
            bad(TRAIN_IMAGES, lambda content: gzip.compress(content)[:-20]),
            f"{TRAIN_IMAGES}: expected a readable file, found: .* ended before",
        ),
        (
            bad(TRAIN_IMAGES, lambda content: gzip.compress(content)[:-8] + bytes(8)),
            f"{TRAIN_IMAGES}: expected a readable file, found: CRC check failed",
        ),
        (
            bad(TRAIN_IMAGES, lambda content: gzip.compress(content)[:10] + b"\xff" * 300),
            f"{TRAIN_IMAGES}: expected a readable file, found: Error -3",
        ),
        (
            bad(TEST_IMAGES, lambda _: idx(np.zeros((0, 3, 4), np.uint8))),
            f"{TEST_IMAGES}: expected 0 x 3 x 4 images, at least one",
        ),
        (
            bad(TEST_IMAGES, lambda _: idx(np.zeros((6, 4, 3), np.uint8))),
            f"{TEST_IMAGES}: expected uint8 images of 3 x 4 as in .*, found uint8 images of 4 x 3",
        ),
        (
            bad(TRAIN_IMAGES, lambda _: idx(np.full((25, 3, 4), 9, np.uint8))),
            f"{TRAIN_IMAGES}: expected training images that vary",
        ),
    ],
)
def test_damaged_folder(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(write(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        ist.load_data(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


PROMISED = 2**31
HEADER = struct.pack(">4I", 2051, PROMISED // 1024, 32, 32)


def squeezed(size: int, header: bytes = HEADER) -> bytes:
    """A gzipped file of a header and zeros, made without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(header), *(packer.compress(bytes(2**20)) for _ in range(size >> 20))]
    return b"".join([*parts, packer.flush()])


def listening(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix, contextlib.chdir(file.parent):
        unix.bind(file.name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="files of a kind that Unix has")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.mkdir, "none that is regular"),
        (os.mkfifo if hasattr(os, "mkfifo") else None, "none that is regular"),
        (listening, "none that is regular"),
        (lambda file: file.symlink_to("/dev/zero"), "none that is regular"),
        (lambda file: file.symlink_to(file), "none that is regular"),
        (lambda file: file.symlink_to("nowhere"), "none that is regular"),
        (lambda file: file.write_bytes(HEADER), "in 2147483664 bytes, found 16 bytes"),
        (lambda file: file.write_bytes(squeezed(0)), "at most 67108864 bytes by its size, found"),
        (lambda file: file.write_bytes(squeezed(2**25)), "at most 67108864 bytes by its size"),
        (
            lambda file: file.write_bytes(squeezed(2**25, idx(np.ones((25, 3, 4), np.uint8)))),
            "expected 25 x 3 x 4 images, at least one, in 316 bytes, found more",
        ),
        (
            lambda file: file.write_bytes(squeezed(0, idx(np.ones((25, 3, 4), np.uint8))[:99])),
            "in 316 bytes, found 99 bytes",
        ),
        (lambda file: file.write_bytes(gzip.compress(HEADER[:6])), "one, in 16 bytes, found 6"),
    ],
)
def test_no_more_is_read_than_is_promised_and_plausible(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    (write(tmp_path) / TRAIN_IMAGES).unlink()
    make(tmp_path / TRAIN_IMAGES)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{TRAIN_IMAGES}: .*{message}"):
            ist.load_data(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_folder_without_idx_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected IDX files such as train-images.*, found none"):
        ist.load_data(tmp_path)


@pytest.mark.parametrize("source", ["mnits", "no/such/folder", ""])
def test_no_such_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    expected = "'mnist', a folder" if source else "IDX files"
    with pytest.raises(ValueError, match=re.escape(expected)):
        ist.load_data(source)
