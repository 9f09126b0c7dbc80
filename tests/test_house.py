"""The walls of the house: who may import whom, and what a library never does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import initstats as ist

PACKAGE = Path(ist.__file__).parent
ROOT = Path(__file__).parents[1]

FLOORS = {
    "registry": 0,
    "gaussian": 0,
    "data": 1,
    "activations": 1,
    "inits": 1,
    "moments": 1,
    "theory": 2,
    "backprop": 2,
    "stack": 2,
    "probe": 2,
    "workers": 2,
    "machine": 0,
    "sweep": 3,
    "store": 3,
    "prediction": 3,
    "repair": 3,
    "foundations": 4,
    "training": 4,
    "bench": 4,
    "cli": 5,
    "__main__": 5,
}
# what turns tables into words, figures and pages: each sees the ones before it
PRESENTATION = ["diagnosis", "plots", "report"]
WITHOUT_TORCH = ["store", *PRESENTATION]
HEAVY = {"torch", "numpy", "pandas", "scipy", "numba", "matplotlib", "seaborn", "jinja2"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def room(path: Path) -> str:
    """The module, or the folder that a module has grown into."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that can run: what only a type checker reads is left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from statements(child)


def imported(tree: ast.Module) -> set[str]:
    """Full names of all that is imported, inside functions too."""
    names: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def neighbours(tree: ast.Module) -> set[str]:
    """The rooms that a module imports from, public names counted as the room they live in."""
    inside = {name.split(".")[1] for name in imported(tree) if name.startswith("initstats.")}
    return {ist._HOME.get(name, name) for name in inside} - {"__version__"}


def may_import(room: str, other: str) -> bool:
    if other == room or room in ("cli", "__main__"):
        return True
    if room in PRESENTATION:
        return other in PRESENTATION[: PRESENTATION.index(room)] or FLOORS.get(other, 9) <= 3
    if other not in FLOORS:  # studies draw and write pages of their own
        return other in PRESENTATION and FLOORS[room] == 4
    return FLOORS[other] < FLOORS[room] or (FLOORS[other] == FLOORS[room] > 1)


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    # beside the package under test, be it the checkout's or an installed one
    result = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after some code."""
    return set(run(f"{code}\nimport sys; print(*sys.modules, sep='\\n')").splitlines())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    if path.parent == PACKAGE and path.stem == "__init__":
        return  # the door, which loads the rooms lazily
    assert room(path) in {*FLOORS, *PRESENTATION}, "a new room needs a floor in this test"
    above = {other for other in neighbours(TREES[path]) if not may_import(room(path), other)}
    assert not above


@pytest.mark.parametrize("path", [path for path in SOURCES if room(path) in WITHOUT_TORCH])
def test_presentation_never_imports_torch(path: Path) -> None:
    assert "torch" not in {name.split(".")[0] for name in imported(TREES[path])}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_presentation_loads_no_torch(name: str) -> None:
    assert "torch" not in loaded(f"import initstats.{name}")


def test_import_is_cheap() -> None:
    assert not HEAVY & loaded("import initstats; initstats.__version__; dir(initstats)")


def test_help_is_cheap() -> None:
    asked = "sys.argv = ['initstats', '--help']"
    code = (
        f"import sys; from initstats.cli import main; {asked}\ntry: main()\nexcept SystemExit: pass"
    )
    assert not HEAVY & loaded(code)


@pytest.mark.parametrize("name", [*ist.__all__, "__version__"])
def test_public_names(name: str) -> None:
    assert name in dir(ist)
    assert getattr(ist, name) is not None


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'initstats' has no attribute 'kaiming'"):
        ist.kaiming  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_say_what_a_file_is(path: Path) -> None:
    forbidden = {"utils", "core", "base", "common", "helpers"}
    assert not forbidden & {*path.relative_to(PACKAGE).with_suffix("").parts}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_library_leaves_the_world_alone(path: Path) -> None:
    forbidden = {"eval", "exec", "logging.basicConfig", "torch.set_default_dtype"}
    forbidden |= {"torch.manual_seed", "torch.seed", "random.seed", "np.random.seed"}
    if room(path) not in ("cli", "__main__"):
        forbidden |= {"print", "sys.stdout.write", "sys.stderr.write"}
    calls = {ast.unparse(n.func) for n in ast.walk(TREES[path]) if isinstance(n, ast.Call)}
    assert not forbidden & calls


def test_top_level() -> None:
    listing = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listing.returncode:
        pytest.skip("not a git checkout: build products may lie about")
    top = {line.split("/")[0] for line in listing.stdout.splitlines()}
    rooms = {"initstats", "reports", "tests", "pyproject.toml", "README.md", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} <= rooms
