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
from initstats.diagnosis.advice import AS_FOR, advise
from initstats.plots import FIGURES, Probed, figure, of_page, probed
from initstats.plots.bands import BANDS, OVERFLOW, ZERO
from initstats.probe import Probe
from initstats.report import profile
from initstats.report.model import write_model_report
from initstats.report.page import Files
from initstats.report.profile import STATISTICS, Places, profile_of


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
    return str(page.read_text())


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


def fault(rule: str, where: str, remedy: str) -> dict[str, str]:
    return {"severity": "error", "rule": rule, "where": where, "evidence": "so", "remedy": remedy}


def test_a_place_stands_once_and_a_remedy_once() -> None:
    faults = pd.DataFrame(
        [
            fault("signal", "a to c", "shrink(1)  # by two"),
            fault("saturation", "d", "leave it"),
            fault("gradient", "c to a", "grow(1)"),
            fault("dead_units", "e", "shrink(1)  # by three"),
            fault("collapse", "f", f"{AS_FOR}saturation"),
            fault("saturation", "g", "something else"),
        ]
    )
    places = [[1, 3], [4], [1, 3], [5], [6], [7]]
    told = [
        ([f["rule"] for f in each.findings], [(r.text, r.code, r.rules) for r in each.remedies])
        for each in advise(faults, places)
    ]
    shrink = ("shrink(1)  # by two", True, ["signal", "dead_units"])
    assert told[0] == (
        ["signal", "gradient", "dead_units"],
        [shrink, ("grow(1)", True, ["gradient"])],
    )
    assert told[1][0] == ["saturation", "collapse", "saturation"]
    assert [text for text, *_ in told[1][1]] == ["leave it", "something else"]
    numbers = [row["number"] for each in advise(faults, places) for row in each.findings]
    assert sorted(numbers) == [*range(6)]


def test_a_text_tells_a_remedy_once() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.Sigmoid(), nn.Linear(30, 1)
    model = nn.Sequential(*layers)
    for parameter in model[2].parameters():
        nn.init.normal_(parameter, std=5.0)
    found = diagnose(Probe(model).run(torch.randn(64, 20)))
    remedy = found.set_index("rule")["remedy"]
    assert remedy["saturation"] == remedy["weight_scale"]
    assert str(found).count(str(remedy["saturation"]).splitlines()[0]) == 1
    assert f"{AS_FOR}weight_scale" in str(found)


@pytest.mark.parametrize(
    ("where", "layers"),
    [
        ("1", [1]),
        ("1.weight", [1]),
        ("1 (linear)", [1]),
        ("1 (input)", [0]),
        ("10 (linear, call 2)", [3]),
        ("10", [2, 3]),
        ("1 (linear) to 10 (linear)", [1, 2]),
        ("5 places: 1, 10 (linear), ... a, b", [1, 2, 4]),
        ("nowhere", []),
        ("", []),
    ],
)
def test_places_are_found_by_the_names_that_findings_use(where: str, layers: list[int]) -> None:
    rows = [
        (0, "1", "input", 1, "activation"),
        (1, "1", "linear", 1, "preactivation"),
        (1, "1.weight", "linear", 1, "weight"),
        (2, "10", "linear", 1, "preactivation"),
        (3, "10", "linear", 2, "preactivation"),
        (4, "a, b", "mul", 1, "activation"),
    ]
    table = pd.DataFrame(rows, columns=["layer", "name", "op", "call", "tensor"])
    assert Places(table).among(where) == layers


def test_a_long_training_is_shown_by_some_steps(
    trained: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = trained.table()
    whole = profile_of(table, [])
    assert whole is not None
    assert (whole.steps, whole.operations, whole.note) == ([0, 2, 4, 6], 4, "")
    numbers = len(STATISTICS) * 4 * 2
    assert len(whole.data) < 4 * numbers * 4 + 200
    monkeypatch.setattr(profile, "NUMBERS", 3 * numbers)
    monkeypatch.setattr(profile, "OPERATIONS", 3)
    some = profile_of(table, [[0], [3]])
    assert some is not None
    assert (some.steps[0], some.steps[-1], some.operations) == (0, 6, 3)
    assert "Of 4 operations, 3 are shown, evenly chosen." in some.note
    monkeypatch.setattr(profile, "NUMBERS", 1)
    few = profile_of(table, [])
    assert few is not None
    assert few.steps == [0, 6]
    assert "Of 4 measured steps, 2 are shown" in few.note


def test_a_page_is_titled_with_the_name(strange: Probe, tmp_path: Path) -> None:
    tables = strange.table(), strange.histograms(), strange.missed()
    path = write_model_report(tmp_path, *tables, name="My_Net</title>", files=Files(figures=False))
    html = path.read_text()
    assert "<h1>My_<wbr>Net&lt;/title&gt;</h1>" in html
    assert "<title>Check-up of My_Net&lt;/title&gt;</title>" in html


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
