"""The learning rates of a training study, in sentences and as a table."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from initstats.plots import Trained
from initstats.plots.trained import VARIANT
from initstats.plural import counted
from initstats.report.page import names
from initstats.report.printed import Column, Table, printed, significant

COLUMNS = [
    Column("init", "head"),
    Column("activation", "code"),
    Column("chosen rate", "number", "{:g}".format, ("lr",)),
    Column("tuning loss", "number", lambda loss: significant(loss, 3), ("tuning_loss",)),
    Column("best rate", "number", "{:g}".format, ("best_lr",)),
    Column("best tuning loss", "number", lambda loss: significant(loss, 3), ("best_loss",)),
    Column("rates out", "number", "{} of {}".format, ("diverged", "rates")),
]
EDGE = Column(
    "best at the edge", "name", lambda _, edge: "yes" if edge else "no", ("lr", "at_edge")
)
NETWORK = [Column("network"), Column("width", "number"), Column("depth", "number")]


def table(trained: Trained) -> Table | None:
    """The chosen rates; None where no rate was tuned."""
    rates = trained.rates
    if rates is None:
        return None
    net, edge = NETWORK * (len(trained.nets) > 1), [EDGE] * bool(rates["at_edge"].any())
    return printed(rates, net + COLUMNS + edge)


def sentences(trained: Trained) -> list[Markup | str]:
    """How the learning rates came about, and what there is to mind."""
    rates, tuning = trained.rates, trained.tuning
    if rates is None or tuning is None:
        return [_fixed(trained)]
    tried = tuning.groupby(VARIANT, observed=True)["lr"].nunique()
    many = f"{tried.min()} to {tried.max()}" if tried.min() < tried.max() else f"{tried.max()}"
    found: list[Markup | str] = [
        f"Each variant has a learning rate of its own, chosen of {many} from "
        f"{tuning['lr'].min():g} to {tuning['lr'].max():g}, with "
        f"{counted(tuning['seed'].nunique(), 'tuning seed')} each: the smallest rate whose loss is "
        "within 2% of the best. A rate at which a run failed is out. The tuning has seeds of its "
        "own, and its losses are on training images kept out of its training: no validation image "
        "had a part in the choice."
    ]
    lost = rates["lr"].isna()
    if (edge := rates["at_edge"] & ~lost).any():
        words = "For {}, the best rate is the smallest or largest that was tried: a better one may "
        found.append(Markup(words + "lie beyond.").format(_variants(rates[edge])))
    if lost.any():
        words = "For {}, every rate failed: the smallest was taken."
        found.append(Markup(words).format(_variants(rates[lost])))
    return found


def _fixed(trained: Trained) -> str:
    rates = sorted(trained.table["lr"].unique())
    which = "rate" if len(rates) == 1 else "rates"
    given = ", ".join(f"{rate:g}" for rate in rates[:6])
    return (
        f"No learning rate was tuned: the variants trained at the given {which} {given}. The "
        "ranking is that at this rate, and may change where each variant has a rate that suits it."
    )


def _variants(rows: pd.DataFrame) -> Markup:
    """Variants in a sentence."""
    return names([f"{row['activation']} with {row['init']}" for row in rows.to_dict("records")])
