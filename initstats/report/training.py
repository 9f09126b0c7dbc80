"""The page of a training study: which variants train better, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

import numpy as np
import pandas as pd

from initstats.diagnosis import seed_interval
from initstats.plots import Trained
from initstats.plots.style import decimal
from initstats.plots.trained import VARIANT
from initstats.plural import counted
from initstats.report import comparison as answer
from initstats.report import prediction, rates
from initstats.report.comparison import interval
from initstats.report.embedded import Report
from initstats.report.page import (
    FILES,
    Files,
    Page,
    Shown,
    claim_page,
    figures_of,
    left_out,
)
from initstats.report.printed import Column, Table, percent, printed, significant
from initstats.report.record import (
    of_environment,
    of_failures,
    of_sessions,
    public_grid,
    seeds_of,
    some,
)

NETWORK = [Column("network"), Column("width", "number"), Column("depth", "number")]
ENTRIES = [Column("init", "head"), Column("activation", "code")]
OUTCOME = [
    Column("learning rate", "number", "{:g}".format, ("lr",)),
    Column("failed", "number", lambda failed, runs: f"{failed} of {runs}", ("failed", "runs")),
    Column(
        "validation accuracy, %",
        "number",
        interval,
        ("valid_accuracy", "low", "high"),
    ),
    Column("test accuracy, %", "number", lambda value: decimal(value, 2), ("test_accuracy",)),
    Column("training loss", "number", lambda value: significant(value, 3), ("train_loss",)),
    Column("steps to target", "number", "{:,.0f}".format, ("steps_to_target",)),
]


def write_training_report(
    trained: Trained,
    folder: str | Path,
    *,
    files: Files = FILES,
    rows: bool = True,
    config: bool = True,
) -> Report:
    """Write the report of a training study: `index.html`, a page that needs no other file.

    Beside it lie `comparisons.csv`, `variants.csv`, `table.csv`, of a run its `train.toml`, and,
    written when it is in its place, `figures/` (PNG and SVG).

    Args:
        trained: the results, finished or not.
        folder: where to.
        files: those of figures that are wanted.
        rows: whether to write all rows of the table, and to link to them.
        config: whether to write `train.toml`, which a run keeps in its own folder itself.

    Returns:
        The path of the page.

    Raises:
        ValueError: no run is finished yet; the folder holds somebody else's page, or
            one of another kind; no such figure.
        OSError: the folder cannot be written.
    """
    if trained.table.empty:
        raise ValueError("the training table has no rows: no run is finished yet")
    claim_page("training", Path(folder), files)  # before the work, not after it
    page = compose(trained, figures_of("training", trained), rows=rows)
    if not config:
        others = {name: page.tables[name] for name in page.tables if name != "train.toml"}
        page = replace(page, tables=others)
    return page.publish(folder, files)


def compose(trained: Trained, figures: Sequence[Shown] = (), *, rows: bool = True) -> Page:
    """The page of a training study, with some figures."""
    outcomes, found = variants(trained), comparisons(trained)
    net = NETWORK * (len(trained.nets) > 1)
    tables: dict[str, pd.DataFrame | str] = {"variants.csv": outcomes}
    if found is not None:
        tables["comparisons.csv"] = found
    if rows:
        tables["table.csv"] = trained.table
    if trained.run:
        tables["train.toml"] = public_grid(trained.run)
    settings = trained.run.settings if trained.run else {}
    values = {
        "dataset": str(trained.table["dataset"].iloc[0]),
        "networks": networks(trained),
        "runs": len(trained.last),
        "missing": max(trained.asked - len(trained.last), 0),
        "seeds": trained.table["seed"].nunique(),
        "epochs": int(trained.table["epoch"].max()),
        "target": percent(settings["target"]) if "target" in settings else "",
        "heading": answer.question(trained),
        "lead": answer.summary(trained),
        "answers": answer.answers(trained),
        "unlisted": answer.unlisted(trained),
        "shifts": answer.shifts(trained.activations),
        "limits": answer.limits(trained),
        "failed_words": answer.failures(trained),
        "failures": failures(trained, found),
        "rate_words": rates.sentences(trained),
        "rates": rates.table(trained),
        "power_words": prediction.sentences(trained),
        "power": prediction.table(trained),
        "comparisons": None if found is None else printed(found, net + compared(trained)),
        "ranked": found is not None and (found["method"] == "Wilcoxon").any(),
        "variants": printed(outcomes, net + ENTRIES + OUTCOME),
        "some": trained.left_out,
        "left_out": left_out("training", trained),
        "errors": {} if trained.failures is None else of_failures(trained.failures),
        "facts": facts(trained),
        "config": tables.get("train.toml", ""),
        "baseline": f" --baseline {quote(trained.baseline)}" if trained.baseline else "",
        "own": any(":" in net.network for net in trained.nets),
    }
    return Page("training", values, figures, tables)


def comparisons(trained: Trained) -> pd.DataFrame | None:
    """All comparisons, as `summarize_training` gives them, with those on the test images.

    These have the columns `test_difference`, `test_low` and `test_high`.
    """
    found = trained.comparisons
    if found is None:
        return None
    test = trained.compared("test_accuracy")
    names = {name: f"test_{name}" for name in ("difference", "low", "high")}
    if test is None:
        return found.assign(**dict.fromkeys(names.values(), np.nan))
    return found.merge(test[[*VARIANT, *names]].rename(columns=names), on=VARIANT)


def compared(trained: Trained) -> list[Column]:
    """The columns of the table of comparisons."""
    kind, baseline = trained.versus
    failed = Column("failed", "number", "{} : {}".format, ("failed", "baseline_failed"))
    return [
        Column(trained.panel_kind, "head"),
        Column(f"against {baseline}", "code", str, (kind,)),
        Column("seeds", "number"),
        *[failed] * (not trained.healthy.all()),
        Column("difference", "number", _difference, ("difference", "low", "high", "method")),
        Column("p", "number", significant, ("p_holm",)),
        Column("P(better)", "number", percent, ("p_better",)),
        Column("on test images", "number", _points, ("test_difference", "test_low", "test_high")),
        Column("verdict", "prose", _verdict, ("verdict", "seeds_needed")),
    ]


def _verdict(verdict: str, needed: float) -> str:
    """The verdict, and how many more seeds would decide it."""
    if np.isnan(needed):
        return verdict
    return f"{verdict}: {decimal(needed, 0)} more seeds" if np.isfinite(needed) else verdict


def _points(*numbers: float) -> str:
    return interval(*(100 * number for number in numbers))


def _difference(difference: float, low: float, high: float, method: str) -> str:
    return _points(difference, low, high) + " r" * (method == "Wilcoxon")


def failures(trained: Trained, found: pd.DataFrame | None) -> Table | None:
    """The variants of which runs failed; None where none did."""
    names = ["network", "init", "activation"]
    last = trained.last.astype(dict.fromkeys([*names, "outcome"], str))
    counts = last.groupby([*VARIANT, "outcome"], sort=False).size().unstack(fill_value=0)
    counts = counts.assign(runs=counts.sum(axis=1))
    counts = counts.reindex(columns=["diverged", "chance", "runs"], fill_value=0).reset_index()
    counts = counts[counts["diverged"] + counts["chance"] > 0]
    if counts.empty:
        return None
    counts["p_failed_holm"] = np.nan
    if found is not None:
        p = found[[*VARIANT, "p_failed_holm"]].astype(dict.fromkeys(names, str))
        counts = counts.drop(columns="p_failed_holm").merge(p, "left", on=VARIANT)
    columns = [
        *ENTRIES,
        Column("runs", "number"),
        Column("diverged", "number"),
        Column("at chance", "number", str, ("chance",)),
        Column("p", "number", significant, ("p_failed_holm",)),
    ]
    return printed(counts, NETWORK * (len(trained.nets) > 1) + columns)


def variants(trained: Trained) -> pd.DataFrame:
    """What the runs of each variant came to, one row each; means over those that trained.

    Returns:
        The columns of a variant; `lr`; `runs` and how many `failed`; `valid_accuracy` with its 95%
        Student-t interval `low` and `high`, and `test_accuracy`, in percent; `train_loss`;
        `steps_to_target`, over those runs that reached it.
    """
    rows = trained.last.assign(failed=trained.last["outcome"].astype(str) != "trained")
    healthy = rows.assign(percent=100 * rows["valid_accuracy"])[~rows["failed"]]
    every = rows.groupby(VARIANT, observed=True, sort=True)
    found = every.agg(lr=("lr", "first"), runs=("seed", "size"), failed=("failed", "sum"))
    accuracy = seed_interval(healthy, "percent", VARIANT).rename(columns={"mean": "valid_accuracy"})
    means = healthy.groupby(VARIANT, observed=True)[["test_accuracy", "train_loss"]].mean()
    means["test_accuracy"] *= 100
    reached = healthy.groupby(VARIANT, observed=True)["steps_to_target"].mean()
    return found.join([accuracy, means, reached]).reset_index()


def networks(trained: Trained) -> str:
    """The networks, in words."""
    return some([_network(*net) for net in trained.nets])


def _network(network: str, width: int, depth: int) -> str:
    """A network in words; a model of the user's own has sizes of its own."""
    return f"{network} of width {width} and depth {depth}" if width or depth else network


def facts(trained: Trained) -> dict[str, str]:
    """How the numbers came about, as far as that is known."""
    table, run, sessions = trained.table, trained.run, trained.sessions
    runs = len(trained.last)
    found = {
        "data": str(table["dataset"].iloc[0]),
        "networks": networks(trained),
        "seeds": seeds_of(table),
        "epochs": f"{table['epoch'].max()}: {table['step'].max():,} updates",
        "finished": f"{runs:,} of {counted(max(trained.asked, runs), 'run')}",
    }
    if run:
        found |= {
            "data fingerprint" if name == "data" else name.replace("_", " "): _written(value)
            for name, value in run.settings.items()
            if name != "dataset" and not (name == "rates" and run.settings.get("lr"))
        }
        found["engine"] = ", ".join(f"{name} {value}" for name, value in run.engine.items())
    if sessions is not None and len(sessions):
        found |= of_sessions(sessions) | of_environment(sessions)
    return {term: fact for term, fact in found.items() if fact}


def _written(value: object) -> str:
    """A setting in print; of a fingerprint, its beginning."""
    if isinstance(value, str):
        return f"{value[:16]}…" if len(value) == 64 and value.isalnum() else value
    if isinstance(value, list | tuple):
        return ", ".join(map(_written, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
