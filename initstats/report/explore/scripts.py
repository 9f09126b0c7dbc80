"""The modules of a page's script as one, in which nothing is loaded."""

from __future__ import annotations

import re

from markupsafe import Markup

_IMPORT = re.compile(r"^import\s[^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=class|const|function|async)", re.MULTILINE)


def inlined(modules: str) -> Markup:
    """Modules that follow each other as one module: what they export is known to all of it.

    >>> inlined('import { one } from "./one.js";\\nexport const two = 2 * one;')
    Markup('const two = 2 * one;')
    """
    return Markup(_EXPORT.sub("", _IMPORT.sub("", modules)))
