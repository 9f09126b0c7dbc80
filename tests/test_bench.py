"""The benchmark measures what it says; how fast anything is, no test asserts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initstats as ist
from initstats import activations, bench, cli, inits
from initstats.bench import plain, resources, timing
from initstats.bench.modules import ARCHITECTURES, Architecture, Streams, Tokens
from initstats.moments import STATISTICS
from initstats.moments.histogram import QUANTILES
from initstats.networks import get
from initstats.plots import FIGURES
from initstats.stack import Settings, run_stack

TINY = bench.Workload("tiny", "mlp", 6, 3, 40)
SHAPES = {"mlp": (64,), "cnn": (1, 8, 8)}


def stacks(toy: ist.Dataset, network: str) -> dict[str, nn.Sequential]:
    return plain.networks(network, 6, 3, toy.shape, init="kaiming_normal", seed=4)


def engine(toy: ist.Dataset, network: str) -> dict[str, list[dict[str, float]]]:
    """The engine's rows of the same stacks, in the order in which hooks see the tensors."""
    settings = Settings(depth=3, samples=len(toy.valid), histogram_every=plain.EVERY)
    entries = [activations.get(name) for name in bench.ACTIVATIONS]
    init = inits.get("kaiming_normal")
    placed = get(network).on(toy.shape, 6, 3)
    results = run_stack(placed, init, entries, [4], toy.valid, None, settings)
    tensors = [tensor for _, tensor, _ in placed.places(backward=False)]
    assert tensors == ["preactivation", "activation"] * 3
    return {
        entry.name: [dict(zip(STATISTICS, row, strict=True)) for row in result.statistics]
        for entry, result in zip(entries, results, strict=True)
    }


@pytest.mark.parametrize("network", SHAPES)
def test_hooks_record_what_the_engine_does(toy: ist.Dataset, network: str) -> None:
    x = toy.valid.x.view(-1, *SHAPES[network])
    rows = engine(toy, network)
    assert list(stacks(toy, network)) == list(rows)
    for name, model in stacks(toy, network).items():
        with torch.inference_mode(), plain.hooked(model, plain.whole_set) as seen:
            model(x)
        assert len(seen) == len(rows[name]) == 6
        for found, row in zip(seen, rows[name], strict=True):
            quantiles = dict(zip(QUANTILES, found.pop("quantiles").tolist(), strict=True))
            assert {*found, *quantiles} == {*STATISTICS}
            for statistic, value in found.items():
                scale = abs(row[statistic]) + (row["std"] if statistic in ("mean", "min") else 0)
                assert float(value) == pytest.approx(row[statistic], abs=2e-4 * scale + 1e-5)


@pytest.mark.parametrize("network", SHAPES)
def test_the_courses_hooks_agree_with_the_engine(toy: ist.Dataset, network: str) -> None:
    x = toy.valid.x.view(-1, *SHAPES[network])
    rows, outputs = engine(toy, network), []
    for name, model in stacks(toy, network).items():
        with (
            torch.inference_mode(),
            plain.hooked(model, lambda output: (plain.course_set(output), output)) as seen,
        ):
            model(x)
        outputs.append(seen[-1][1])
        for ((mean, std, histogram), output), row in zip(seen, rows[name], strict=True):
            assert float(mean) == pytest.approx(row["mean"], abs=1e-5 * row["std"])
            assert float(std) == pytest.approx(row["std"], rel=1e-5)
            assert histogram.sum() == ((output >= 0) & (output <= 10)).sum()
    assert len({output.double().sum().item() for output in outputs}) == len(bench.ACTIVATIONS)


def test_quantiles_are_edges_of_the_bins_that_hold_them() -> None:
    generator = torch.Generator().manual_seed(2)
    x = 3 * torch.randn(300, 8, generator=generator)
    taken = np.sort(x.flatten()[:: plain.EVERY].numpy())
    edges = plain.whole_set(x)["quantiles"].tolist()
    for p, edge in zip(QUANTILES.values(), edges, strict=True):
        exact = taken[int(p * len(taken))]
        assert abs(edge) <= abs(exact) <= 1.125 * abs(edge)
        assert np.sign(edge) == np.sign(exact)


def test_plain_networks_are_torchs_layers_with_the_engines_weights(toy: ist.Dataset) -> None:
    state = torch.get_rng_state()
    mlp, cnn = (stacks(toy, network)["general_relu"] for network in SHAPES)
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(part) for part in mlp] == [nn.Linear, plain.Function] * 3
    assert [type(part) for part in cnn] == [nn.Conv2d, plain.Function] * 3
    for name, function in plain.FUNCTIONS.items():
        x = torch.linspace(-9, 9, 181)
        before = x.clone()
        torch.testing.assert_close(function(x), activations.get(name)(x))
        assert torch.equal(x, before)


def test_hooks_are_gone_after_an_error(toy: ist.Dataset) -> None:
    model = stacks(toy, "mlp")["relu"]
    with pytest.raises(RuntimeError), plain.hooked(model, plain.course_set):
        model(torch.zeros(3, 5))
    with plain.hooked(model, plain.course_set) as seen:
        pass
    model(toy.valid.x)
    assert not seen


# timings


@pytest.fixture(scope="module")
def timed() -> pd.DataFrame:
    return bench.run([TINY], rounds=2)


def test_variants_are_timed_in_turn(timed: pd.DataFrame) -> None:
    assert list(timed.columns) == ["workload", "variant", "round", "seconds"]
    expected = {("tiny", variant, 0) for variant in bench.VARIANTS}
    expected |= {("tiny", variant, 1) for variant in {*bench.VARIANTS} - timing.EVEN_ROUNDS}
    assert {*zip(timed["workload"], timed["variant"], timed["round"], strict=True)} == expected
    assert len(timed) == len(expected)
    assert (timed["seconds"] > 0).all()
    first, second = (list(timed.query("round == @n")["variant"]) for n in (0, 1))
    assert [name for name in first if name in second] == second[::-1]


def test_progress_counts_every_timing() -> None:
    seen: list[tuple[int, int]] = []
    threads = torch.get_num_threads()
    bench.run([TINY], rounds=1, progress=lambda *now: seen.append(now))
    total = len(bench.VARIANTS)
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert torch.get_num_threads() == threads


def test_slow_variants_take_every_activation_in_turn(
    toy: ist.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(timing, "course_set", seen.append)
    calls = timing._calls(bench.Workload("toy", "mlp", 6, 2, 41), toy.valid)
    tensors = []
    for number in range(4):
        calls["course_hooks"](number)
        tensors.append(len(seen))
    assert tensors == [12, 24, 36, 48]
    last = {round(float(x.double().abs().sum()), 6) for x in seen[3::4]}
    assert len(last) == len(bench.ACTIVATIONS)


def test_what_is_sampled_counts_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "process_time", count().__next__)
    timed = bench.run([TINY], rounds=1).set_index("variant")["seconds"]
    assert timed[timed != 1].to_dict() == {"course_hooks": 4, "whole_hooks": 4}


def test_without_statistics_nothing_is_measured(
    toy: ist.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[float] = []

    def spy(*arguments: Any) -> Iterator[None]:
        """Counts once all results are asked for, as what one times must be."""
        counts.append(sum(result.statistics[:, 0].sum() for result in run_stack(*arguments)))
        yield

    monkeypatch.setattr(timing, "run_stack", spy)
    calls = timing._calls(TINY, toy.valid)
    for variant in ("engine_off", "engine", "engine_torch", "engine_backward"):
        calls[variant](0)
    entries = 6 * 40 * 3 * 2 * len(bench.ACTIVATIONS)
    assert counts == [0, entries, entries, 2 * entries]


def test_workloads_are_those_of_the_goals() -> None:
    for ratio in bench.RATIOS:
        assert {ratio.above, ratio.below} <= {*bench.VARIANTS}
        assert {*ratio.goals} <= {*bench.WORKLOADS}
    quick = bench.WORKLOADS["S"].quick
    assert quick.name not in bench.WORKLOADS
    assert (quick.width, quick.samples) == (50, 1000)


def test_an_unknown_workload_is_named() -> None:
    with pytest.raises(ValueError, match="unknown workload 'M51': did you mean 'M512'"):
        bench.run(["M51"])
    with pytest.raises(ValueError, match="unknown workload 'X'.* available: S10, S, M, M512, C"):
        bench.memory(workload="X")
    with pytest.raises(ValueError, match="rounds: at least one is needed, not 0"):
        bench.run(rounds=0)


# ratios


def timings(seconds: dict[str, list[float]], workload: str = "S") -> pd.DataFrame:
    rows = [
        (workload, variant, number, value)
        for variant, values in seconds.items()
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["workload", "variant", "round", "seconds"])


def test_ratios_are_paired() -> None:
    """A machine that slows down a hundredfold between rounds changes no ratio."""
    found = bench.ratios(timings({"engine": [1, 60, 700], "plain": [2, 200, 1000]}))
    assert len(found) == 1
    row = found.iloc[0]
    assert (row["workload"], row["ratio"], row["goal"]) == ("S", "engine / plain", 0.7)
    assert (row["low"], row["median"], row["high"]) == (0.3, 0.5, 0.7)
    assert bool(row["reached"])


@pytest.mark.parametrize(("factor", "reached"), [(17.9, False), (18.0, True), (40.0, True)])
def test_a_lower_bound_is_one(factor: float, reached: bool) -> None:
    found = bench.ratios(timings({"engine": [1.0], "whole_hooks": [factor]}))
    assert found["reached"].tolist() == [reached]


def test_no_goal_is_neither_reached_nor_missed() -> None:
    found = bench.ratios(timings({"engine": [1.0], "plain": [9.0]}, workload="mine"))
    assert found["goal"].isna().all()
    assert found["reached"].isna().all()


def test_the_table_reads_as_the_goals_are_written(timed: pd.DataFrame) -> None:
    both = pd.concat([timed, timings({"engine": [1, 0.5], "plain": [2, 2]})])
    table = bench.table(both)
    first = bench.RATIOS[0]
    assert table.loc[first.meaning, "S"] == "0.375 (0.25 to 0.5)"
    assert table.columns.tolist() == ["S", "tiny"]
    assert table.index[1] == "goal, at most"
    assert table.iloc[1].tolist() == ["0.7", ""]
    goals = [name for name in table.index if name.startswith("goal")]
    assert [name for name in table.index if name not in goals] == [
        ratio.meaning for ratio in bench.RATIOS
    ]
    missed = bench.table(timings({"engine": [1.0], "whole_hooks": [17.0]}))
    assert missed.loc["goal, at least", "S"] == "18, missed"
    assert bench.milliseconds(both).loc["plain", "S"] == 2000


def test_results_are_json(timed: pd.DataFrame) -> None:
    text = bench.as_json(results(timed))
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert values["timings"][0]["seconds"] == timed["seconds"].iloc[0]
    assert values["ratios"][0]["goal"] is None
    assert values["machine"]["cores"] == 2
    read = bench.from_json(text)
    pd.testing.assert_frame_equal(bench.table(read["timings"]), bench.table(timed))
    assert bench.whole_runs(read) == bench.whole_runs(results(timed))
    with pytest.raises(ValueError, match="no timings of the engine: .* --json FILE"):
        bench.from_json(bench.as_json({"timings": timed}))


def results(timings: pd.DataFrame) -> dict[str, Any]:
    """What `initstats bench --json` writes."""
    return {
        "machine": {"processor": "A <processor>", "cores": 2},
        "timings": timings,
        "ratios": bench.ratios(timings),
        "efficiency": pd.DataFrame({"speedup": [1.9, 1.7, 1.95]}),
        "driver": 0.0004,
        "memory": pd.DataFrame({"samples": [1000, 10_000], "megabytes": [29.2, 57.6]}),
        "study": 27.6,
    }


def test_the_page_says_what_was_found_and_what_limits_it(tmp_path: Path) -> None:
    seconds = {"engine": [1.0, 1.0], "plain": [1.3, 1.25], "whole_hooks": [40.0, 40.0]}
    missed = timings(seconds | {"engine_off": [0.8, 0.94]})
    page = bench.write_benchmark(tmp_path, results(missed)).read_text()
    assert "0.785 (0.769 to 0.8)" in page
    assert "0.7, missed" in page
    assert "18, missed" not in page
    assert "measuring nothing, the engine takes 0.68 times as long" in page  # 0.87 / 1.275
    assert "Kernels in pure torch" not in page
    assert "1.90 times as fast as one worker (1.70 to 1.95; goal 1.8)" in page
    assert "29 MB for 1,000 samples, 58 MB for 10,000 samples (goal 60 MB)" in page
    assert "0.40 ms per cell: it keeps 250 workers busy whose cells take 100 ms" in page
    assert "28 s (goal 45 s)" in page
    assert "A &lt;processor&gt;" in page
    assert "S: mlp, width 50, depth 50, 10,000 images." in page
    for name in ("figures/timings.png", "figures/timings.svg", "bench.json"):
        assert (tmp_path / name).exists()
    reached = timings({"engine": [1.0], "plain": [2.0], "whole_hooks": [40.0]})
    page = bench.write_benchmark(tmp_path, results(reached)).read_text()
    assert "missed" not in page


def test_the_page_is_drawn_from_an_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = results(timings({"engine": [1.0], "plain": [2.0], "whole_hooks": [40.0]}))
    Path("found.json").write_text(bench.as_json(found))
    arguments = ["initstats", "bench", "--from", "found.json", "--out", "page"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0, capsys.readouterr().err
    assert Path("page/bench.json").read_text() == Path("found.json").read_text()
    monkeypatch.setattr(sys, "argv", [*arguments[:-2], "--foundations", "--out", "page"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "--out is for the engine" in capsys.readouterr().err


def test_the_figure_shows_every_ratio(timed: pd.DataFrame) -> None:
    found = bench.ratios(pd.concat([timed, timings({"engine": [1, 0.5], "plain": [2, 2]})]))
    drawn = FIGURES["timings"].draw(found)
    titles = [axes.get_title(loc="left") for axes in drawn.axes if axes.get_title(loc="left")]
    assert titles == [ratio.name for ratio in bench.RATIOS]
    offsets = np.asarray(drawn.axes[0].collections[1].get_offsets())
    assert offsets[:, 0].tolist() == found.query("ratio == 'engine / plain'")["median"].tolist()
    with pytest.raises(ValueError, match="no ratios to draw"):
        FIGURES["timings"].draw(found.iloc[:0])


# resources


def test_memory_is_that_of_the_workload_alone() -> None:
    """A hundred megabytes that this process holds are not the workload's."""
    ballast = np.ones(12_500_000)
    found = bench.memory(samples=[64], workload="S10")
    assert ballast.nbytes == 1e8
    assert found["samples"].tolist() == [64]
    assert 1 < found["megabytes"].iloc[0] < 90


def test_the_driver_is_slower_than_nothing_and_faster_than_a_cell() -> None:
    assert 1e-5 < bench.driver(quick=True) < 0.1


def test_memory_says_when_it_could_not_be_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho too many samples >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(ChildProcessError, match="measuring memory failed: too many samples"):
        bench.memory()
    with pytest.raises(ChildProcessError, match="the default study failed: too many samples"):
        bench.study()


def test_the_rate_is_that_of_the_steady_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve seconds to start, then two tasks of ten cells every two seconds, and a straggler."""
    clock = [0.0] + [12 + 2.0 * (n // 20) for n in range(398)] + [90.0] * 2
    times = iter(clock)

    def sweep(*_: object, progress: Any, **__: object) -> None:
        for done in range(len(clock)):
            progress(done, len(clock))

    monkeypatch.setattr(resources, "run_sweep", sweep)
    monkeypatch.setattr(resources, "perf_counter", lambda: next(times))
    rate = resources._rate(ist.Grid(), None, 2)  # type: ignore[arg-type]
    assert rate == pytest.approx(10, rel=0.02)


def test_two_workers_are_compared_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_rate", lambda grid, data, workers: 10.0 * workers**0.5)
    seen: list[tuple[int, int]] = []
    found = bench.efficiency(rounds=2, progress=lambda *now: seen.append(now))
    assert found["round"].tolist() == [0, 1]
    assert found["speedup"].tolist() == pytest.approx([2**0.5] * 2)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_gpu_is_compared_with_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(grid: ist.Grid, data: ist.Dataset, workers: int) -> float:
        assert (workers, grid.depth, len(data.valid)) == (1, 20, 10_000)
        return 70.0 if grid.device == "cuda:5" else 10.0

    monkeypatch.setattr(resources, "_rate", rate)
    found = bench.gpu("cuda:5", rounds=2)
    assert found.to_dict("list") == {
        "round": [0, 1],
        "cpu": [10, 10],
        "gpu": [70, 70],
        "speedup": [7, 7],
    }
    monkeypatch.undo()
    with pytest.raises(ValueError, match="device: 'cuda:63' cannot be used here"):
        bench.gpu("cuda:63", quick=True)


def test_training_is_timed_against_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initstats.bench.trainings.BATCHES", {"cnn": 1, "mlp": 1})
    found = bench.training(quick=True)
    assert found[["network", "batch"]].drop_duplicates().shape == (4, 2)
    assert (found["speedup"] == found["by_hand"] / found["plain"]).all()
    told = bench.whole_runs({"training": found, "training_workers": found})
    assert "goal 1.5" in told["training a cnn, batches of 64"]
    assert "goal 1.8" in told["two workers that train"]


def test_architectures_are_timed_against_plain_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [case._replace(depth=5, samples=64) for case in ARCHITECTURES]
    monkeypatch.setattr("initstats.bench.modules.ARCHITECTURES", small)
    state = torch.random.get_rng_state()
    found = bench.architectures(quick=True)
    assert torch.equal(state, torch.random.get_rng_state())
    assert list(found["network"]) == [case.network for case in small]
    assert (found["ratio"] == found["engine"] / found["plain"]).all()
    told = bench.whole_runs({"architectures": found})
    assert "goal 0.8" in told["measuring all of resmlp(norm=layer)"]


@pytest.mark.parametrize("ratio", [0.5, 1.5])
def test_what_limits_streams_is_told_where_a_goal_was_missed(ratio: float, tmp_path: Path) -> None:
    reached = results(timings({"engine": [1.0], "plain": [2.0], "whole_hooks": [40.0]}))
    timed = {"network": "resmlp", "round": [0, 1, 2], "plain": 2.0, "engine_off": [1.0, 1.5, 2.0]}
    found = pd.DataFrame({**timed, "engine": 2 * ratio, "ratio": ratio, "goal": 0.8})
    page = bench.write_benchmark(tmp_path, reached | {"architectures": found}).read_text()
    assert ("the engine takes 0.75 times as long as the torch module" in page) == (ratio > 0.8)
    older = found.drop(columns="engine_off")
    page = bench.write_benchmark(tmp_path, reached | {"architectures": older}).read_text()
    assert "Streams and attention" not in page


@pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda case: case.network)
def test_the_plain_module_is_as_large_as_the_network(case: Architecture) -> None:
    model = (
        Tokens(case.width, (case.depth - 1) // 2)
        if "transformer" in case.network
        else Streams(case.width, case.depth - 1)
    )
    placed = ist.networks.get(case.network).on((1, 28, 28), case.width, case.depth)
    matrices = sum(math.prod(layer.weight) for layer in placed.layers)
    assert matrices == sum(part.numel() for part in model.parameters() if part.ndim > 1)
