"""The frame that all pages have in common. How they look is the templates' matter."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from initstats import __version__
from initstats.report.drawing import Drawing
from initstats.report.words import typeset


class Shown(NamedTuple):
    """A drawing on a page, under its title and over its caption."""

    drawing: Drawing
    title: str
    caption: str

    @property
    def name(self) -> str:
        """Its id on the page, and the name of its files."""
        return self.drawing.name

    @property
    def svg(self) -> Markup:
        """The drawing as markup."""
        return Markup(self.drawing.inline)


def render(template: str, values: Mapping[str, Any]) -> str:
    """A page as HTML.

    Args:
        template: its name.
        values: what the template asks for.
    """
    environment = Environment(
        loader=PackageLoader("initstats"),
        autoescape=True,  # names come from users
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values, version=__version__)


def shown(drawing: Drawing, title: str, function: Callable[..., object]) -> Shown:
    """A drawing by a function, whose docstring is the caption."""
    caption = " ".join((inspect.getdoc(function) or "").split())
    return Shown(drawing, typeset(title), typeset(caption))
