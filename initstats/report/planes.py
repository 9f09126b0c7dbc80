"""Numbers for a script: planes of bytes as text, and what each of them means."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Plane = NDArray[Any]


def shortened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Numbers rounded to 16 significant bits, whose last byte is zero and packs to nothing.

    >>> float(shortened(np.array([1 / 3], np.float32))[0])
    0.33333587646484375
    """
    bits = values.view("<u4")
    rounded = np.where(np.isfinite(values), bits + 0x80, bits) & np.uint32(0xFFFFFF00)
    return rounded.astype("<u4").view("<f4")


def layout(planes: Mapping[str, Plane]) -> list[dict[str, Any]]:
    """The name, kind and shape of each plane, in the order of their bytes."""
    return [
        {
            "name": name,
            "kind": f"{'f' if plane.dtype.kind == 'f' else 'u'}{plane.dtype.itemsize}",
            "shape": plane.shape,
        }
        for name, plane in planes.items()
    ]


def packed(planes: Mapping[str, Plane]) -> str:
    """All planes as text: bytes of equal weight together, which compresses better."""
    parts = [
        np.ascontiguousarray(plane).view(np.uint8).reshape(-1, plane.dtype.itemsize).T.tobytes()
        for plane in planes.values()
    ]
    return base64.b64encode(gzip.compress(b"".join(parts), 6, mtime=0)).decode("ascii")


def in_script(value: Any) -> Markup:
    """JSON that cannot end the script element it stands in, nor begin a comment there."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
