from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

import initstats as ist
from initstats.cli.data import given_data
from initstats.cli.model import batches
from initstats.cli.study import _sweep
from initstats.data import Split
from initstats.images import cache as caches
from initstats.images import layout, reading
from initstats.images.decoding import Fault, decode, decode_all
from initstats.mapped import dumps_mapped
from initstats.sweep.plugins import load_config

# ---- what is made


def photo(seed: int, width: int, height: int) -> Image.Image:
    """A smooth picture of chance, whose colours differ in mean."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 200, (4, 5, 3)) + np.array([0, 20, 50])
    return Image.fromarray(coarse.astype(np.uint8)).resize((width, height), 3)


SHAPES = [(40, 30), (30, 41), (24, 24), (97, 25), (23, 60)]


def make(folder: Path, splits: tuple[str, ...] = ("train", "val"), each: int = 4) -> Path:
    """A folder of two classes, of which the second has a picture more."""
    for split in splits:
        for label, name in enumerate(("n01_cat", "n02_dog")):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for n in range(each + label):
                seed = 100 * label + n + 1000 * len(split)
                photo(seed, *SHAPES[n % len(SHAPES)]).save(
                    folder / split / name / f"{name}_{n}.JPEG", "JPEG", quality=95
                )
    return folder


@pytest.fixture(scope="module")
def woof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("images") / "woof")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return make(tmp_path / "woof")


def same(one: ist.Dataset, other: ist.Dataset) -> bool:
    pairs = ((one.train, other.train), (one.valid, other.valid))
    return all(a.fingerprint == b.fingerprint and torch.equal(a.y, b.y) for a, b in pairs)


# ---- the layout


def test_a_folder_is_a_dataset(woof: Path) -> None:
    data = ist.load_data(woof, size=16)
    assert (data.name, data.shape, data.classes) == ("woof", (3, 16, 16), ("n01_cat", "n02_dog"))
    assert (data.size, data.skipped, data.test) == (16, (), None)
    # the classes take turns
    assert data.train.y.tolist() == data.valid.y.tolist() == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert data.train.raw.dtype == np.uint8
    assert data.train.raw.shape == (9, 768)
    files = [f"n0{2 - n % 2}_{'cat' if n % 2 else 'dog'}_{n // 2}.JPEG" for n in range(9)]
    for row, name in enumerate(files):
        square = decode(str(woof / "train" / name[:7] / name), 16)
        assert np.array_equal(data.train.raw[row], square.ravel())
    floats = data.train.raw.astype(np.float64) / 256
    assert data.mean == pytest.approx(floats.mean(), rel=1e-12)
    assert data.std == pytest.approx(floats.std(ddof=1), rel=1e-12)
    assert data.valid.images.shape == (9, 3, 16, 16)


def test_names_of_splits_and_files(tmp_path: Path) -> None:
    folder = make(tmp_path / "named", ("train", "valid", "test"), each=2)
    for split in ("train", "valid", "test"):
        for ending in ("png", "PNG", "jpg", "JPEG", "jpe", "bmp", "webp", "gif", "tiff", "ppm"):
            photo(1, 20, 30).save(folder / split / "n01_cat" / f"a.{ending}")
        inside = folder / split / "n01_cat"
        for name in (".hidden.png", "._a.JPEG", "notes.txt", "labels.csv", "no_ending"):
            (inside / name).write_bytes(b"no image")
        (inside / "more").mkdir()
        (folder / split / ".ipynb_checkpoints").mkdir()
        (folder / split / "README").write_text("read me")
    (folder / "noisy.csv").write_text("path,label")
    data = ist.load_data(folder, size=8)
    assert data.test is not None
    counts = [len(split) for split in (data.train, data.valid, data.test)]
    assert counts == [15, 15, 15]
    assert data.train.y.bincount().tolist() == [12, 3]


@pytest.mark.parametrize("name", ["Ünïcode dög", "with space", "\ufffd"])
def test_names_of_classes(tmp_path: Path, name: str) -> None:
    folder = make(tmp_path / "named", each=1)
    for split in ("train", "val"):
        (folder / split / "n02_dog").rename(folder / split / name)
    assert set(ist.load_data(folder, size=8).classes) == {"n01_cat", name}


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    folder = make(tmp_path / odd, each=1)
    for split in ("train", "val"):
        (folder / split / "n02_dog").rename(folder / split / odd)
        (folder / split / odd / f"{odd}.png").write_bytes(b"none")
    with pytest.warns(
        UserWarning, match=r"2 images .*: train/caf\\xe9/caf\\xe9.png \(no image of a format"
    ):
        data = ist.load_data(folder, size=8, cache=tmp_path / "kept", workers=2)
    assert (data.name, data.classes) == (r"caf\xe9", (r"caf\xe9", "n01_cat"))
    json.dumps([data.name, *data.classes, *data.skipped]).encode("ascii")
    with pytest.warns(UserWarning, match="left out"):
        assert same(data, ist.load_data(folder, size=8, cache=tmp_path / "kept"))


def test_idx_files_win(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(ValueError, match="expected a file of train labels"):
        ist.load_data(tmp_path)


def test_first_images_hold_each_class_in_its_share(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, count in (("a", 12), ("b", 4), ("c", 8)):
            (tmp_path / split / name).mkdir(parents=True)
            for n in range(count):
                (tmp_path / split / name / f"{n}.png").touch()
    _, parts = layout.parts_of(tmp_path)
    labels = [file.label for file in parts["train"].files]
    for count in range(1, 25):
        held = np.bincount(labels[:count], minlength=3)
        assert np.abs(held - count * np.array([12, 4, 8]) / 24).max() <= 1


def test_numbers_of_images(woof: Path, tmp_path: Path) -> None:
    whole = ist.load_data(woof, size=8, cache=tmp_path)
    data = ist.load_data(woof, size=8, train=4, valid=2, cache=tmp_path)
    assert (len(data.train), len(data.valid)) == (4, 2)
    assert np.array_equal(data.train.raw, whole.train.raw[:4])
    assert data.mean == pytest.approx(data.train.raw.mean() / 256)
    assert len(list(tmp_path.glob("*.npy"))) == 4
    for counts in ({"train": 10}, {"valid": 0}):
        with pytest.raises(ValueError, match="expected to take 1 to all of its 9 images"):
            ist.load_data(woof, **counts)  # type: ignore[arg-type]


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            for file in sorted((folder / name).rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            (folder / name).rmdir()

    return spoil


def empty(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        remove(name)(folder)
        (folder / name).mkdir()

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("val"), "expected a folder val or valid beside train, found none"),
        (lambda folder: make(folder, ("valid",)), "beside train, found val and valid"),
        (remove("val/n02_dog"), "woof/val: expected the 2 classes of train, .* none of n02_dog"),
        (
            lambda folder: (folder / "val" / "n02_dog").rename(folder / "val" / "wolf"),
            "woof/val: expected the 2 classes of train, found none of n02_dog, but wolf",
        ),
        (lambda folder: (folder / "val" / "wolf").mkdir(), "classes of train, found wolf"),
        (empty("train/n01_cat"), "train/n01_cat: expected images of the class, found none"),
        (empty("val/n01_cat"), "val/n01_cat: expected images of the class, found none"),
        (empty("train"), "train: expected a folder for each class, found none"),
        (lambda folder: make(folder / "test", ("n01_cat",)), "test: expected the 2 classes"),
    ],
)
def test_a_layout_that_does_not_fit(own: Path, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(own)
    with pytest.raises(ValueError, match=message) as caught:
        ist.load_data(own)
    assert "\n" not in str(caught.value)


def test_a_test_folder_without_labels_is_none(own: Path) -> None:
    (own / "test").mkdir()
    photo(1, 9, 9).save(own / "test" / "1.png")
    assert ist.load_data(own, size=8).test is None


def test_no_folder_of_either_kind(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="or folders train and val with a folder of images for"):
        ist.load_data(tmp_path)


@pytest.mark.parametrize("size", [0, -3, 5000, True, 2.5, "64"])
def test_sizes_that_are_none(woof: Path, size: Any) -> None:
    with pytest.raises(ValueError, match="size: expected 1 to 4096 pixels, found"):
        ist.load_data(woof, size=size)


def test_arguments_that_do_not_fit(woof: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers: at least one is needed, not 0"):
        ist.load_data(woof, workers=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cache: expected a folder, found the file"):
        ist.load_data(woof, cache=tmp_path / "file")


# ---- decoding


def by_hand(image: Image.Image, size: int) -> NDArray[Any]:
    """The square of an upright image in red, green and blue: a triangle's weights, in float64."""
    pixels = np.asarray(image, np.float64)
    for axis in (0, 1):
        side, length = min(image.size), pixels.shape[axis]
        scale = side / size
        wide = max(1.0, scale)
        centres = (length - side) / 2 + (np.arange(size) + 0.5) * scale
        distance = np.abs(np.arange(length) + 0.5 - centres[:, None]) / wide
        weights = np.maximum(0, 1 - distance)
        weights /= weights.sum(1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
    return pixels.transpose(2, 0, 1)


@pytest.mark.parametrize("size", [1, 7, 16, 64])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (300, 2), (3, 200)])
def test_resize_and_crop_by_hand(tmp_path: Path, shape: tuple[int, int], size: int) -> None:
    photo(3, *shape).save(tmp_path / "a.png")
    found = decode(str(tmp_path / "a.png"), size)
    assert found.shape == (3, size, size)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.abs(found - by_hand(photo(3, *shape), size)).max() <= 1.01  # two roundings


@pytest.mark.parametrize(("shape", "size"), [((64, 32), 16), ((40, 60), 20), ((24, 24), 24)])
def test_resize_and_crop_step_by_step(tmp_path: Path, shape: tuple[int, int], size: int) -> None:
    """Where the whole image scales to whole pixels, its middle is cut out afterwards."""
    image = photo(4, *shape)
    image.save(tmp_path / "a.png")
    width, height = (side * size // min(shape) for side in shape)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    steps = np.asarray(scaled.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
    assert np.array_equal(decode(str(tmp_path / "a.png"), size), steps)


@pytest.mark.parametrize("shape", [(160, 213), (161, 240), (640, 481), (60, 60)])
def test_a_jpeg_is_scaled_on_the_way(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Close to what is scaled from all of its pixels."""
    photo(5, *shape).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = by_hand(image.convert("RGB"), 32)
    assert np.abs(decode(str(tmp_path / "a.jpg"), 32) - expected).mean() < 1


def modes() -> Iterator[tuple[str, Image.Image, dict[str, Any], Image.Image]]:
    """Ending, an image, how it is saved, and what it looks like."""
    rgb = photo(6, 30, 20)
    grey = rgb.convert("L")
    alpha = Image.linear_gradient("L").resize((30, 20))
    white = Image.new("RGB", (30, 20), "white")
    on_white = Image.composite(rgb, white, alpha)
    clear = rgb.copy()
    clear.putalpha(alpha)
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    palette = rgb.quantize(40)
    hole = palette.copy()
    hole_rgb = np.asarray(palette.convert("RGB")).copy()
    hole_rgb[np.asarray(palette) == 7] = 255
    deep = (np.asarray(grey).astype(np.uint16) << 8) | 0x3F
    yield "jpg", grey, {"quality": 100}, grey.convert("RGB")
    yield "png", grey, {}, grey.convert("RGB")
    yield "png", rgb.convert("1"), {}, rgb.convert("1").convert("RGB")
    yield "png", palette, {}, palette.convert("RGB")
    yield "gif", palette, {}, palette.convert("RGB")
    yield "png", hole, {"transparency": 7}, Image.fromarray(hole_rgb)
    yield "png", clear, {}, on_white
    yield "webp", clear, {"lossless": True, "exact": True}, on_white
    yield "tiff", clear, {}, on_white
    yield "png", grey_alpha, {}, Image.composite(grey.convert("RGB"), white, alpha)
    yield "jpg", rgb.convert("CMYK"), {"quality": 100}, rgb
    yield "tiff", rgb.convert("CMYK"), {}, rgb
    yield "jpg", rgb.convert("YCbCr"), {"quality": 100, "subsampling": 0}, rgb
    yield "png", Image.fromarray(deep), {}, grey.convert("RGB")
    yield "tiff", Image.fromarray(deep), {}, grey.convert("RGB")
    yield "tiff", Image.fromarray(deep.astype(np.int32)), {}, grey.convert("RGB")
    yield "png", rgb, {"transparency": rgb.getpixel((0, 0))}, rgb


@pytest.mark.parametrize(("ending", "image", "options", "looks"), [*modes()])
def test_modes(
    tmp_path: Path, ending: str, image: Image.Image, options: dict[str, Any], looks: Image.Image
) -> None:
    image.save(tmp_path / f"a.{ending}", **options)
    found = decode_all([str(tmp_path / f"a.{ending}")], 20)[0]
    assert not isinstance(found, Fault)
    difference = np.abs(found - by_hand(looks, 20))
    if options.get("transparency") is not None and image.mode == "RGB":
        difference = np.sort(difference.ravel())[:-60]  # the pixels of one colour
    assert difference.mean() < (3 if ending == "jpg" else 0.6)
    assert difference.max() < (25 if ending == "jpg" else 2.5)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(9))
def test_orientation(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {"quality": 95} if ending == "jpg" else {}
    photo(7, 48, 26).save(tmp_path / f"a.{ending}", exif=exif, **options)
    with Image.open(tmp_path / f"a.{ending}") as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    assert upright.size == ((26, 48) if orientation > 4 else (48, 26))
    found = decode(str(tmp_path / f"a.{ending}"), 20)
    assert np.abs(found - by_hand(upright, 20)).max() <= 1.01
    found = decode(str(tmp_path / f"a.{ending}"), 13)  # a JPEG is scaled by its transform first
    assert np.abs(found - by_hand(upright, 13)).mean() <= 2


def test_a_damaged_orientation_is_none(tmp_path: Path) -> None:
    photo(8, 30, 20).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\1")
    photo(8, 30, 20).save(tmp_path / "b.jpg")
    first, second = decode_all([str(tmp_path / f"{name}.jpg") for name in "ab"], 16)
    assert np.array_equal(first, second)


# ---- what cannot be read


def png(width: int, height: int) -> bytes:
    """A file that promises pixels, and holds none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def truncated(file: Path) -> None:
    photo(9, 60, 60).save(file, "JPEG")
    file.write_bytes(file.read_bytes()[:-300])


def floats(file: Path) -> None:
    Image.fromarray(np.ones((9, 9), np.float32)).save(file, "TIFF")


def sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write(b"RIFF\xff\xff\xff\x7fWEBP")
        stream.truncate(layout.LARGEST + 1)


FAULTS: list[tuple[Any, str]] = [
    (truncated, "image file is truncated"),
    (lambda file: file.write_bytes(b""), "no image of a format that is known"),
    (lambda file: file.write_bytes(b"<html>404</html>"), "no image of a format that is known"),
    (lambda file: file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no im"),
    (lambda file: file.write_bytes(png(9500, 9500)), "9500 x 9500 pixels, more than 89,478,485"),
    (lambda file: file.write_bytes(png(20000, 20000)), "decompression bomb"),
    (floats, "floats, whose range is not known"),
    (sparse, "larger than 256 MiB"),
    (Path.mkdir, "a folder, a pipe, a socket or a device"),
    (getattr(os, "mkfifo", Path.mkdir), "a folder, a pipe, a socket or a device"),
    (lambda file: file.symlink_to(file), "Too many levels of symbolic links"),
    (lambda file: file.symlink_to("nowhere"), "No such file"),
    (lambda file: file.symlink_to("/dev/zero"), "a folder, a pipe, a socket or a device"),
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="files of a kind that Unix has")
def test_what_cannot_be_read_is_told_and_left_out(own: Path) -> None:
    sound = ist.load_data(own, size=8)
    for n in range(10, 40):
        photo(n, 9, 9).save(own / "train" / "n01_cat" / f"z{n}.png")
    for n, (spoil, _) in enumerate(FAULTS[:10]):
        spoil(own / "train" / "n01_cat" / f"bad{n:02}.JPEG")
    for n, (spoil, _) in enumerate(FAULTS[10:]):
        spoil(own / "val" / "n02_dog" / f"bad{n:02}.JPEG")
    with pytest.warns(
        UserWarning, match="13 images cannot be read and are left out: .*8 more"
    ) as w:
        data = ist.load_data(own, size=8)
    assert w[0].filename == __file__
    reasons = {Path(skipped.file).name: skipped.reason for skipped in data.skipped[:10]}
    assert [*reasons] == [f"bad{n:02}.JPEG" for n in range(10)]
    for (_, reason), found in zip(FAULTS, reasons.values(), strict=False):
        assert reason in found
    for (_, reason), skipped in zip(FAULTS[10:], data.skipped[10:], strict=True):
        assert reason in skipped.reason
    assert (len(data.train), len(data.valid)) == (39, 9)
    # in another order, since there are more files in turns
    assert {row.tobytes() for row in data.valid.raw} == {row.tobytes() for row in sound.valid.raw}
    with pytest.warns(UserWarning, match="left out"):
        assert same(data, ist.load_data(own, size=8, workers=2))


@pytest.mark.parametrize(
    ("images", "allowed"), [(1, 0), (2, 0), (3, 1), (9, 4), (30, 10), (1000, 10), (9025, 90)]
)
def test_limit_of_what_is_left_out(images: int, allowed: int) -> None:
    assert reading.most_skipped(images) == allowed


@pytest.mark.parametrize("workers", [1, 2])
def test_more_than_that_is_an_error(own: Path, workers: int) -> None:
    for n in range(5):
        (own / "train" / "n02_dog" / f"bad{n}.png").touch()
    with pytest.warns(UserWarning, match="left out"):
        ist.load_data(own, size=8)
    for n in range(5, 8):
        (own / "train" / "n02_dog" / f"bad{n}.png").touch()
    message = (
        "train: expected at most 8 of its 18 images to be unreadable, found 9 among the first .*: "
        r"n02_dog/bad0.png \(no image of a format that is known\), .*, 4 more"
    )
    (own / "train" / "n01_cat" / "a_bad.png").touch()
    with pytest.raises(ValueError, match=message) as caught:
        ist.load_data(own, size=8, workers=workers, cache=own / "kept")
    assert "\n" not in str(caught.value)
    assert not list((own / "kept").iterdir())


def test_a_class_that_is_lost_is_an_error(own: Path) -> None:
    for file in (own / "val" / "n01_cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="val: expected images of every class .* none of n01_cat"):
        ist.load_data(own, size=8)


def test_pillows_warnings_are_not_ours(own: Path) -> None:
    """pytest makes errors of warnings."""
    image = photo(1, 30, 30).quantize(9)
    image.save(own / "train" / "n01_cat" / "b.png", transparency=bytes(range(9)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not ist.load_data(own, size=8).skipped
        assert warnings.filters[0][0] == "always"
    assert not caught


# ---- processes


DEADLY = """
import os, signal
from initstats.images.decoding import decode_all

def lost(paths, size):
    if any("deadly" in path for path in paths):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_all(paths, size)
"""


def test_processes_give_the_same_bits_and_a_deadly_file_is_left_out(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH", 4)
    expected = ist.load_data(own, size=16)
    told: list[tuple[int, int]] = []
    data = ist.load_data(own, size=16, workers=2, progress=lambda *now: told.append(now))
    assert same(data, expected)
    assert told == [(0, 18), (4, 18), (8, 18), (9, 18), (13, 18), (17, 18), (18, 18)]
    photo(1, 9, 9).save(own / "train" / "n02_dog" / "zz_deadly.png")
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reading, "decode_all", importlib.import_module("deadly").lost)
    with pytest.warns(UserWarning, match="zz_deadly.png .its worker process was ended by SIGKILL"):
        data = ist.load_data(own, size=16, workers=2, cache=own / "kept")
    assert len(data.train) == 9
    # it may have been the system's fault: nothing is kept
    assert [file.name for file in (own / "kept").glob("*-train-*")] == []
    assert not workers_of(psutil.Process())


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    children = process.children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


RUN = """
import sys, time
from pathlib import Path
from initstats.images import read_images

def tell(done, total):
    if done:
        print("at work", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    folder, cache = map(Path, sys.argv[1:])
    read_images(folder, 64, {}, cache=cache, workers=2, progress=tell)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signals and processes as Linux has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_behind(woof: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "run.py", str(woof), "kept"]
    package = {"PYTHONPATH": str(Path(ist.__file__).parents[1])}
    driver = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | package,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert driver.stdout
    assert driver.stdout.readline() == "at work\n"
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(workers_of(psutil.Process(driver.pid))) == 2
    driver.send_signal(number)
    assert driver.wait(20)
    driver.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    left = list((tmp_path / "kept").iterdir())
    assert len(left) == (number == signal.SIGKILL)  # the next one clears up after who was killed
    data = ist.load_data(woof, size=64, cache=tmp_path / "kept")
    assert same(data, ist.load_data(woof, size=64))
    names = {file.name for file in (tmp_path / "kept").iterdir()}
    assert names == {f"woof-{split}-64px.{end}" for split in SPLITS for end in ("npy", "json")}


SPLITS = ("train", "valid")


def test_a_script_without_its_guard_is_refused(woof: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    for workers in (2, None):
        with pytest.raises(RuntimeError, match="put what asks for workers under `if __name__"):
            ist.load_data(woof, workers=workers)
    assert len(ist.load_data(woof, size=8, workers=1).train) == 9


# ---- the cache


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded."""
    done: list[str] = []

    def noted(paths: list[str], size: int) -> list[Any]:
        done.extend(paths)
        return decode_all(paths, size)

    monkeypatch.setattr(reading, "decode_all", noted)
    return done


def test_decoded_once_a_size(own: Path, tmp_path: Path, decodings: list[str]) -> None:
    plain = ist.load_data(own, size=16)
    decodings.clear()
    cache = tmp_path / "deep" / "kept"
    first = ist.load_data(own, size=16, cache=cache)
    assert len(decodings) == 18
    again = ist.load_data(str(own), size=16, cache=str(cache), workers=2)
    assert len(decodings) == 18
    for data in (first, again):
        assert same(data, plain)
        assert isinstance(data.train.raw, np.memmap)
        assert torch.equal(data.train.x, plain.train.x)
        assert (data.mean, data.std) == (plain.mean, plain.std)
    assert ist.load_data(own, size=8, cache=cache).size == 8
    assert len(decodings) == 36
    assert same(ist.load_data(own, size=16, cache=cache), plain)
    assert len(decodings) == 36
    assert len(list(cache.iterdir())) == 8
    # a writer of raw values would change a copy of them
    first.train.raw[0] += 1
    assert same(ist.load_data(own, size=16, cache=cache), plain)


def touch(folder: Path, cache: Path) -> None:
    file = folder / "train" / "n01_cat" / "n01_cat_0.JPEG"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def replace_image(folder: Path, cache: Path) -> None:
    file = folder / "train" / "n01_cat" / "n01_cat_0.JPEG"
    modified = file.stat().st_mtime_ns
    photo(77, 40, 30).save(file)
    os.utime(file, ns=(modified, modified))


def rename_image(folder: Path, cache: Path) -> None:
    inside = folder / "train" / "n01_cat"
    (inside / "n01_cat_0.JPEG").rename(inside / "n01_cat_9.JPEG")


def move_image(folder: Path, cache: Path) -> None:
    inside = folder / "train"
    (inside / "n01_cat" / "n01_cat_0.JPEG").rename(inside / "n02_dog" / "n01_cat_0.JPEG")


def add_image(folder: Path, cache: Path) -> None:
    photo(78, 9, 9).save(folder / "train" / "n01_cat" / "z.png")


def spoil_cache(change: Callable[[bytes], bytes], end: str) -> Callable[[Path, Path], None]:
    def spoil(folder: Path, cache: Path) -> None:
        file = cache / f"woof-train-16px.{end}"
        content = change(file.read_bytes())
        file.unlink()  # it may be mapped
        file.write_bytes(content)

    return spoil


def other(end: str, make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    def spoil(folder: Path, cache: Path) -> None:
        (cache / f"woof-train-16px.{end}").unlink()
        make(cache / f"woof-train-16px.{end}")

    return spoil


def pickled(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.array([print], object), allow_pickle=True)


STALE: list[Callable[[Path, Path], None]] = [
    touch,
    replace_image,
    rename_image,
    move_image,
    add_image,
    spoil_cache(lambda content: content[:-1], "npy"),
    spoil_cache(lambda content: content[:40], "npy"),
    spoil_cache(lambda content: b"", "npy"),
    spoil_cache(lambda content: content[:-1] + bytes([content[-1] ^ 1]), "npy"),
    spoil_cache(lambda content: content.replace(b"(9, 3", b"(3, 9"), "npy"),
    spoil_cache(lambda content: content.replace(b"|u1", b"|i1"), "npy"),
    spoil_cache(lambda content: content.replace(b"False", b"True ", 1), "npy"),
    spoil_cache(lambda content: content[:-1], "json"),
    spoil_cache(lambda content: b"[]", "json"),
    spoil_cache(lambda content: b"7", "json"),
    spoil_cache(lambda content: content.replace(b'"skipped": {', b'"skipped": {"x": "", '), "json"),
    spoil_cache(lambda content: content.replace(b"{}", b'{"0": "bad"}'), "json"),
    spoil_cache(lambda content: content.replace(b'"skipped": {}', b'"skipped": []'), "json"),
    spoil_cache(lambda content: b'{"fingerprint": "\xff"}', "json"),
    other("npy", Path.mkdir),
    other("json", Path.mkdir),
    other("npy", pickled),
    other("npy", getattr(os, "mkfifo", Path.touch)),
    other("json", getattr(os, "mkfifo", Path.touch)),
    other("npy", lambda file: None),
    other("json", lambda file: None),
]  # fmt: skip


@pytest.mark.parametrize("spoil", STALE)
def test_a_cache_that_does_not_fit_is_made_anew(
    own: Path, tmp_path: Path, decodings: list[str], spoil: Callable[[Path, Path], None]
) -> None:
    cache = tmp_path / "kept"
    ist.load_data(own, size=16, cache=cache)
    spoil(own, cache)
    decodings.clear()
    if (cache / "woof-train-16px.npy").is_dir() or (cache / "woof-train-16px.json").is_dir():
        with pytest.raises(OSError, match="woof-train-16px"):
            ist.load_data(own, size=16, cache=cache)
        return
    data = ist.load_data(own, size=16, cache=cache)
    assert len(decodings) in (9, 10)
    assert all("/train/" in path for path in decodings)
    assert same(data, ist.load_data(own, size=16))
    decodings.clear()
    assert same(ist.load_data(own, size=16, cache=cache), data)
    assert not decodings


def test_another_decoding_makes_the_cache_anew(
    own: Path, tmp_path: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ist.load_data(own, size=16, cache=tmp_path / "kept")
    monkeypatch.setattr(caches, "VERSION", "of tomorrow")
    ist.load_data(own, size=16, cache=tmp_path / "kept")
    assert len(decodings) == 36


def test_what_is_left_out_is_kept(own: Path, tmp_path: Path, decodings: list[str]) -> None:
    bad = own / "val" / "n02_dog" / "bad.png"
    bad.write_bytes(b"none")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"val/n02_dog/bad.png \(no image of"):
            data = ist.load_data(own, size=16, cache=tmp_path / "kept")
        assert [Path(file).name for file, _ in data.skipped] == ["bad.png"]
    assert len(decodings) == 19
    photo(5, 9, 9).save(bad)
    assert len(ist.load_data(own, size=16, cache=tmp_path / "kept").valid) == 10


def test_a_file_that_the_system_refuses_is_tried_again(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Image.open

    def refused(path: Any, *args: Any, **options: Any) -> Any:
        if "n02_dog_1" in str(path) and "train" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *args, **options)

    monkeypatch.setattr(Image, "open", refused)
    with pytest.warns(UserWarning, match=r"n02_dog_1.JPEG \(Permission denied\)"):
        data = ist.load_data(own, size=16, cache=tmp_path / "kept")
    assert len(data.train) == len(data.train.raw) == 8
    monkeypatch.setattr(Image, "open", opened)
    assert len(ist.load_data(own, size=16, cache=tmp_path / "kept").train) == 9


@pytest.mark.parametrize("refused", ["mkdir", "mkdtemp", "posix_fallocate"])
def test_a_cache_that_cannot_be_written_is_no_error(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """A folder that is read-only, a disk that is full."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    cache = tmp_path / "deep" / "kept"
    where: Any = {"mkdir": Path, "mkdtemp": tempfile, "posix_fallocate": os}[refused]
    monkeypatch.setattr(where, refused, fail)
    assert same(ist.load_data(own, size=16, cache=cache), ist.load_data(own, size=16))
    assert not (cache.is_dir() and list(cache.iterdir()))


# ---- arrays in a file


def whole(split: Split) -> tuple[bytes, str, int]:
    return split.raw.tobytes(), type(split.raw).__name__, len(split)


def test_a_split_in_a_file_is_sent_by_its_name(woof: Path, tmp_path: Path) -> None:
    data = ist.load_data(woof, size=64, cache=tmp_path)
    parts = [data.train, data.train.first(3), data.valid.first(1)]
    halves = [Split(p.raw[len(p) // 2 :], p.labels, p.shape, 0.0, 1.0) for p in parts]
    sent = dumps_mapped([*parts, *halves])
    assert len(sent) < 4000
    for split, back in zip([*parts, *halves], pickle.loads(sent), strict=True):
        assert whole(split) == whole(back)
        assert torch.equal(split.x, back.x)
    # by value where it is no view of whole rows, and for other machines
    assert np.array_equal(pickle.loads(dumps_mapped(data.train.raw[::2])), data.train.raw[::2])
    back = pickle.loads(pickle.dumps(data.train))
    assert np.array_equal(back.raw, data.train.raw)
    assert len(pickle.dumps(data.train)) > data.train.raw.nbytes
    assert len(dumps_mapped(back)) > back.raw.nbytes
    file = tmp_path / "woof-train-64px.npy"
    file.rename(tmp_path / "elsewhere")
    file.write_bytes((tmp_path / "elsewhere").read_bytes())
    with pytest.raises(OSError, match="woof-train-64px.npy was changed while it was in use"):
        pickle.loads(sent)


# ---- columns


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize(("features", "count"), [(1, 1), (7, 64), (784, 65), (129, 300), (300, 0)])
def test_columns_have_the_bits_of_x(kind: str, features: int, count: int) -> None:
    generator = np.random.default_rng(features)
    pixels = generator.integers(0, 256, (90, features)).astype(kind)
    split = ist.Dataset.from_arrays((pixels, range(90)), (pixels, range(90))).train
    chosen = generator.integers(-90, 90, count)
    columns = split.columns(chosen)
    assert (columns.shape, columns.dtype) == ((features, count), torch.float32)
    assert columns.is_contiguous()
    assert torch.equal(columns, split.x[torch.from_numpy(chosen)].T)


@pytest.mark.parametrize(("mean", "std"), [(0.1304, 0.3073), (0.9, 1e-3), (1 / 3, 3.0), (0.0, 1.0)])
def test_columns_of_every_byte(mean: float, std: float) -> None:
    split = Split(np.arange(256, dtype=np.uint8)[:, None], np.arange(256), (1,), mean, std)
    assert torch.equal(split.columns(np.arange(256)), split.x.T)
    assert torch.equal(split.columns(np.arange(256)), split.tile(0, 256))


@pytest.mark.parametrize("chosen", [[96], [-97], [0, 5, 2**40]])
def test_columns_that_are_not_there(toy: ist.Dataset, chosen: list[int]) -> None:
    with pytest.raises(IndexError, match="the split holds 96 samples, found"):
        toy.train.columns(np.array(chosen))


def test_columns_of_masks_are_refused(toy: ist.Dataset) -> None:
    with pytest.raises(IndexError, match="expected whole numbers, found bool"):
        toy.train.columns(np.ones(96, bool))


# ---- a study of images


def test_a_study_of_images(
    woof: Path, tmp_path: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ist.load_data(woof, size=8, cache=tmp_path / "run" / "cache")
    grid = ist.Grid(inits=["matched"], activations=["relu"], depth=2, seeds=1, samples=4)
    options: dict[str, Any] = {"out": tmp_path / "run", "source": str(woof)}
    table = ist.run_sweep(grid, data, **options)
    config = load_config(tmp_path / "run" / "grid.toml")
    assert (config["data"], config["size"]) == (str(woof), 8)
    assert ist.Grid.from_toml(tmp_path / "run" / "grid.toml") == grid
    decodings.clear()
    assert len(ist.predict_run(tmp_path / "run")) > 0
    assert not decodings
    assert set(table["dataset"]) == {"woof"}
    with pytest.raises(ValueError, match="size: 8 there, 16 asked"):
        ist.run_sweep(grid, ist.load_data(woof, size=16), **options)
    (tmp_path / "bad.toml").write_text("size = '8'\n")
    with pytest.raises(ValueError, match="bad.toml: size: a whole number is expected, not '8'"):
        load_config(tmp_path / "bad.toml")


def test_the_command_line_keeps_images_beside_the_run(
    woof: Path, tmp_path: Path, decodings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"inits": ["matched"], "activations": ["relu"], "depth": 2, "seeds": 1, "samples": 4}
    own = {"data": str(woof), "plugins": []}
    folder, failed, _ = _sweep(fields | own, 8, tmp_path / "run", False, None, 1, None)
    assert failed is None
    assert len(list((folder / "cache").iterdir())) == 4
    # what it wrote is enough to go on with it
    config = load_config(folder / "grid.toml") | {"seeds": 2, "plugins": []}
    decodings.clear()
    _sweep(config, None, folder, False, None, 1, None)
    assert "2 cells (1 new)" in capsys.readouterr().out
    assert not decodings
    for size in (8, None):
        x, y = next(batches([("data", str(woof))], None, training=False, size=size))
        assert x.shape == (9, 3, size or 64, size or 64)
        assert y is not None
    with pytest.raises(
        ValueError, match=r"--size is for image folders: samples of mnist are \(1, "
    ):
        given_data("mnist", 64)
    assert given_data("mnist", kept=64).size is None


def test_a_mean_takes_little_memory() -> None:
    pixels = np.resize(np.arange(256, dtype=np.uint8), (8, 2**21))
    tracemalloc.start()
    try:
        data = ist.Dataset.from_arrays((pixels, range(8)), (pixels[:1], [0]))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * pixels.nbytes
    finally:
        tracemalloc.stop()
    assert data.mean == pytest.approx(255 / 512, rel=1e-15)
