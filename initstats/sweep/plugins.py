"""Configurations, and the modules of the user's own that they name."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from initstats.failure import in_a_line
from initstats.files import read_text
from initstats.registry import import_own

BESIDE = ("data", "size", "plugins")
"""What a configuration may hold beside the fields of `Grid`."""


def load_plugins(plugins: Iterable[str]) -> list[ModuleType]:
    """Import modules, or files that end in .py, which register entries; each one once.

    Raises:
        ValueError: one cannot be imported.
    """
    modules = []
    for plugin in plugins:
        try:
            modules.append(import_own(plugin))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            foreseen = isinstance(error, ImportError | OSError | SyntaxError | ValueError)
            reason = getattr(error, "strerror", None) or (error if foreseen else in_a_line(error))
            raise ValueError(f"cannot import plugin {plugin!r}: {reason}") from error
    return modules


def load_config(path: str | Path, *, trusted: bool | Collection[str] = False) -> dict[str, Any]:
    """The fields of `Grid` in a TOML file, and maybe those of `BESIDE`; plugins are imported.

    `data` and `size` are what `load_data` takes.

    Relative paths among `data` and `plugins` begin at the file's folder; they are returned as
    absolute ones.

    Args:
        trusted: whether the plugins that it names may run their code here; or which of them may.

    Raises:
        ValueError: the file cannot be read, is not TOML, or its plugins are no list of names; one
            is not trusted, or cannot be imported.
    """
    text = read_text(path)
    try:
        config = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"cannot read {path}: it nests too deeply") from error
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    folder, plugins = Path(path).parent, config.get("plugins", [])
    if not (isinstance(plugins, list) and all(isinstance(name, str) for name in plugins)):
        raise ValueError(f"{path}: plugins: a list of names is expected, not {plugins!r}")
    plugins = [absolute_plugin(name, folder) for name in plugins]
    known = set() if isinstance(trusted, bool) else set(map(absolute_plugin, trusted))
    if trusted is not True and (strange := [name for name in plugins if name not in known]):
        raise ValueError(
            f"{path} names plugins, whose code would run here: {', '.join(strange)}; if you trust "
            "them, say so with trusted=True, or on the command line with --trust-plugins or "
            "--plugin NAME for each"
        )
    load_plugins(plugins)
    if "data" in config:
        if not isinstance(config["data"], str):
            raise ValueError(f"{path}: data: text is expected, not {config['data']!r}")
        config["data"] = absolute_data(config["data"], folder)
    size = config.get("size", 1)
    if not isinstance(size, int) or isinstance(size, bool):
        raise ValueError(f"{path}: size: a whole number is expected, not {size!r}")
    return config | ({"plugins": plugins} if plugins else {})


def absolute_data(source: str, folder: str | Path = ".") -> str:
    """What `load_data` reads, its path made absolute; the embedded `mnist` has none."""
    return source if source == "mnist" else str((Path(folder) / source).resolve())


def absolute_plugin(plugin: str, folder: str | Path = ".") -> str:
    """A plugin, the path of a file made absolute; the name of a module has none."""
    return str((Path(folder) / plugin).resolve()) if plugin.endswith(".py") else plugin
