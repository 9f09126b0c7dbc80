"""Input of any kind: it is read, or a ValueError of one line says why not.

By default a few examples of each, always the same; `pytest -m fuzz` tries many new ones.
"""

from __future__ import annotations

import gzip
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import initstats as ist
from initstats import bench
from initstats.activations import ACTIVATIONS
from initstats.idx import read_idx
from initstats.inits import INITS
from initstats.networks import NETWORKS
from initstats.registry import Catalog, split_names
from initstats.sweep import load_config

Strategy = st.SearchStrategy[Any]
CATALOGS: tuple[Catalog[Any], ...] = (ACTIVATIONS, INITS, NETWORKS)


def told(read: Callable[[], object]) -> None:
    """Read; whatever is wrong is told in one line."""
    message = "no error"
    try:
        read()
    except ValueError as error:
        message = str(error).strip()
    assert message
    assert "\n" not in message


def in_file(name: str, content: bytes, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder) / name).write_bytes(content)
        told(lambda: read(file))


# IDX files

SIZES = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))


@st.composite
def idx_files(draw: st.DrawFn) -> bytes:
    """A header and some bytes, often as many as it promises; gzipped or not; spoiled or not."""
    magic = draw(st.sampled_from([2051, 2049, 0, 2**32 - 1]))
    shape = draw(st.lists(SIZES, min_size=0, max_size=4))
    body = draw(st.binary(max_size=200) | st.just(bytes(range(125))))
    content = struct.pack(f">{1 + len(shape)}I", magic, *shape) + body
    if draw(st.booleans()):
        content = gzip.compress(content, 1, mtime=0)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=4)) + content[at + draw(SIZES) :]
    return content


def check_idx(content: bytes) -> None:
    for kind, dimensions in (("images", 3), ("labels", 1)):

        def read(file: Path, kind: str = kind, dimensions: int = dimensions) -> None:
            array = read_idx(file, kind)
            assert array.ndim == dimensions
            assert array.tobytes() in (content, *_unzipped(content))[-1]

        in_file("file", content, read)


def _unzipped(content: bytes) -> list[bytes]:
    return [gzip.decompress(content)] if content.startswith(b"\x1f\x8b") else []


# names

NUMBERS = st.one_of(
    st.sampled_from(
        ["0", "-1", "1e999", "nan", "1e-320", "1e7", "0:1:5", "1:9:3log", "::", "true"]
    ),
    st.floats().map(repr),
    st.integers().map(str),
    st.text(max_size=5),
)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A name of a catalogue, maybe with parameters, or what only looks like one."""
    catalog = draw(st.sampled_from(CATALOGS))
    name = draw(st.sampled_from([*catalog]) | st.text(max_size=8))
    known = [*catalog.family(name).defaults] if name in catalog else []
    keys = st.sampled_from(known) if known else st.text(max_size=4)
    pairs = draw(st.lists(st.tuples(keys | st.text(max_size=3), NUMBERS), max_size=3))
    inside = ",".join(f"{key}={value}" for key, value in pairs)
    return f"{name}({inside})" if pairs else name


def check_name(text: str) -> None:
    told(lambda: split_names(text))
    for catalog in CATALOGS:

        def read(catalog: Any = catalog) -> None:
            for name in catalog.expand(text):
                entry = catalog[name]
                assert catalog[entry.name] is entry

        told(read)


# configurations

FIELDS = [*ist.Grid.model_fields, "network", "data", "plugins", "strange"]
PLAIN = st.one_of(
    st.booleans(), st.integers(-(2**64), 2**64), st.floats(), spellings(), st.text(max_size=9),
    st.datetimes(), st.dates(), st.times(),
)  # fmt: skip
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
TABLES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)
GRID_TOML = ist.Grid(inits=["matched"], activations=["relu", "tanh"], seeds=2).to_toml()


@st.composite
def spoiled_toml(draw: st.DrawFn) -> bytes:
    content, at = GRID_TOML.encode(), draw(st.integers(0, len(GRID_TOML)))
    return content[:at] + draw(st.binary(max_size=6)) + content[at + draw(st.integers(0, 9)) :]


def check_config(content: bytes) -> None:
    def read(file: Path) -> None:
        load_config(file)
        grid = ist.Grid.from_toml(file)
        file.write_text(grid.to_toml())
        assert ist.Grid.from_toml(file) == grid

    in_file("grid.toml", content, read)


# tables

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5)
)
COLUMNS = st.lists(CELLS, min_size=3, max_size=3)


@st.composite
def spoiled_tables(draw: st.DrawFn) -> pd.DataFrame:
    """A sweep's table with columns of other values, of other types, or without some."""
    table = pd.DataFrame(SWEPT.copy())
    for name in draw(st.lists(st.sampled_from([*table.columns]), max_size=3, unique=True)):
        if draw(st.booleans()):
            table[name] = pd.Series((draw(COLUMNS) * len(table))[: len(table)], table.index, object)
        else:
            table = table.drop(columns=name)
    return table.iloc[draw(st.integers(0, 3)) :: draw(st.integers(1, 5))]


def check_table(table: pd.DataFrame) -> None:
    told(lambda: ist.summarize(table))


RESULTS = st.dictionaries(
    st.sampled_from(["ratios", "timings", "memory", "machine", "engine"]),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=5,
    ),
)


SWEPT = pd.DataFrame()


@pytest.fixture(scope="module", autouse=True)
def swept(toy: ist.Dataset) -> None:
    grid = ist.Grid(inits=["matched"], activations=["relu", "tanh"], widths=[4], depth=2, seeds=2)
    globals()["SWEPT"] = ist.run_sweep(grid, toy)


PROPERTIES: dict[str, tuple[Strategy, Callable[[Any], None]]] = {
    "idx": (idx_files() | st.binary(max_size=60), check_idx),
    "name": (spellings() | st.text(), check_name),
    "configuration": (TABLES.map(lambda table: tomli_w.dumps(table).encode()), check_config),
    "spoiled configuration": (spoiled_toml() | st.binary(max_size=60), check_config),
    "table": (spoiled_tables(), check_table),
    "benchmark": (
        RESULTS.map(json.dumps) | st.text(),
        lambda text: told(lambda: bench.from_json(text)),
    ),
}


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize(
    "examples", [60, pytest.param(50_000, marks=pytest.mark.fuzz)], ids=["short", "long"]
)
def test_what_cannot_be_read_is_told_in_a_line(name: str, examples: int) -> None:
    strategy, check = PROPERTIES[name]
    budget = settings(
        max_examples=examples // 6 if name == "table" else examples,  # which takes its time
        derandomize=examples < 1000,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    budget(given(strategy)(check))()
