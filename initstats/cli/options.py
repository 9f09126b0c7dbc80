"""Options that a grid's fields make, options that hold lists, and functions by name."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

import typer

from initstats.cli.app import OwnError, is_raised_here
from initstats.cli.completion import activations, inits, listed, networks, recipes
from initstats.failure import in_a_line
from initstats.registry import import_own, split_names
from initstats.stopping import request

NAMES, NUMBERS, RATES = "NAMES", "NUMBERS", "RATES"

_NAMED = re.compile(r"(.+?):([^:()]+)(\(.*\))?", re.DOTALL)

GRID: dict[str, tuple[Any, str]] = {
    "inits": (NAMES, "Initializations: comma-separated, or repeat the option."),
    "activations": (NAMES, 'Activations, e.g. "relu,general_relu(leak=0.2,sub=0.3)".'),
    "networks": (NAMES, "Networks: mlp, cnn, resnet, resmlp, rescnn, transformer, or a plugin's."),
    "recipes": (
        NAMES,
        "Networks that come with their own init alone: gpt2, fixup ... (see list recipes); without "
        "--networks and --inits, nothing else.",
    ),
    "widths": (NUMBERS, "Units of a layer, e.g. 50,200; of a cnn, channels of the first."),
    "depth": (int, "Layers."),
    "seeds": (NUMBERS, "How many seeds, or which: 10 means 0 to 9; 3,5,8."),
    "split": (str, "train, valid or test."),
    "samples": (int, "How many of the split's first samples. \\[default: all]"),
    "backward": (bool, "Measure gradients too. \\[default: backward]"),
    "dtype": (str, "float32, float64 or bfloat16: of weights and tensors."),
    "device": (str, "cpu, cuda or cuda:NUMBER."),
}
"""Every field of `Grid`: what it holds, and what the help says of it. It is written down here
because the help must not wait for `Grid`, which takes torch."""
TRAINING: dict[str, tuple[Any, str]] = {
    "activations": (NAMES, 'Activations, e.g. "relu,general_relu(leak=0.2,sub=0.3)".'),
    "inits": (NAMES, "Initializations: comma-separated, or repeat the option."),
    "networks": (NAMES, "cnn, mlp, resnet, a plugin's, or module:function of your own."),
    "widths": (
        NUMBERS,
        "Units of a layer; of a cnn, channels of the first. \\[default: 8, mlp 50]",
    ),
    "depths": (NUMBERS, "Layers before the last one. \\[default: cnn 4, resnet 6, mlp 1]"),
    "seeds": (NUMBERS, "How many seeds, or which: 20 means 0 to 19; 3,5,8. \\[default: 20]"),
    "images": (int, "How many of the first training images. \\[default: all]"),
    "epochs": (int, "Passes over them. \\[default: 3]"),
    "batch": (int, "Images of a step. \\[default: 64]"),
    "optimizer": (str, "sgd, momentum or adamw. \\[default: momentum]"),
    "schedule": (str, "Of the learning rate: linear, to 0 at the end, or constant."),
    "weight_decay": (float, "Weight decay. \\[default: 0; adamw 0.01]"),
    "loss": (str, "cross_entropy, or mse to the number of the class."),
    "augment": (NAMES, "Random changes of images: shift, flip, crop. \\[default: none]"),
    "rates": (RATES, "Learning rates that each variant chooses from, e.g. 0.01,0.03,0.1."),
    "lr": (
        float,
        "One learning rate for all; another one may rank them otherwise.",
    ),
    "tuning_seeds": (int, "Runs to compare rates by. \\[default: 2]"),
    "tuning_images": (int, "Training images for that. \\[default: a fifth, 5,000 or more]"),
    "target": (float, "Training accuracy that steps are counted to. \\[default: 0.9]"),
    "watch": (NUMBERS, "Steps at which activation statistics are measured; -1 is the end."),
}
"""Every field of `TrainingGrid`, likewise."""

COMPLETED = {
    "inits": inits,
    "activations": activations,
    "networks": networks,
    "recipes": recipes,
}
"""The names that a shell completes."""


def takes(
    fields: Mapping[str, tuple[Any, str]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command that has an option for each field, and gets those given as a dictionary."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def filled(**values: Any) -> None:
            given = {name: _read(name, fields[name][0], values.pop(name)) for name in fields}
            if given.get("recipes") == []:  # from Python, that asks for none
                raise ValueError("recipes: the list is empty: name at least one")
            command({name: value for name, value in given.items() if value is not None}, **values)

        _, *others = inspect.signature(command, eval_str=True).parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        options = [
            inspect.Parameter(name, kind, default=None, annotation=_option(name, *fields[name]))
            for name in fields
        ]
        vars(filled)["__signature__"] = inspect.Signature([*options, *others])
        return filled

    return decorate


def names(values: Sequence[str]) -> list[str]:
    """The names that an option holds, given once or more, each time comma-separated."""
    return [name for value in values for name in split_names(value)]


def numbers(option: str, values: Sequence[str], kind: type[Any] = int) -> list[Any]:
    """The numbers that an option holds; a ValueError names it where one is none."""
    found = []
    for item in names(values):
        try:
            found.append(kind(item))
        except ValueError:
            whole = "whole " * (kind is int)
            raise ValueError(f"{option}: {item!r} is not a {whole}number") from None
    return found


def load_own(plugins: Sequence[str] | None) -> None:
    """Import the plugins that are named, and undo what they did to the program itself."""
    if not plugins:  # then nothing need wait for torch
        return
    from initstats.sweep import load_plugins

    load_plugins(plugins)
    request.listen_again()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream and stream.closed:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def named_function(path: str) -> Any:
    """The function that `module:function` names; the module may be in the working directory.

    `module:function(layers=6)` is it with these arguments.

    Raises:
        ValueError: there is no such file, module or function, or arguments that cannot be read.
        OwnError: the module's own code raised an error.
    """
    parts = _NAMED.fullmatch(path)
    if not parts:
        raise ValueError(f"{path!r} names no function: write module:function, or file.py:function")
    module, name, arguments = parts.groups()
    values, named = _read_arguments(arguments) if arguments else ([], {})
    found = getattr(_own_module(module), name, None)
    if found is None:
        raise ValueError(f"module {module!r} has no function {name!r}")
    return partial(found, *values, **named) if arguments and callable(found) else found


def _read_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The values of a call's arguments, which are written as in Python."""
    try:
        call = ast.parse(f"_{text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("more than one call")
        named = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        if None in named:
            raise ValueError("what is unpacked has no name")
        return [ast.literal_eval(each) for each in call.args], cast("dict[str, Any]", named)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"{text} are no arguments: write numbers, strings, True, False, None, and lists of "
            "them, as in 'module:function(layers=6)'"
        ) from error


def _own_module(name: str) -> ModuleType:
    if name.endswith(".py") and not Path(name).is_file():
        raise ValueError(f"there is no file {name}")
    try:
        return import_own(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no module {error.name!r}, neither installed nor in the working "
                "directory; a file is named with its .py"
            ) from error
        raise OwnError(f"importing {name} failed: {error}") from error
    except KeyboardInterrupt:
        raise
    except ImportError as error:
        if is_raised_here(error):
            raise ValueError(str(error)) from error
        raise OwnError(f"importing {name} failed: {error}") from error
    except BaseException as error:
        raise OwnError(f"importing {name} raised {in_a_line(error)}") from error


def _option(name: str, kind: Any, text: str) -> Any:
    """A field of a grid as typer wants it."""
    spellings = {
        "networks": ("--networks", "--network"),
        "depths": ("--depths", "--depth"),
        "backward": ("--backward/--no-backward",),
    }
    many = kind in (NAMES, NUMBERS, RATES)
    known = COMPLETED.get(name)
    option = typer.Option(
        *spellings.get(name, ()),
        metavar=kind if many else None,
        autocompletion=listed(known) if known else None,
        help=text,
    )
    return Annotated[(list[str] if many else kind) | None, option]


def _read(name: str, kind: Any, value: Any) -> Any:
    """The value of an option as a grid takes it; a single number of seeds is how many."""
    if value is None or kind not in (NAMES, NUMBERS, RATES):
        return value
    if kind == NAMES:
        return names(value)
    listed = numbers(name, value, float if kind == RATES else int)
    return listed[0] if name == "seeds" and len(listed) == 1 else listed
