"""The kernels compiled anew, in processes of their own: the numbers are those of other runs."""

from __future__ import annotations

import errno
import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from numba.core.caching import IndexDataCacheFile

import initstats as ist

FIRST_RUN = """
import os, re, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock
import torch
from numba.core.caching import CacheImpl
import initstats as ist

x = torch.randn(700, 30, generator=torch.Generator().manual_seed(0))
data = ist.Dataset.from_arrays((x, [0] * 700), (x, [0] * 700))
grid = ist.Grid(inits=["matched"], activations=["relu"], widths=[20], depth=3, seeds=4)

def half(done, total):
    if 2 * done == total:
        os._exit(0)

if __name__ == "__main__":
    torch.set_num_threads(1)
    situation, out = sys.argv[1], Path(sys.argv[2])
    if situation == "empty cache":
        ist.run_sweep(grid, data, out=out / "this process")
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            ist.run_sweep(grid, data, out=out / "another process", executor=executor)
        ist.run_sweep(grid, data, out=out / "killed", progress=half)
    else:
        with mock.patch.object(CacheImpl, "_locator_classes", []):
            from initstats.moments import kernels_numba
        ist.run_sweep(grid, data, out=out / "no cache")
        (code,) = kernels_numba._add.inspect_llvm().values()
        print(*re.findall("^define .*kernels_numba[0-9]+([a-z_]+)B", code, re.M))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of all runs, and what a process without a cache printed."""
    out = tmp_path_factory.mktemp("runs")
    (script := out / "first_run.py").write_text(FIRST_RUN)
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = os.environ | settings | {"NUMBA_CACHE_DIR": str(out / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", script, situation, out],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for situation in ("empty cache", "no cache")
    ]
    printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    study = runpy.run_path(str(script))
    ist.run_sweep(study["grid"], study["data"], out=out / "later")
    assert len(ist.load_table(out / "killed")) == len(ist.load_table(out / "later")) / 2
    ist.run_sweep(study["grid"], study["data"], out=out / "killed")
    return out, printed[1]


@pytest.mark.parametrize("situation", ["this process", "another process", "killed", "no cache"])
def test_the_first_run_gives_the_bits_of_a_later_one(
    runs: tuple[Path, str], situation: str
) -> None:
    for load in (ist.load_table, ist.load_histograms):
        first, later = load(runs[0] / situation), load(runs[0] / "later")
        pd.testing.assert_frame_equal(first, later, check_exact=True)
        for name in first.select_dtypes("float"):
            assert first[name].to_numpy().tobytes() == later[name].to_numpy().tobytes(), name


def test_a_kernel_calls_no_copy_of_its_parts(runs: tuple[Path, str]) -> None:
    assert set(runs[1].split()) == {"_add"}


@pytest.fixture
def halved(tmp_path: Path) -> ModuleType:
    """A module with a kernel, whose cache is beside it."""
    file = tmp_path / "halved.py"
    file.write_text(
        "from initstats.compiling import kernel\n@kernel()\ndef half(x):\n    return x / 2\n"
    )
    return imported(file)


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_a_full_disk_takes_the_cache_alone(halved: ModuleType) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch.object(IndexDataCacheFile, "_save_data", side_effect=full):
        assert halved.half(3.0) == 1.5


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("kept", [0, 5, 40])
def test_a_damaged_cache_is_compiled_again(halved: ModuleType, ending: str, kept: int) -> None:
    assert halved.half(3.0) == 1.5
    (file,) = Path(str(halved.__file__)).parent.glob(f"__pycache__/*.{ending}")
    file.write_bytes(file.read_bytes()[:kept])
    assert imported(Path(str(halved.__file__))).half(5.0) == 2.5
    assert imported(Path(str(halved.__file__))).half(7.0) == 3.5


@pytest.mark.parametrize(("first", "second"), [("f8", "f4"), ("f4", "f8"), ("i4", "f4")])
def test_who_compiles_at_the_same_moment_keeps_codes_of_its_own(
    halved: ModuleType, first: str, second: str
) -> None:
    """Both look at an empty index; the last one to write the index is the first to keep a code."""
    other = imported(Path(str(halved.__file__)))
    save: Callable[..., None] = IndexDataCacheFile._save_index

    def meanwhile(files: IndexDataCacheFile, overloads: object) -> None:
        save(files, overloads)
        with (
            mock.patch.object(IndexDataCacheFile, "_save_index", save),
            mock.patch.object(IndexDataCacheFile, "_load_index", return_value={}),
        ):
            other.half(np.ones(1, second))

    with mock.patch.object(IndexDataCacheFile, "_save_index", meanwhile):
        halved.half(np.ones(1, first))
    for kind in (first, second):
        assert imported(Path(str(halved.__file__))).half(np.full(1, 3, kind)) == 1.5
