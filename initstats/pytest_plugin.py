"""A plugin of pytest: models that are audited as tests, and lock files of initializations.

It is loaded in each run of pytest where this package is installed, and so imports nothing of it
before it is asked for.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

MODELS, LOCKS = "initstats_models", "initstats"
LONGEST = 120
"""Letters, at most, of the name of a lock file; file systems take 255 bytes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options `--initstats` and `--initstats-update`, and the setting of models."""
    group = parser.getgroup("initstats", "initializations of neural networks")
    group.addoption(
        "--initstats",
        action="store_true",
        help=f"audit the initialization of each model of the setting {MODELS}, as tests",
    )
    group.addoption(
        "--initstats-update",
        action="store_true",
        help="write lock files of initializations anew in place of comparing with them",
    )
    parser.addini(
        MODELS,
        "models that --initstats audits, one a line: module:factory, or file.py:factory, and, if "
        "wanted, a published scheme such as gpt2 or a lock file such as net.toml",
        type="linelist",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add a test for each model."""
    if not config.getoption("--initstats"):
        return
    lines = [*map(str, config.getini(MODELS))]
    if not lines:
        raise pytest.UsageError(
            f"--initstats audits the models of the setting {MODELS}, which is empty: write there "
            "module:factory, one a line"
        )
    for line in lines:
        factory, *expected = shlex.split(line)
        if len(expected) > 1:
            raise pytest.UsageError(f"{MODELS}: {line!r} is more than a factory and a scheme")
        items.append(
            ModelItem.from_parent(
                session,
                name=f"initstats::{' '.join([factory, *expected])}",
                factory=factory,
                expected=expected,
            )
        )


class ModelItem(pytest.Item):
    """The audit of one model."""

    def __init__(self, *, factory: str, expected: list[str], **given: Any) -> None:
        super().__init__(**given)
        self._factory, self._expected = factory, expected

    def runtest(self) -> None:
        """Make the model and compare it."""
        from initstats.assertions import assert_initialized
        from initstats.cli.model import own_model

        model = own_model(self._rooted(self._factory))
        expected = self._expected[0] if self._expected else None
        if expected is None or not expected.endswith(".toml"):
            assert_initialized(model, expected)
            return
        _locked(model, self.config.rootpath / expected, self.config)

    def _rooted(self, factory: str) -> str:
        path, colon, name = factory.partition(":")
        here = self.config.rootpath / path
        return f"{here}{colon}{name}" if path.endswith(".py") and here.is_file() else factory

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What differs, without a traceback; of an error in the user's code their own frames."""
        from initstats.cli.app import OwnError
        from initstats.failure import traceback_of

        error = excinfo.value
        if isinstance(error, OwnError):
            return "\n".join(filter(None, [traceback_of(error.__cause__ or error), str(error)]))
        if isinstance(error, (AssertionError, ValueError)):
            return str(error)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The place that a report names."""
        return self.config.rootpath, None, self.name


@pytest.fixture(name="assert_initialized")
def _assert_initialized() -> Callable[..., None]:
    """`initstats.assert_initialized`."""
    from initstats.assertions import assert_initialized

    return assert_initialized


@pytest.fixture(name="assert_healthy")
def _assert_healthy() -> Callable[..., None]:
    """`initstats.assert_healthy`."""
    from initstats.assertions import assert_healthy

    return assert_healthy


@pytest.fixture
def initialization_lock(request: pytest.FixtureRequest) -> Callable[..., None]:
    """A function that compares a model with the lock file of this test.

    `initialization_lock(model)`; each further call in one test takes a name of its own,
    `initialization_lock(model, "name")`. The file is `initstats/MODULE/CLASS.TEST[PARAMETERS].toml`
    beside the test's module; `--initstats-update` writes it.
    """
    seen = set[Path]()

    def compare(model: nn.Module, name: str = "") -> None:
        __tracebackhide__ = True
        path = _lock_of(request.node, name)
        if path in seen:
            again = f"with the name {name!r} again" if name else "again"
            raise ValueError(
                f"initialization_lock is called {again} in one test, which would have one file for "
                'two models: give each further call a name, initialization_lock(model, "name")'
            )
        seen.add(path)
        _locked(model, path, request.config)

    return compare


def _lock_of(item: pytest.Item, name: str) -> Path:
    """The file of a test, in a folder of its module."""
    classes = [each.name for each in item.listchain() if isinstance(each, pytest.Class)]
    full = ".".join([*classes, item.name, *filter(None, [name])])
    safe = re.sub(r"[^\w.\[\]-]", "_", full)
    if safe != full or len(safe) > LONGEST:  # others may become the same
        safe = f"{safe[:LONGEST]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    return item.path.parent / LOCKS / item.path.stem / f"{safe}.toml"


def _locked(model: nn.Module, path: Path, config: pytest.Config) -> None:
    """Compare a model with a lock file, or write that."""
    __tracebackhide__ = True
    from initstats.assertions import assert_initialized, check_numbers
    from initstats.audits import audit
    from initstats.drafts import write_whole

    if config.getoption("--initstats-update"):
        check_numbers(model)
        text = audit(model).to_toml()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            reason = error.strerror or error
            raise AssertionError(f"the lock file {path} cannot be written: {reason}") from None
    elif not path.is_file():
        raise AssertionError(
            f"there is no {path}: pytest --initstats-update writes it, to be kept with the tests"
        )
    else:
        assert_initialized(model, path)
