from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from markupsafe import escape
from matplotlib.figure import Figure
from torch import Tensor, nn

from initstats.diagnosis import diagnose
from initstats.plots import FIGURES, Probed, figure, of_page, probed
from initstats.plots.bands import BANDS, OVERFLOW, ZERO
from initstats.probe import Probe
from initstats.report.model import write_model_report


class Strange(nn.Module):
    """A name that is markup, a constant value, one that is not finite, and something missed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"<b>&": nn.Linear(6, 8)})
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body["<b>&"](x))
        h = h * 0 + 1
        return h / (h - 1)


@pytest.fixture(scope="module")
def strange() -> Probe:
    torch.manual_seed(0)
    return Probe(Strange(), backward=True).run(torch.randn(40, 6))


@pytest.fixture(scope="module")
def trained() -> Probe:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Probe(model, backward=True, every=2) as probe:
        for _ in range(7):
            optimizer.zero_grad()
            model(torch.randn(40, 6)).square().mean().backward()
            optimizer.step()
    return probe


def write(probe: Probe, folder: Path) -> str:
    page = write_model_report(
        folder, probe.table(), probe.histograms(), probe.missed(), coverage=probe.coverage
    )
    return page.read_text()


def test_page_holds_findings_values_and_misses(strange: Probe, tmp_path: Path) -> None:
    html = write(strange, tmp_path)
    assert "<h1>Strange</h1>" in html
    coverage = strange.coverage.removesuffix(" measured")
    assert f"{coverage} tensors and modules were measured" in html
    assert "body.&lt;b&gt;&amp;" in html
    assert "<b>&" not in html
    assert "NaN or infinite" in html  # the finding
    assert "Checked and healthy" in html
    assert "Not checked" in html
    assert "never executed" in html
    assert "http" not in html.replace("http://www.w3.org", "")
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert len(table) == len(strange.table())
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html",
        "figures",
        "table.csv",
        "findings.csv",
        "missed.csv",
    }
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {
        f"{name}.{kind}"
        for name in ("depth_profile", "distribution_profile")
        for kind in ("png", "svg")
    }


def test_page_of_a_training_has_its_figures(trained: Probe, tmp_path: Path) -> None:
    html = write(trained, tmp_path)
    assert "Through training" in html
    assert "The colourful dimension" in html
    assert len(list((tmp_path / "figures").iterdir())) == 8


def test_lines_of_a_remedy_stay_lines(trained: Probe, tmp_path: Path) -> None:
    sizes = zip([30, 30, 20, 20], [30, 20, 20, 20], strict=True)
    layers = [each for size in sizes for each in (nn.Linear(*size), nn.ReLU())]
    probe = Probe(nn.Sequential(*layers)).run(torch.randn(64, 30))
    (remedy,) = diagnose(probe).query("rule == 'default_init'")["remedy"]
    assert "\n" in remedy
    assert f'<pre tabindex="0"><code>{escape(remedy)}</code></pre>' in write(probe, tmp_path / "a")
    assert "It watched" in (html := write(trained, tmp_path / "b"))
    assert ".It watched" not in " ".join(html.split())


def test_page_of_nothing(tmp_path: Path) -> None:
    with Probe(nn.Linear(2, 2)) as probe:
        pass
    assert "never executed" in write(probe, tmp_path)


def test_profile_shows_what_was_measured(strange: Probe) -> None:
    table = strange.table()
    std, shift, dead, gradient = FIGURES["depth_profile"].draw(Probed(table)).axes
    rows = probed.last_step(Probed(table))
    rows = rows[rows["direction"] == "forward"]
    drawn = np.concatenate([line.get_xydata() for line in std.get_lines()[:2]])
    low = std.get_ylim()[0]
    for layer, value in rows[["layer", "std"]].itertuples(index=False):
        if value > 0:
            height = math.log10(value)
        elif value == 0:
            height = low  # a constant lies on the edge
        else:
            continue
        assert np.isclose(drawn, (layer, height)).all(axis=1).any()
    broken = rows.loc[rows["nonfinite"] > 0, "layer"].tolist()
    assert broken
    marked = [line.get_xdata()[0] for line in shift.get_lines() if len(line.get_xdata()) == 2]  # type: ignore[arg-type, index]
    assert set(broken) <= set(marked)
    assert dead.get_ylabel() == "dead units"
    assert gradient.get_ylabel() == "gradient's std"


def test_bands_count_every_entry(strange: Probe) -> None:
    table = strange.table()
    rows = table[(table["tensor"] != "weight") & (table["direction"] == "forward")]
    counts = probed.banded_counts(strange.histograms(), rows)
    assert counts.shape == (len(rows), BANDS + 1)
    assert counts.sum(axis=1).tolist() == rows["count"].tolist()
    assert counts[:, OVERFLOW].tolist() == rows["nonfinite"].tolist()
    zeros = (rows["zero_fraction"] * (rows["count"] - rows["nonfinite"])).fillna(0)
    assert np.allclose(counts[:, ZERO], zeros)


def test_training_follows_activations(trained: Probe) -> None:
    followed = dict(list(probed.followed(Probed.of(trained)).groupby("value", sort=False)))
    assert list(followed) == ["1 (relu)", "2 (linear)"]
    assert followed["1 (relu)"]["step"].tolist() == [0, 2, 4, 6]
    std, shift, dead = FIGURES["training_lines"].draw(Probed.of(trained)).axes
    rows = followed["1 (relu)"]
    for panel, heights in (
        (std, np.log10(rows["std"])),
        (shift, rows["mean"] / rows["std"]),
        (dead, rows["dead_fraction"]),
    ):
        assert panel.get_lines()[0].get_ydata() == pytest.approx(heights.tolist())


@pytest.mark.parametrize("width", [3.3, 9])
@pytest.mark.parametrize("name", [picture.name for picture in of_page("model")])
def test_no_text_is_cut_or_overlaps(
    name: str, width: float, trained: Probe, faults: Callable[[Figure], list[str]]
) -> None:
    assert faults(figure(name, trained, width)) == []


def test_a_distribution_is_drawn_from_its_frame(trained: Probe) -> None:
    frame = FIGURES["training_distributions"].frame(Probed.of(trained))
    followed = probed.followed(Probed.of(trained))
    counts = frame.groupby(["layer", "step"])["count"].sum()
    assert counts.tolist() == followed.sort_values(["layer", "step"])["count"].tolist()
    assert len(counts) == 8
    with pytest.raises(ValueError, match="it needs the probe's histograms, too"):
        figure("distribution_profile", trained.table())
