"""The explorable figure of a study's page: a map of verdicts, and what is drawn of its cells."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from initstats.diagnosis.verdicts import (
    ASPECTS,
    HEALTHY,
    UNKNOWN,
    VERDICTS,
    Limits,
)
from initstats.plots.results import Results, headings
from initstats.report.explore.block import (
    FLAGS,
    QUANTILES,
    RULES,
    SOURCES,
    VIEWS,
    Data,
    Frame,
)
from initstats.report.explore.table import Row, rows_of
from initstats.report.planes import in_script, layout, packed

Meanings = Mapping[str, Mapping[str, str]]

MOST = 2_400_000
"""Characters of data that a page holds itself; further networks and widths lie beside it."""
CHOICES = {
    "factor": (2, 3, 5, 10, 30, 100),
    "correlation": (0.9, 0.95, 0.99, 0.999),
    "gradient_factor": (2, 3, 5, 10, 30, 100, 1000),
}
"""The limits that can be chosen."""
FIRST = (("torch_default", "relu"), ("kaiming_normal", "relu"))
"""The pairs that are drawn at first, where the network has such."""


@dataclass(frozen=True)
class Exploration:
    """What a page needs to show its explorable figure; its templates are in `explore/`.

    Attributes:
        maps: the rows of each network and width, by its heading.
        activations: names, in the order of the columns.
        fitted: the inits whose weights depend on the data.
        depth: layers of the deepest stack.
        shallow: whether there is a network whose first n layers are a network of n layers.
        reasons: of every other network, why they are not; verdicts on it are about all its layers.
        histograms: whether there are histograms.
        manifest: what the planes of the data mean, as JSON that may stand in a script.
        data: for each network and width the data in the page; None where they lie beside it.
        beside: files with the data of further networks and widths, by name.
    """

    maps: Mapping[str, Sequence[Row]]
    activations: Sequence[str]
    fitted: Collection[str]
    depth: int
    shallow: bool
    reasons: Collection[str]
    histograms: bool
    manifest: Markup
    data: Sequence[str | None]
    beside: Mapping[str, str]


def exploration(results: Results, *, meanings: Meanings | None = None) -> Exploration:
    """The explorable figure of a study, or of what figures show of it where it is large.

    Args:
        results: the study's.
        meanings: sentences by name, of "init" and "activation".
    """
    few, frame = results.few, Frame.of(results.few)
    maps, texts, planes = dict[str, list[Row]](), list[str](), None
    for block, heading in headings(few.summary).items():
        data = Data(few.within([block]) if len(few.blocks) > 1 else few, block, frame)
        maps[heading] = rows_of(data.words, frame.inits)
        planes = data.planes()
        texts.append(packed(planes))
    inside = [sum(map(len, texts[: n + 1])) <= MOST for n in range(len(texts))]
    files = [f"explore-{n}.js" for n in range(1, len(texts) + 1)]
    kept = {block.network: _is_extended(block.network, few) for block in few.blocks}
    by_kind = {k: [name for name in kept if kept[name] is k] for k in (False, None)}
    manifest = _manifest(few, frame, meanings or {}) | {
        "networks": [
            {"network": network, "width": width, "known": known}
            | {"reason": _reason([network], kept[network])}
            for (network, width), known in zip(few.blocks, frame.known, strict=True)
        ],
        "planes": layout(planes or {}),
        "files": [None if there else file for file, there in zip(files, inside, strict=True)],
    }
    return Exploration(
        maps,
        frame.activations,
        [name for name in frame.inits if name in results.fitted],
        frame.depth,
        True in kept.values(),
        [_reason(names, is_extended) for is_extended, names in by_kind.items() if names],
        bool(few.shapes),
        in_script(manifest),
        [text if there else None for text, there in zip(texts, inside, strict=True)],
        {
            file: f"(globalThis.initstatsData ??= {{}})[{json.dumps(file)}] = {json.dumps(text)};\n"
            for file, text, there in zip(files, texts, inside, strict=True)
            if not there
        },
    )


def _manifest(few: Results, frame: Frame, meanings: Meanings) -> dict[str, Any]:
    """What the script must know, but where the data are."""
    return {
        "inits": frame.inits,
        "activations": frame.activations,
        "seeds": frame.seeds,
        "depth": frame.depth,
        "views": [
            {"tensor": tensor, "direction": direction, "label": VIEWS[tensor, direction]}
            for tensor, direction in frame.views
        ],
        "statistics": [
            {
                "name": each.name,
                "label": each.label,
                "logarithmic": each.scale.logarithmic,
                "shown": each.scale.shown,
            }
            for each in frame.statistics
        ],
        "quantiles": QUANTILES,
        "verdicts": _verdicts(),
        "aspects": ASPECTS,
        "healthy": HEALTHY,
        "unknown": UNKNOWN,
        "sources": SOURCES,
        "limits": vars(Limits()),
        "choices": CHOICES,
        "first": _first(few),
        "meanings": {
            kind: {name: words[name] for name in names if name in words}
            for kind, names in (("init", frame.inits), ("activation", frame.activations))
            for words in (meanings.get(kind, {}),)
        },
    }


def _first(results: Results) -> list[tuple[str, str]]:
    """The pairs that are drawn at first, of those that the network has which is shown then."""
    table = results.table
    rows = table.loc[table["network"] == results.blocks[0].network, ["init", "activation"]]
    there = [*rows.drop_duplicates().itertuples(index=False, name=None)]
    return [pair for pair in FIRST if pair in there] or there[:1]


def _is_extended(network: str, results: Results) -> bool | None:
    """Whether its first n layers are a network of n layers; None where that is not known."""
    is_plain = network not in {*results.measured("stream")["network"].unique()}
    # only streams of these networks may have scales that depend on depth
    return results.extended.get(network, True if is_plain else None)


def _reason(networks: Sequence[str], is_extended: bool | None) -> str:
    """Why the first layers of networks do not tell of shallower ones; empty if they do."""
    *others, last = networks
    names = f"{', '.join(others)} and {last}" if others else last
    if is_extended is None:
        return f"It is not known whether the first n layers of {names} are a network of n layers."
    if is_extended:
        return ""
    return (
        f"The layers of {names} depend on how many there are, by their scales or otherwise: the "
        "first n layers are not a network of n layers."
    )


def _verdicts() -> list[dict[str, Any]]:
    """The verdicts, gravest first, with the rule of each: a bit of the flags, or a comparison."""
    found: list[dict[str, Any]] = []
    for verdict in VERDICTS:
        rule: dict[str, Any] = {"name": verdict.name, "aspect": verdict.aspect}
        if verdict.name in RULES:
            rule |= dict(zip(("number", "is", "limit"), RULES[verdict.name], strict=True))
        elif verdict.name in FLAGS:
            rule["bit"] = 1 << (FLAGS.index(verdict.name) + 1)
        found.append(rule)
    return found
