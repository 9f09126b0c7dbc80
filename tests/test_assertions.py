"""Initializations as assertions: messages, lock files, and the plugin of pytest."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initstats as ist
from initstats.audits.lock import read

pytest_plugins = ["pytester"]
BLOCKS = 5


class Block(nn.Module):
    """A branch that ends smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(24, 96), nn.Linear(96, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(x).relu())  # type: ignore[no-any-return]


def net(seed: int = 0) -> Any:
    """A sound net with laws of all kinds."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 24), *(Block() for _ in range(BLOCKS)), nn.LayerNorm(24))
    for module in model.modules():
        if isinstance(module, Block):
            nn.init.trunc_normal_(module.up.weight, std=0.1, a=-0.2, b=0.2)
            nn.init.normal_(module.down.weight, std=0.0371)  # of no formula
            nn.init.zeros_(module.up.bias)
            nn.init.constant_(module.down.bias, 0.25)
    nn.init.orthogonal_(model.get_parameter("0.weight"))
    return model


def locked(tmp_path: Path, model: nn.Module) -> Path:
    path = tmp_path / "net.toml"
    path.write_text(ist.audit(model).to_toml())
    return path


def test_a_lock_file_says_what_was_drawn(tmp_path: Path) -> None:
    model = net()
    entries = {entry.name: entry for entry in read(locked(tmp_path, model))}
    assert entries["*.down.weight"].shape == (24, 96)
    downs = torch.stack([model[n].down.weight.detach().double() for n in range(1, BLOCKS + 1)])
    std = entries["*.down.weight"].expected.std
    assert std == pytest.approx(float(downs.square().mean().sqrt()), rel=1e-5)
    error = entries["*.down.weight"].expected.error
    assert error == pytest.approx((1 / 2 / downs.numel()) ** 0.5, rel=1e-4)
    assert entries["*.up.weight"].expected.law == "truncated_normal"
    assert entries["*.down.bias"].expected.value == 0.25
    assert entries["0.weight"].expected.law == "orthogonal"


def test_another_seed_is_the_same_initialization(tmp_path: Path) -> None:
    path = locked(tmp_path, net())
    for seed in range(1, 30):
        ist.assert_initialized(net(seed), path)


def test_single_entries_may_be_drawn(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = locked(tmp_path, nn.Linear(50, 1))
    for _ in range(20):
        ist.assert_initialized(nn.Linear(50, 1), path)
    zeroed = nn.Linear(50, 1)
    nn.init.ones_(zeroed.weight)
    with pytest.raises(AssertionError, match="weight"):
        ist.assert_initialized(zeroed, path)


def _default(model: Any) -> None:
    for number in range(1, BLOCKS + 1):
        model[number].down.reset_parameters()


def _set(name: str, draw: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda model: draw(model.get_parameter(name).data)


def _narrow(model: Any) -> None:
    """A block with other sizes, and a scale of torch's."""
    model[2].up, model[2].down = nn.Linear(24, 90), nn.Linear(90, 24)
    nn.init.normal_(model[2].down.weight, std=0.0371)


def _bias_more(model: Any) -> None:
    """A bias in all blocks, of which the file's model had it in four."""
    model[5].down.bias = nn.Parameter(torch.full((24,), 0.25))


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "scale": (_set("3.down.weight", lambda x: x.mul_(1.3)), "times what it should be"),
    "law": (_set("2.down.weight", lambda x: nn.init.uniform_(x, -0.064, 0.064)), "uniform"),
    "cut": (_set("2.up.weight", lambda x: nn.init.normal_(x, std=0.088)), "cut at 2 std"),
    "constant": (_set("2.down.bias", lambda x: x.fill_(0.3)), "constant 0.3"),
    "zeros": (_set("4.down.weight", lambda x: x.zero_()), "zeros"),
    "gain": (_set("0.weight", lambda x: x.mul_(2)), "orthogonal"),
    "orthogonal": (_set("0.weight", lambda x: x.normal_(std=0.2)), "normal"),
    "all blocks": (_default, "5 parameters"),
    "norm": (_set("6.weight", lambda x: x.zero_()), "6.weight"),
    "more": (lambda m: m.append(nn.Linear(3, 3)), "not in net.toml"),
    "fewer": (lambda m: m.pop(6), "not in the model"),
    "shape": (_narrow, "1.29 times the std that it should have"),
    "a bias of one block": (lambda m: setattr(m[3].up, "bias", None), "in all 5 blocks"),
    "a bias of one block more": (_bias_more, "5 blocks have it, where net.toml has 4"),
    "nearly ones": (_set("6.weight", lambda x: x.mul_(1.001)), "constant 1.001, where"),
    "nearly a constant": (_set("2.down.bias", lambda x: x.add_(1e-4)), "constant 0.2501"),
    "half": (lambda m: m.half(), "are of float16, where net.toml has float32"),
    "half of one": (lambda m: m[2].down.bfloat16(), "2 parameters are of bfloat16"),
    "tied": (lambda m: setattr(m[2], "up", m[1].up), "tied to *.up.bias"),
    "the mean": (_set("3.down.weight", lambda x: x.add_(0.01)), "the mean is 0.0"),
    "law and scale": (
        _set("2.down.weight", lambda x: nn.init.uniform_(x, -0.128, 0.128)),
        "another law, and 2 times the std",
    ),
    "law alone": (
        _set("2.down.weight", lambda x: nn.init.uniform_(x, -0.0643, 0.0643)),
        "another law of the same std",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_from_a_lock_file_is_told(name: str, tmp_path: Path) -> None:
    (change, words), kept = CHANGES[name], net()
    if change is _bias_more:
        kept[5].down.bias = None
    path, model = locked(tmp_path, kept), net(7)
    change(model)
    with pytest.raises(AssertionError, match="is not initialized as it should be") as raised:
        ist.assert_initialized(model, path, fail_on="error")
    assert words in " ".join(str(raised.value).split())


def test_remedies_of_a_lock_file_mend(tmp_path: Path) -> None:
    path, model = locked(tmp_path, net()), net(3)
    for number in range(1, BLOCKS + 1):
        for name in ("up", "down"):
            model[number].get_submodule(name).reset_parameters()
    model[0].reset_parameters()
    assert len(_errors(model, path)) >= 4
    _mend(model, path)
    ist.assert_initialized(model, path, fail_on="error")


def test_places_of_one_fault_are_one_finding_with_all_names(tmp_path: Path) -> None:
    path, model = locked(tmp_path, net()), net(3)
    names = [f"{number}.{step}.bias" for step in ("up",) for number in range(1, 6)] + ["6.bias"]
    for name in names:
        nn.init.ones_(model.get_parameter(name))
    (found,) = _errors(model, path).to_dict("records")
    assert found["where"] == ", ".join(names)
    assert ist.audit(model, expected=path).named(found["where"]) == names
    text = str(ist.audit(model, expected=path).findings)
    assert "6 places: 1.up.bias, 2.up.bias, 3.up.bias, ... 6.bias" in text
    assert "the same as for as_expected" not in text


class Deep(nn.Module):
    """Blocks whose ends are divided by the root of twice their number, and a tied head."""

    def __init__(self, blocks: int = 5, width: int = 48, *, tie: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(120, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 3 * width), nn.ReLU(), nn.Linear(3 * width, width))
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 120, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            nn.init.normal_(block[2].weight, std=0.02 / math.sqrt(2 * blocks))  # type: ignore[index]
        if tie:
            self.head.weight = self.words.weight


@pytest.mark.parametrize("count", [32, 256])
def test_a_lock_file_says_what_entries_lie_around(count: int, tmp_path: Path) -> None:
    def net(mean: float) -> nn.Module:
        model = nn.Sequential(*(nn.Sequential(nn.BatchNorm1d(count)) for _ in range(3)))
        for each in model:
            nn.init.normal_(each[0].weight, mean, 0.02)  # type: ignore[index]
            nn.init.uniform_(each[0].bias, -5, -4)  # type: ignore[index]
        return model

    path = locked(tmp_path, model := net(1.0))
    assert "mean = 1" in path.read_text() or "mean = 0.99" in path.read_text()
    for same in (model, net(1.0)):
        ist.assert_initialized(same, path)
    for mean in (0.0, 0.9):
        with pytest.raises(AssertionError, match="mean is") as raised:
            ist.assert_initialized(net(mean), path)
        assert "bias" not in str(raised.value)


def test_a_lock_file_says_where_constants_stand(tmp_path: Path) -> None:
    def net(gate: int, hidden: int = 64) -> nn.Module:
        model = nn.LSTM(32, hidden)
        bias = model.get_parameter("bias_ih_l0").data.zero_()
        bias[hidden * gate : hidden * (gate + 1)] = 1
        return model

    path = locked(tmp_path, net(1))
    ist.assert_initialized(net(1), path)
    ist.assert_initialized(net(1, 80), path)  # of another width
    with pytest.raises(AssertionError, match="constants: 128 x 0, 64 x 1, 64 x 0, where"):
        ist.assert_initialized(net(2), path)


def test_another_size_is_told_where_no_formula_fits(tmp_path: Path) -> None:
    models = nn.Linear(24, 96), nn.Linear(24, 90)
    for each in models:
        nn.init.normal_(each.weight, std=0.0371)
    path = locked(tmp_path, models[0])
    with pytest.raises(AssertionError, match="its shape is 90x24, where net.toml has 96x24"):
        ist.assert_initialized(models[1], path)


def test_a_formula_is_compared_where_depth_or_sizes_changed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = locked(tmp_path, Deep())
    for model, note in (
        (Deep(6), "net.toml has 10 blocks.*.*, this model 12"),
        (Deep(3), "net.toml has 10 blocks.*.*, this model 6"),
        (Deep(1), "net.toml has 10 blocks.*.*, this model 2"),
        (Deep(width=64), "than in net.toml, as words.weight, 120x64, has 120x48 there"),
    ):
        ist.assert_initialized(model, path)
        found = ist.audit(model, expected=path).findings
        (text,) = found[found["rule"] == "as_expected"]["evidence"]
        assert note in text
    deeper: Any = Deep(10)
    for block in deeper.blocks:  # the scale of five blocks
        nn.init.normal_(block[2].weight, std=0.02 / math.sqrt(2 * 5))
    with pytest.raises(AssertionError, match="is not initialized") as raised:
        ist.assert_initialized(deeper, path)
    text = " ".join(str(raised.value).split())
    assert "where net.toml has normal, std 0.004472 (0.02 / sqrt(2 blocks)): 1.4" in text
    _mend(deeper, path)
    ist.assert_initialized(deeper, path)


def test_a_lock_file_of_fewer_blocks_says_so(tmp_path: Path) -> None:
    model = net()
    path = locked(tmp_path, nn.Sequential(model[0], nn.ModuleList(model[1:6])))
    deeper = net(4)
    more = nn.Sequential(deeper[0], nn.ModuleList([*deeper[1:6], net(5)[1]]))
    ist.assert_initialized(more, path)
    found: Any = ist.audit(more, expected=path).findings
    (row,) = found[found["rule"] == "as_expected"].to_dict("records")
    assert (row["severity"], row["where"]) == ("note", "*.*")


@pytest.mark.parametrize("before", [True, False])
def test_what_is_tied_stays_tied(before: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = locked(tmp_path, Deep(tie=before))
    ist.assert_initialized(Deep(tie=before), path)
    words = r"no longer tied\s+to head.weight" if before else "tied to head.weight"
    with pytest.raises(AssertionError, match=words):
        ist.assert_initialized(Deep(tie=not before), path)


def test_older_lock_files_are_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = locked(tmp_path, Deep(tie=False))
    new = path.read_text().splitlines()
    assert 'dtype = "float32"' in new
    assert new.count("number = 5") == 4
    path.write_text("\n".join(x for x in new if not x.startswith(("dtype", "number", "tied"))))
    for model in (Deep(tie=False), Deep(tie=False).bfloat16(), Deep(6, tie=False)):
        ist.assert_initialized(model, path)
    with pytest.raises(AssertionError, match="tied to head.weight"):
        ist.assert_initialized(Deep(), path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a = [", "no TOML"),
        ("a = 1", "to_toml"),
        ('[[parameters]]\nname = "x"', "needs name, shape and law"),
        ('[[parameters]]\nname = "x"\nshape = [2]\nlaw = "normal"', "std above 0"),
        ('[[parameters]]\nname = "x"\nshape = [2]\nlaw = "normal"\nstd = "a"', "is a number"),
    ],
)
def test_a_bad_lock_file_is_refused(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=words):
        ist.audit(net(), expected=path)


def test_a_message_has_statistic_law_place_and_remedy() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), *(Block() for _ in range(4)))
    ist.initialize_(model, "gpt2")
    ist.assert_initialized(model, "gpt2")
    for number in range(1, 5):  # the scale of branches is never applied
        nn.init.normal_(model[number].down.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    with pytest.raises(AssertionError) as raised:
        ist.assert_initialized(model, "gpt2")
    text = " ".join(str(raised.value).split())
    assert "1.down.weight, 2.down.weight, 3.down.weight, 4.down.weight" in text
    assert "where gpt2 has normal, std 0.02 / sqrt(4)" in text
    assert "2 times what it should be" in text or "1.9" in text or "2.0" in text
    names = '["1.down.weight", "2.down.weight", "3.down.weight", "4.down.weight"]'
    line = "nn.init.normal_(model.get_parameter(name), std=0.02 / math.sqrt(4))"
    assert f"for name in {names}: {line}" in text
    _mend(model, "gpt2")
    ist.assert_initialized(model, "gpt2")


def _errors(model: nn.Module, expected: str | Path) -> Any:
    found = ist.audit(model, expected=expected).findings
    return found[found["rule"].eq("as_expected") & found["severity"].eq("error")]


def _mend(model: nn.Module, expected: str | Path) -> None:
    """Run each remedy as it is printed."""
    for remedy in _errors(model, expected)["remedy"]:
        exec(remedy, {"model": model, "nn": nn, "math": math, "torch": torch})


def test_a_sick_model_fails_and_a_healthy_one_does_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 32)
    layers = [step for _ in range(8) for step in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    with pytest.raises(AssertionError, match="is not healthy"):
        ist.assert_healthy(model, x)
    ist.initialize_(model, "matched", x)
    ist.assert_healthy(model, x)
    with pytest.raises(ValueError, match="'warning' or 'error'"):
        ist.assert_healthy(model, x, fail_on="note")  # type: ignore[arg-type]


MODELS = """
import torch
from torch import nn

def good():
    net = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5))
    for p in net.parameters():
        (nn.init.zeros_ if p.ndim < 2 else nn.init.kaiming_normal_)(p)
    return net

def bad():
    net = good()
    nn.init.normal_(net[2].weight, mean=1.0)
    return net
"""


def test_models_of_a_project_are_tests_where_it_is_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(nets=MODELS, test_plain="def test_it():\n    pass\n")
    pytester.makeini("[pytest]\ninitstats_models =\n    nets.py:good()\n    nets.py:bad\n")
    assert pytester.runpytest("-p", "no:xdist").parseoutcomes() == {"passed": 1}
    result = pytester.runpytest("-p", "no:xdist", "--initstats")
    assert result.parseoutcomes() == {"passed": 2, "failed": 1}
    result.stdout.fnmatch_lines(["*initstats::nets.py:bad*", "*centred at 2.weight*"])
    assert "Traceback" not in result.stdout.str()


def test_a_project_keeps_a_lock_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(nets=MODELS)
    pytester.makeini("[pytest]\ninitstats_models = nets.py:good good.toml\n")
    result = pytester.runpytest("-p", "no:xdist", "--initstats")
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["*--initstats-update writes it*"])
    for more in ("--initstats-update", "--strict-markers"):
        done = pytester.runpytest("-p", "no:xdist", "--initstats", more)
        assert done.parseoutcomes() == {"passed": 1}
    nets = pytester.path / "nets.py"
    nets.write_text(MODELS.replace("kaiming_normal_", "xavier_normal_"))
    result = pytester.runpytest_subprocess("-p", "no:xdist", "--initstats")
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["*where good.toml has normal*"])


def test_fixtures_assert_and_lock(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        nets=MODELS,
        test_nets="""
        import pytest
        import torch
        from nets import bad, good

        def test_lock(initialization_lock):
            initialization_lock(good())
            initialization_lock(good(), "again")

        def test_both(assert_initialized, assert_healthy):
            assert_initialized(good())
            assert_healthy(good(), torch.randn(64, 30), fail_on="error")
            with pytest.raises(AssertionError, match="centred"):
                assert_initialized(bad())
        """,
    )
    first = pytester.runpytest("-p", "no:xdist")
    assert first.parseoutcomes() == {"passed": 1, "failed": 1}
    assert pytester.runpytest("-p", "no:xdist", "--initstats-update").ret == 0
    assert {path.name for path in (pytester.path / "initstats" / "test_nets").iterdir()} == {
        "test_lock.toml",
        "test_lock.again.toml",
    }
    assert pytester.runpytest("-p", "no:xdist").parseoutcomes() == {"passed": 2}


SAME_NAMES = """
import pytest
from torch import nn

@pytest.mark.parametrize("words", ["a/b", "a_b", "x" * 300])
def test_lock(initialization_lock, words):
    initialization_lock(nn.Linear(20, SIZE + len(words)))

class TestOne:
    def test_lock(self, initialization_lock):
        initialization_lock(nn.Linear(20, SIZE))

class TestTwo:
    class TestOne:
        def test_lock(self, initialization_lock):
            initialization_lock(nn.Linear(21, SIZE))

def test_twice(initialization_lock):
    initialization_lock(nn.Linear(20, 2))
    with pytest.raises(ValueError, match="give each further call a name"):
        initialization_lock(nn.Linear(20, 3))
    initialization_lock(nn.Linear(20, 3), "three")
    with pytest.raises(ValueError, match="with the name 'three' again"):
        initialization_lock(nn.Linear(20, 4), "three")
"""


def test_lock_files_of_one_project_under_several_workers(pytester: pytest.Pytester) -> None:
    """Tests of one name have their own; models of the setting are tests beside them."""
    for size, module in enumerate(["test_a", "test_b", "sub/test_a"], 1):
        file = pytester.path / f"{module}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(SAME_NAMES.replace("SIZE", str(size)))
    pytester.makepyfile(nets=MODELS)
    pytester.makeini("[pytest]\ninitstats_models =\n    nets.py:good good.toml\n    nets.py:good\n")
    mode = "--import-mode=importlib", "--initstats"
    written = pytester.runpytest_subprocess("-n", "2", *mode, "--initstats-update")
    assert written.parseoutcomes() == {"passed": 18 + 2}
    assert len([*pytester.path.rglob("*.toml")]) == 21 + 1  # one for each call
    again = pytester.runpytest("-p", "no:xdist", *mode)
    assert again.parseoutcomes() == {"passed": 18 + 2}


class Nothing(nn.Sequential):
    """A model without parameters."""


@pytest.mark.parametrize("expected", [None, "gpt2", "lock"])
@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: nn.Linear(4, 4, device="meta"),
            "2 parameters hold no numbers, on the meta device",
        ),
        (lambda: nn.Sequential(nn.LazyLinear(4)), "2 parameters hold no numbers, lazy"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(4)), r"lazy.*1\.weight, 1\.bias"),
        (lambda: Nothing(nn.ReLU()), "Nothing has no parameters"),
    ],
)
def test_a_model_without_numbers_fails(
    build: Callable[[], nn.Module], words: str, expected: str | None, tmp_path: Path
) -> None:
    given = locked(tmp_path, nn.Linear(4, 4)) if expected == "lock" else expected
    with pytest.raises(AssertionError, match=words):
        ist.assert_initialized(build(), given)


def test_an_input_gives_a_lazy_model_its_numbers() -> None:
    model = nn.Sequential(nn.LazyLinear(30), nn.Linear(30, 8))
    ist.assert_initialized(model, x=torch.randn(5, 20))
    ist.assert_initialized(nn.ParameterList([nn.Parameter(torch.empty(0)), torch.randn(9)]))


def test_what_a_factory_does_wrong_is_told_without_our_own_frames(
    pytester: pytest.Pytester,
) -> None:
    more = """
def breaks():
    return inner(3)

def inner(width):
    raise RuntimeError(f"no such width: {width}")

def takes(layers):
    return good()

def away():
    return nn.Linear(3, 3, device="meta")
"""
    pytester.makepyfile(nets=MODELS + more, worse="import no_such_thing\n")
    lines = ["nets.py:breaks", "nets.py:takes", "nets.py:away", "worse.py:net", "nets.py:none"]
    pytester.makeini("[pytest]\ninitstats_models =\n" + "".join(f"    {x}\n" for x in lines))
    result = pytester.runpytest("-p", "no:xdist", "--initstats")
    assert result.parseoutcomes() == {"failed": 5}
    said = result.stdout.str()
    assert 'in inner\n    raise RuntimeError(f"no such width: {width}")' in said
    for words in (
        "nets.py:breaks raised RuntimeError: no such width: 3",
        "missing 1 required positional argument: 'layers'",
        "Linear: 2 parameters hold no numbers, on the meta device",
        "no_such_thing",
        "has no function 'none'",
    ):
        assert words in said
    assert "pytest_plugin.py" not in said
    assert "initstats/cli" not in said


def test_a_lock_file_that_cannot_be_written_is_a_line(pytester: pytest.Pytester) -> None:
    (pytester.path / "initstats").write_text("a file where the folder should be")
    pytester.makepyfile(
        test_nets="""
        from torch import nn

        def test_lock(initialization_lock):
            initialization_lock(nn.Linear(20, 3))
        """
    )
    result = pytester.runpytest("-p", "no:xdist", "--initstats-update")
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["*AssertionError: the lock file * cannot be written: *"])
    assert "write_whole" not in result.stdout.str()


def test_an_empty_setting_is_an_error_of_usage(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("-p", "no:xdist", "--initstats")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*initstats_models*is empty*"])
