from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import stats

import initstats as ist
from initstats.moments.table import bin_edges
from initstats.plots import FIGURES, Results, band_of, banded, of_page, register_figure
from initstats.plots.bands import BANDS, OVERFLOW, ZERO
from initstats.plots.catalog import GRADIENTS
from initstats.plots.distribution import picture
from initstats.plots.lines import LINEAR, LOG, SHARE, THEORY, layer_ticks, theory_by_depth
from initstats.plots.style import INK, PALETTE, STYLE, strokes, wrapped

INITS = ["normal(std=1e-05)", "normal(std=1000000)", "kaiming_normal", "torch_default"]
STUDY = [picture.name for picture in of_page("study")]
ACTIVATIONS = ["relu", "shifted_relu", "squared_relu", "tanh"]


@pytest.fixture(scope="module")
def table(toy: ist.Dataset) -> pd.DataFrame:
    """Signals that live, vanish exactly, explode and overflow; forward and backward."""
    grid = ist.Grid(
        inits=INITS, activations=ACTIVATIONS, widths=[6], depth=5, seeds=3, backward=True
    )
    return ist.run_sweep(grid, toy)


@pytest.fixture(scope="module")
def results(table: pd.DataFrame) -> Results:
    return Results.of(table, made_up_bands(table))


def made_up_bands(table: pd.DataFrame) -> dict[tuple[str, str, str, int], np.ndarray]:
    """Counts for every configuration but the first, of which there are none yet."""
    keys = table[["network", "init", "activation", "width"]].drop_duplicates().to_numpy()[1:]
    depth = int(table["layer"].max())
    counts = np.random.default_rng(5).integers(0, 9, (depth, BANDS + 1))
    return {(str(n), str(i), str(a), int(w)): counts for n, i, a, w in keys}


def variants(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    yield "whole", table
    yield "one seed", table[table["seed"] == 1]
    yield "one layer", table[table["layer"] == 1]
    yield "unfinished", table[(table["seed"] == 0) | (table["init"] == "kaiming_normal")]
    one = table[(table["init"] == "kaiming_normal") & (table["activation"] == "relu")]
    yield "one configuration", one
    wider = [table.assign(width=width) for width in (6, 50)]
    yield "two widths", pd.concat([*wider, one.assign(width=500)])
    yield "unordered", table.sample(frac=1, random_state=0).astype({"init": str, "activation": str})


VARIANTS = [
    "whole",
    "one seed",
    "one layer",
    "unfinished",
    "one configuration",
    "two widths",
    "unordered",
]


def axes_of(drawn: Figure) -> dict[str, Axes]:
    """Panels by their title."""
    return {axes.get_title(loc="left"): axes for axes in drawn.axes}


def texts(axes: Axes, columns: int) -> list[list[str]]:
    """The labels of a map, row by row."""
    labels = [text.get_text() for text in axes.texts]
    return [labels[start : start + columns] for start in range(0, len(labels), columns)]


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("name", STUDY)
def test_every_figure_draws_every_table(name: str, kind: str, table: pd.DataFrame) -> None:
    part = dict(variants(table))[kind]
    results = Results.of(part, made_up_bands(part))
    if reason := FIGURES[name].missing(results):
        assert (kind, name) in missing_by_nature(), reason
        with pytest.raises(ValueError, match=f"cannot draw {name}: "):
            FIGURES[name].draw(results)
        return
    drawn = FIGURES[name].draw(results)
    with mpl.rc_context(STYLE):
        drawn.savefig(io.BytesIO(), format="png", dpi=20)
    width = drawn.get_figwidth()
    assert 0 < width <= 9.01


def missing_by_nature() -> set[tuple[str, str]]:
    deep = [name for name, entry in FIGURES.items() if "two layers" in str(entry.needs)]
    return {("one layer", name) for name in deep} | {("one configuration", "shifted_relu_story")}


def test_figures_have_titles_and_captions() -> None:
    for entry in FIGURES.values():
        assert entry.title
        assert len(entry.caption) > 80


def test_a_figure_says_what_it_lacks(table: pd.DataFrame) -> None:
    bare = Results.of(table[table["direction"] == "forward"])
    assert "a bare table has none" in FIGURES["distribution_by_depth"].missing(bare)
    assert "--backward" in FIGURES["gradient_by_depth"].missing(bare)
    with pytest.raises(ValueError, match="cannot draw gradient_by_depth: gradients were not"):
        FIGURES["gradient_by_depth"].draw(bare)


def test_adding_a_figure_is_one_definition(results: Results) -> None:
    @register_figure(title="Mine", data=lambda given: given.table, needs=[GRADIENTS])
    def mine(frame: pd.DataFrame) -> Figure:
        """What to
        see.
        """
        return Figure()

    try:
        entry = FIGURES["mine"]
        assert (entry.title, entry.caption) == ("Mine", "What to see.")
        assert isinstance(entry.draw(results), Figure)
        mine.__module__ = "elsewhere"
        with pytest.raises(ValueError, match="figure 'mine' is registered already"):
            register_figure(title="Again", data=lambda given: given.table)(mine)
    finally:
        FIGURES.remove("mine")


def test_drawing_leaves_matplotlib_as_it_was(results: Results) -> None:
    before = dict(mpl.rcParams)
    FIGURES["verdicts"].draw(results)
    assert dict(mpl.rcParams) == before


def test_results_cross_to_another_process(results: Results) -> None:
    again = pickle.loads(pickle.dumps(results))
    pd.testing.assert_frame_equal(again.summary, results.summary)
    assert again.inits == INITS


# maps


def test_std_map_marks_what_vanished_and_overflowed(results: Results, table: pd.DataFrame) -> None:
    axes = FIGURES["last_layer_std"].draw(results).axes[0]
    labels = pd.DataFrame(texts(axes, 4), index=INITS, columns=ACTIVATIONS)
    assert str(labels.loc["normal(std=1e-05)", "relu"]).startswith("−2")
    assert labels.loc["normal(std=1e-05)", "squared_relu"] == "0"
    assert labels.loc["normal(std=1000000)", "squared_relu"] == "∞"
    last = table[
        (table["layer"] == 5)
        & (table["tensor"] == "activation")
        & (table["direction"] == "forward")
        & (table["init"] == "kaiming_normal")
        & (table["activation"] == "tanh")
    ]
    expected = f"{np.log10(last['std'].median()):.1f}".replace("-", "−")
    assert labels.loc["kaiming_normal", "tanh"] == expected


def test_std_map_is_symmetric_and_full_beyond_its_limit(results: Results) -> None:
    axes = FIGURES["last_layer_std"].draw(results).axes[0]
    mesh = axes.collections[0]
    assert mesh.get_clim() == (-4, 4)
    shown = np.asarray(mesh.get_array()).reshape(4, 4)
    assert shown[0, 2] == -4
    assert shown[1, 2] == 4
    assert mesh.cmap is not None
    assert mesh.cmap(0.5)[3] < 0.02  # bare paper in the middle
    assert mesh.cmap(0.0)[3] == mesh.cmap(1.0)[3] == 1


def test_healthy_cells_are_bold(results: Results) -> None:
    axes = FIGURES["last_layer_std"].draw(results).axes[0]
    healthy = results.summary["verdict"] == "healthy"
    assert [text.get_fontweight() == "bold" for text in axes.texts] == healthy.to_list()
    assert 0 < healthy.sum() < len(healthy)


def test_verdict_map_says_the_summary(results: Results) -> None:
    axes = FIGURES["verdicts"].draw(results).axes[0]
    for text, (_, row) in zip(axes.texts, results.summary.iterrows(), strict=True):
        votes = round(row["agreement"] * row["seeds"])
        expected = str(row["verdict"]).replace(" ", "\n")
        assert text.get_text() == expected + f"\n{votes} of 3" * (votes < 3)


def test_dead_map_marks_overflow_apart_from_none(results: Results) -> None:
    axes = FIGURES["dead_units"].draw(results).axes[0]
    labels = pd.DataFrame(texts(axes, 4), index=INITS, columns=ACTIVATIONS)
    assert labels.loc["normal(std=1e-05)", "squared_relu"] == "100"
    assert labels.loc["normal(std=1000000)", "squared_relu"] == "∞"
    assert labels.loc["kaiming_normal", "tanh"] == "·"


def test_names_are_taken_literally(table: pd.DataFrame) -> None:
    odd = table[table["activation"] == "relu"].astype({"init": str})
    odd = odd.assign(init=odd["init"].replace("kaiming_normal", "a$b$<i>_x^2"))
    drawn = FIGURES["verdicts"].draw(Results.of(odd))
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        drawn.savefig(buffer, format="svg")
    assert b"a$b$&lt;i&gt;_x^2" in buffer.getvalue()


# curves


def line_data(axes: Axes, color: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of the one curve of a colour and dash."""
    (line,) = [
        line
        for line in axes.lines
        if line.get_marker() == "None" and to_rgb(line.get_color()) == to_rgb(color)
    ]
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def markers(axes: Axes, color: str) -> list[tuple[str, float]]:
    """Marker and layer of what is marked in a colour."""
    return [
        (str(line.get_marker()), float(np.asarray(line.get_xdata())[0]))
        for line in axes.lines
        if line.get_marker() != "None" and to_rgb(line.get_color()) == to_rgb(color)
    ]


def test_std_curve_is_the_geometric_mean_with_its_interval(
    results: Results, table: pd.DataFrame
) -> None:
    axes = axes_of(FIGURES["std_by_depth"].draw(results))["tanh"]
    color = strokes(INITS)["kaiming_normal"].color
    layers, heights = line_data(axes, color)
    rows = table[
        (table["tensor"] == "activation")
        & (table["direction"] == "forward")
        & (table["init"] == "kaiming_normal")
        & (table["activation"] == "tanh")
    ]
    stds = rows.pivot(index="layer", columns="seed", values="std").to_numpy()
    assert layers.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(10**heights, stats.gmean(stds, axis=1))
    low, high = stats.t.interval(
        0.95, 2, np.log10(stds).mean(axis=1), stats.sem(np.log10(stds), axis=1)
    )
    (band,) = [
        band
        for band in axes.collections
        if tuple(np.asarray(band.get_facecolor())[0][:3]) == pytest.approx(to_rgb(color))
    ]
    edges = np.asarray(band.get_paths()[0].vertices)
    for layer, bottom, top in zip(layers, low, high, strict=True):
        drawn = edges[edges[:, 0] == layer][:, 1]
        assert (drawn.min(), drawn.max()) == (pytest.approx(bottom), pytest.approx(top))


def test_curves_mark_what_leaves_the_panel(results: Results) -> None:
    axes = axes_of(FIGURES["std_by_depth"].draw(results))["squared_relu"]
    vanishing, exploding = (strokes(INITS)[name].color for name in INITS[:2])
    assert markers(axes, vanishing) == [("v", 1.0)]
    assert markers(axes, exploding) == [("^", 1.0)]


def test_a_gradient_leaves_the_panel_on_its_way_to_the_input(results: Results) -> None:
    axes = axes_of(FIGURES["gradient_by_depth"].draw(results))["relu"]
    ((marker, layer),) = markers(axes, strokes(INITS)["normal(std=1e-05)"].color)
    assert marker == "v"
    assert 3 < layer < 4


def test_a_mean_that_overflows_ends_in_a_cross(table: pd.DataFrame) -> None:
    hurt = table.copy()
    here = (hurt["init"] == "kaiming_normal") & (hurt["activation"] == "tanh") & (hurt["layer"] > 3)
    hurt.loc[here, "nonfinite"] = 7
    axes = axes_of(FIGURES["mean_by_depth"].draw(Results.of(hurt)))["tanh"]
    assert markers(axes, strokes(INITS)["kaiming_normal"].color) == [("x", 3.0)]


def test_a_signal_that_never_was_is_marked(table: pd.DataFrame) -> None:
    gone = table.assign(sample_correlation=np.nan)
    axes = axes_of(FIGURES["sample_correlation"].draw(Results.of(gone)))["relu"]
    assert [marker for marker, _ in markers(axes, PALETTE[0])] == ["x"]


def test_scales_keep_within_their_bounds() -> None:
    assert LOG.limits([np.array([-300.0, 5.5, np.inf, np.nan])]) == (-6, 6)
    assert LOG.limits([np.array([0.2, -0.3])]) == (-1, 1)
    assert LINEAR.limits([np.array([0.7, -0.6])]) == (-1, 1)
    assert LOG.ticks((-6, 6)) == [-6, -4, -2, 0, 2, 4, 6]
    assert SHARE.ticks((0, 1)) == [0, 0.5, 1]
    assert LOG.limits([]) == (-1, 1)


@pytest.mark.parametrize("depth", [2, 3, 6, 20, 21, 50, 1000])
def test_layer_ticks(depth: int) -> None:
    ticks = layer_ticks(depth)
    assert (ticks[0], ticks[-1]) == (1, depth)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8


def test_story_shows_every_seed_and_both_ends(results: Results, table: pd.DataFrame) -> None:
    drawn = FIGURES["shifted_relu_story"].draw(results)
    mean = drawn.axes[0]
    thin = [line for line in mean.lines if line.get_linewidth() == 0.6]
    thin = [line for line in thin if np.size(line.get_xdata()) == 5]
    assert len(thin) == 2 * 3
    rows = table[
        (table["tensor"] == "activation")
        & (table["direction"] == "forward")
        & (table["init"] == "kaiming_normal")
        & (table["activation"] == "shifted_relu")
    ]
    ends = rows.groupby("layer")["mean"].mean()
    labels = {text.get_text() for text in mean.texts}
    assert f"{ends[1]:.2f}".replace("-", "−") in labels
    assert f"shifted_relu\n{ends[5]:.2f}".replace("-", "−") in labels


# distributions


def test_every_finite_bin_has_the_band_of_its_values() -> None:
    low, high = bin_edges()
    band = band_of(list(low), list(high))
    inside = band[np.isfinite(low) & np.isfinite(high)]
    assert (np.diff(inside) >= 0).all()
    assert (inside.min(), inside.max()) == (0, BANDS - 1)
    assert (band[~(np.isfinite(low) & np.isfinite(high))] == OVERFLOW).all()
    for value, expected in ((0.0, ZERO), (1e-30, ZERO + 1), (1.05, ZERO + 14), (-1.05, ZERO - 14)):
        if value:
            at = np.flatnonzero((low <= value) & (value < high))[0]
        else:
            at = np.flatnonzero((low == 0) & (high == 0))[0]
        assert band[at] == expected


def test_banding_keeps_every_count_and_adds_up_equal_keys() -> None:
    generator = np.random.default_rng(7)
    low, high = bin_edges()
    band = band_of(list(low), list(high))
    counts = generator.integers(0, 5, (2, 3, len(low)))
    a, b = ("mlp", "a", "relu", 5), ("mlp", "b", "relu", 5)
    result = banded(band, [(a, counts[0]), (b, counts[1]), (a, counts[1])])
    both = counts.sum(axis=0)
    for index in range(BANDS + 1):
        np.testing.assert_array_equal(result[a][:, index], both[:, band == index].sum(axis=1))
    np.testing.assert_array_equal(result[b].sum(axis=1), counts[1].sum(axis=1))


def test_picture_shows_zeros_and_overflow_as_what_they_are() -> None:
    counts = np.zeros((3, BANDS + 1), np.int64)
    counts[0, [ZERO, ZERO + 10]] = 30, 10
    counts[1, [ZERO + 10, OVERFLOW]] = 39, 1
    colors = picture(counts)
    middle = len(colors) // 2
    assert colors[middle, 0, 3] == pytest.approx(0.75)
    assert colors[middle - 11, 0, 3] == 1  # ten bands above the three rows of zero
    assert colors[middle + 11, 0, 3] == 0
    assert (colors[:, 1, 3] == 0.5).all()
    assert (colors[:, 2, 3] == 0).all()


# style


def luminance(color: str) -> float:
    return float(linear(color) @ [0.2126, 0.7152, 0.0722])


def linear(color: str) -> np.ndarray:
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes (2009), severity 1
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart(vision: str) -> None:
    seen = [lab(np.array(VISIONS[vision]) @ linear(color)) for color in PALETTE]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 15


@pytest.mark.parametrize("color", PALETTE)
@pytest.mark.parametrize("paper", ["#ffffff", "#15171b"])
def test_colours_are_seen_on_either_paper(color: str, paper: str) -> None:
    light, dark = sorted((luminance(color), luminance(paper)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 2.5


def test_fifteen_names_are_told_apart_by_colour_and_dash() -> None:
    given = strokes([f"init{number}" for number in range(15)])
    assert len(set(given.values())) == 15
    assert INK not in PALETTE


def test_names_wrap_without_losing_a_letter() -> None:
    for name in ("relu", "general_relu(leak=0.2,sub=0.3)", "a" * 40, "x(y=1)"):
        assert wrapped(name, 8).replace("\n", "") == name


# theory


def test_theory_is_drawn_where_it_applies(table: pd.DataFrame) -> None:
    forward = table[table["direction"] == "forward"]
    first = forward[forward["seed"] == forward["seed"].min()].drop(columns="seed")
    layer = first["layer"].to_numpy()
    predicted = first.assign(
        std=2.0,
        second_moment=5.0,
        second_moment_spread=5 * np.sqrt(np.e - 1),  # a log-normal of variance 1
        note=np.where(layer > 3, "not beyond layer 3", ""),
    )
    results = Results.of(table, predicted=predicted)
    curves = theory_by_depth(results, "std", "activation", "forward", LOG)
    curve = curves["mlp", "kaiming_normal", "relu", 6]
    np.testing.assert_allclose(curve.mean, np.log10([2, 2, 2, np.nan, np.nan]))
    ends = np.log10(2 * np.exp([-0.25 - 0.5, -0.25 + 0.5]))
    np.testing.assert_allclose([curve.low[0], curve.high[0]], ends)
    axes = axes_of(FIGURES["std_by_depth"].draw(results))["relu"]
    dotted = [line for line in axes.lines if to_rgb(line.get_color()) == to_rgb(INK)]
    heights = [np.asarray(line.get_ydata()) for line in dotted if np.size(line.get_xdata()) == 5]
    assert len(heights) == len(INITS)
    assert np.isnan(heights[0][3:]).all()


def test_without_predictions_nothing_is_said_of_theory(results: Results) -> None:
    assert theory_by_depth(results, "std", "activation", "forward", LOG) == {}
    drawn = FIGURES["std_by_depth"].draw(results)
    assert THEORY not in [text.get_text() for text in drawn.texts]
