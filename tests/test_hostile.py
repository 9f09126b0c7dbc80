"""Input that means harm, or nothing: it is told of in one line, printed as it is, and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import initstats as ist

PACKAGE = Path(ist.__file__).parent
RUNS_WHAT_IT_READS = {
    "eval", "exec", "compile", "__import__",
    "pickle.load", "pickle.loads", "pickle.Unpickler",
    "marshal.load", "marshal.loads", "shelve.open", "dill.load", "dill.loads", "joblib.load",
    "torch.load", "np.load", "numpy.load", "pd.read_pickle", "pandas.read_pickle", "yaml.load",
    "os.system", "os.popen",
}  # fmt: skip
ITS_OWN = {
    ("workers.py", "pickle.loads"): "an engine and its tasks, from the driver that started it",
    ("processes.py", "pickle.loads"): "a call and its outcome, over the pipe between the two",
    ("luggage.py", "pickle.loads"): "an engine and its tasks, from the driver, by Dask",
    ("plan/driving.py", "pickle.loads"): "outcomes that the same process has just pickled",
    (
        "images/cache.py",
        "np.load",
    ): "pixels alone: numpy refuses pickles in it unless asked for them",
}
"""What only processes of one run send to each other: a pipe, or a file of their own."""


def calls() -> Iterator[tuple[str, str]]:
    """Every call of the package: its file, and the name of what is called."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(PACKAGE).as_posix(), ast.unparse(node.func)
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
                yield path.relative_to(PACKAGE).as_posix(), f"{node.arg}="
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "shelve"):
                yield path.relative_to(PACKAGE).as_posix(), f"from {node.module}"


def test_nothing_that_is_read_is_run() -> None:
    strange = {*RUNS_WHAT_IT_READS, "allow_pickle=", "from pickle", "from marshal", "from shelve"}
    assert {call for call in calls() if call[1] in strange} == set(ITS_OWN)
