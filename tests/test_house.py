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

# from the ground up: a room imports only those before it, so that no two import each other
ORDER = (
    *("lazy", "plural", "registry", "machine", "draws", "gaussian", "drafts", "failure", "mapped"),
    *(
        "recipes",
        "processes",
        "stopping",
        "files",
        "fitting",
        "compiling",
        "columns",
        "idx",
        "images",
    ),
    *("split", "data", "activations", "inits", "moments"),
    *("theory", "backprop", "networks", "stack", "probe"),
    *("workers", "luggage", "cluster", "store", "sweep", "prediction", "plan", "repair"),
    *(
        "diagnosis",
        "survival",
        "survey",
        "outcome",
        "differences",
        "schemes",
        "plots",
        "report",
    ),  # tables into words, figures and pages
    *("callbacks", "foundations", "training", "bench", "audits", "assertions", "coordinates"),
    *("cli", "pytest_plugin", "__main__"),
)
# what works without torch sees only this of the rooms before it: the engine is none of its business
TABLES = {"registry", "lazy", "plural", "drafts", "failure", "mapped", "processes"}
TABLES |= {"moments.table", "probe.kinds"}
MAY_SEE = {
    "store": TABLES,
    "diagnosis": TABLES,
    "outcome": TABLES | {"store"},
    "differences": TABLES | {"diagnosis", "outcome", "store"},
    "plots": TABLES | {"diagnosis", "outcome", "differences", "store"},
    "report": TABLES | {"diagnosis", "outcome", "differences", "store", "plots", "probe.summary"},
}
# the one call upwards, made when it is asked for: `probe.report(folder)`
UPWARDS = {"probe": {"report.model.write_model_report"}}
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
    """Full names of all that is imported, inside functions too, or read off the package."""
    names: set[str] = set()
    package = packages(tree)
    for node in statements(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            head, *rest = ast.unparse(node).split(".")
            if head in package:
                names.add(".".join(["initstats", *rest]))
    return names


def packages(tree: ast.Module) -> set[str]:
    """What a module calls the whole package."""
    aliases = [a for node in statements(tree) if isinstance(node, ast.Import) for a in node.names]
    return {
        alias.asname or "initstats"
        for alias in aliases
        if alias.name == "initstats" or (alias.name.startswith("initstats.") and not alias.asname)
    }


def seen(tree: ast.Module) -> set[str]:
    """What a module uses of the package, such as `sweep.grid.Grid`; public names by their home."""
    inside = {name.removeprefix("initstats.") for name in imported(tree) if "initstats." in name}
    return {home(name) for name in inside - {"__version__"}}


def home(name: str) -> str:
    """A public name with the module that defines it; any other name as it is."""
    value = getattr(ist, name) if name in ist.__all__ else None
    module = getattr(value, "__module__", "")
    return f"{module.removeprefix('initstats.')}.{name}" if module else name


def crossings(room: str, tree: ast.Module) -> set[str]:
    """What a module of a room uses of the package, and must not."""
    return {name for name in seen(tree) if not may_see(room, name)}


def may_see(room: str, name: str) -> bool:
    other = name.split(".")[0]
    if other == room or name in UPWARDS.get(room, ()):
        return True
    if room in MAY_SEE:
        return any(f"{name}.".startswith(f"{allowed}.") for allowed in MAY_SEE[room])
    return other in ORDER[: ORDER.index(room)]


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
    assert room(path) in ORDER, "a new room needs a place in the order of this test"
    assert not crossings(room(path), TREES[path])


@pytest.mark.parametrize(
    ("room", "source", "crossing"),
    [
        ("registry", "import initstats as ist\ndef f(): return ist.run_sweep", "sweep"),
        ("gaussian", "import initstats\nx = initstats.theory.propagate", "theory"),
        ("data", "import initstats.registry\nx = initstats.measure", "probe"),
        ("inits", "from initstats import Grid", "sweep"),
        ("stack", "from initstats.probe import Probe", "probe"),
        ("activations", "def f(): from initstats.inits import INITS", "inits"),
        ("sweep", "from initstats import prediction", "prediction"),
        ("plots", "from initstats.stack import run_stack", "stack"),
        ("plots", "from initstats.probe.recording import Recorder", "probe"),
        ("plots", "import initstats as ist\nx = ist.probe.Probe", "probe"),
        ("plots", "from initstats.moments import Moments", "moments"),
        ("report", "from initstats.sweep import Grid", "sweep"),
        ("diagnosis", "from initstats.plots import FIGURES", "plots"),
    ],
)
def test_a_wall_has_no_holes(room: str, source: str, crossing: str) -> None:
    assert {name.split(".")[0] for name in crossings(room, ast.parse(source))} == {crossing}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("probe", "import initstats as ist\nx = ist.registry.Catalog, ist.__version__"),
        ("plots", "from initstats.probe.kinds import LINEAR\nfrom initstats import summarize"),
        ("bench", "import initstats.plots.timings\nfrom initstats import write_report"),
        ("report", "if TYPE_CHECKING:\n    from initstats.theory.diagram import Diagram"),
    ],
)
def test_a_wall_has_doors(room: str, source: str) -> None:
    assert not crossings(room, ast.parse(source))


@pytest.mark.parametrize("path", [path for path in SOURCES if room(path) in MAY_SEE])
def test_presentation_never_imports_torch(path: Path) -> None:
    assert "torch" not in {name.split(".")[0] for name in imported(TREES[path])}


def test_presentation_loads_no_torch() -> None:
    code = f"""
import importlib, sys
for name in {[*MAY_SEE]}:
    importlib.import_module(f"initstats.{{name}}")
    if "torch" in sys.modules:
        sys.exit(f"initstats.{{name}} loads torch")
"""
    assert run(code) == ""


def test_import_is_cheap() -> None:
    assert not HEAVY & loaded("import initstats; initstats.__version__; dir(initstats)")


@pytest.mark.parametrize("command", ["", "'sweep', ", "'bench', "])
def test_help_is_cheap(command: str) -> None:
    asked = f"sys.argv = ['initstats', {command}'--help']"
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
