"""The audit of an initialization: laws and their false alarms, formulas, and planted faults."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy import integrate, stats
from torch import Tensor, nn

import initstats as ist
from initstats.audits.law import FAR, Law, law_of

Shape = tuple[int, ...]
Draw = Callable[[Any], object]
LAWS: dict[str, Draw] = {
    "normal": lambda x: nn.init.normal_(x, std=0.02),
    "uniform": lambda x: nn.init.uniform_(x, -0.1, 0.1),
    "normal, cut at 2 std": lambda x: nn.init.trunc_normal_(x, std=0.5, a=-1, b=1),
}
BLOCKS, WIDTH = 6, 48


@pytest.mark.sampled(every=2)
@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("shape", [(7, 3), (16, 32), (64, 96), (20, 4, 3, 3)])
def test_laws_are_told_from_their_entries_and_no_more_often_wrongly_than_said(
    name: str, shape: Shape
) -> None:
    torch.manual_seed(len(name) + len(shape))
    told = Counter(_told(LAWS[name], shape, 0.01) for _ in range(300))
    wrong = sum(count for law, count in told.items() if law not in (name, "undecided"))
    # 1% for each of three other laws, and for a test of fit; less what chance adds to a count
    assert wrong <= stats.binom.isf(1e-6, 300, 0.04)
    if math.prod(shape) > 5000:
        assert told[name] > 250


def _told(draw: Draw, shape: Shape, level: float) -> str:
    x = torch.empty(shape)
    draw(x)
    return str(law_of(x, level))


@pytest.mark.parametrize(
    ("draw", "shape", "told"),
    [
        (nn.init.zeros_, (3, 4), "zeros"),
        (nn.init.ones_, (5,), "ones"),
        (lambda x: nn.init.constant_(x, 0.3), (5,), "constant 0.3"),
        (nn.init.orthogonal_, (30, 20), "orthogonal"),
        (nn.init.orthogonal_, (300, 400), "orthogonal"),
        (nn.init.eye_, (6, 9), "identity"),
        (nn.init.dirac_, (6, 9, 3), "identity"),
        (lambda x: nn.init.sparse_(x, 0.5), (200, 100), "sparse normal"),
        (lambda x: x.copy_(torch.distributions.Laplace(0, 1).sample(x.shape)), (90, 90), None),
        (lambda x: x.normal_().view(-1)[0].fill_(math.nan), (9, 9), "not finite"),
        (lambda x: x.normal_().view(-1)[0].fill_(math.inf), (9, 9), "not finite"),
        (lambda x: x.zero_()[:5].fill_(1), (20,), "constants: 5 x 1, 15 x 0"),
        (lambda x: x.copy_(torch.randn(x.shape).bfloat16()), (90, 90), "normal"),
    ],
)
def test_patterns_and_what_is_no_law(draw: Draw, shape: Shape, told: str | None) -> None:
    torch.manual_seed(0)
    assert _told(draw, shape, 1e-6) == (told or "unlike any")


def test_a_cut_laws_moments_are_those_of_quadrature() -> None:
    for cut in (0.7, 2.0, 3.3):
        law = stats.truncnorm(-cut, cut)
        fourth = integrate.quad(lambda z, law=law: z**4 * law.pdf(z), -cut, cut)[0]
        found = Law("truncated_normal", cut=cut).kurtosis
        assert found == pytest.approx(fourth / law.var() ** 2, rel=1e-9)


def test_rounding_is_told() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 64)
    assert law_of(x.half().float(), 1e-6).rounded == "float16"
    assert law_of(x, 1e-6).rounded == ""


def test_an_entry_far_off_is_left_out_of_the_scale() -> None:
    torch.manual_seed(0)
    model = nn.Linear(200, 100)
    nn.init.normal_(model.weight, std=0.02)
    with torch.no_grad():
        model.weight[3, 4] = 0.02 * 5 * FAR
    found = ist.audit(model)
    weight: Any = found.table.set_index("name").loc["weight"]
    assert (weight["law"], weight["formula"]) == ("normal", "0.02")
    assert "strays" in set(_faults(found, "note"))


@pytest.mark.parametrize(
    ("init", "formula"),
    [
        (nn.init.xavier_normal_, "sqrt(2/(fan_in + fan_out))"),
        (nn.init.kaiming_uniform_, "sqrt(2/fan_in)"),
        (lambda w: nn.init.kaiming_normal_(w, mode="fan_out"), "sqrt(2/fan_out)"),
        (lambda w: nn.init.normal_(w, std=0.02), "0.02"),
        (lambda w: nn.init.kaiming_uniform_(w, a=5**0.5), "1/sqrt(3 fan_in)"),
        (nn.init.orthogonal_, "gain 1"),
    ],
)
def test_scales_are_told_as_formulas(init: Draw, formula: str) -> None:
    torch.manual_seed(1)
    sizes = (40, 90, 25, 160, 70)
    model: Any = nn.Sequential(*map(nn.Linear, sizes, sizes[1:]), nn.Conv1d(8, 30, 5))
    for module in model:
        init(module.weight)
    table: Any = ist.audit(model).table
    assert set(table.loc[table["kind"] == "weight", "formula"]) == {formula}


def test_stds_and_errors_are_those_of_the_entries() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(30, 50), nn.Embedding(70, 20, padding_idx=0))
    table: Any = ist.audit(model).table.set_index("name")
    weight: Any = model[0].weight.detach().double()
    assert table.loc["0.weight", "std"] == pytest.approx(float(weight.square().mean().sqrt()))
    # the fourth moment of a uniform law is 1.8 of its squared variance
    error: Any = table.loc["0.weight", "std_error"] / table.loc["0.weight", "std"]
    assert error == pytest.approx(math.sqrt(0.8 / 4 / 1500))
    rows = model[1].weight.detach().double()[1:]  # without the padding row
    assert table.loc["1.weight", "std"] == pytest.approx(float(rows.square().mean().sqrt()))


class Block(nn.Module):
    """A residual block as GPT-2 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(WIDTH), nn.MultiheadAttention(WIDTH, 4)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)


class Net(nn.Module):
    """Blocks between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, WIDTH, padding_idx=0)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, 200, bias=False)


def sound() -> Any:
    """A model that is as it should be."""
    model: Any = Net()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            nn.init.constant_(parameter, float("norm.weight" in name))
        else:
            ends = name.endswith(("out_proj.weight", "down.weight"))
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * BLOCKS) if ends else 0.02)
    with torch.no_grad():
        model.embed.weight[0] = 0
    return model


def weight_of(model: Any, number: int = 3) -> Any:
    return model.blocks[number].up.weight.data


PLANTED: dict[str, tuple[Callable[[Any], object], str, str]] = {
    "three times the std": (lambda m: weight_of(m).mul_(3), "out_of_line", "blocks.3.up.weight"),
    "the first block": (lambda m: weight_of(m, 0).mul_(1.3), "out_of_line", "blocks.0.up.weight"),
    "no depth scale": (
        lambda m: nn.init.normal_(m.blocks[2].down.weight, std=0.02),
        "out_of_line",
        "blocks.2.down.weight",
    ),
    "another law": (
        lambda m: nn.init.uniform_(weight_of(m), -0.02 * 3**0.5, 0.02 * 3**0.5),
        "out_of_line",
        "blocks.3.up.weight",
    ),
    "cut": (
        lambda m: nn.init.trunc_normal_(weight_of(m), std=0.02, a=-0.04, b=0.04),
        "out_of_line",
        "blocks.3.up.weight",
    ),
    "forgotten": (lambda m: m.blocks[4].up.reset_parameters(), "out_of_line", "blocks.4.up.bias"),
    "zero": (lambda m: weight_of(m).zero_(), "out_of_line", "blocks.3.up.weight"),
    "a norm at zero": (
        lambda m: m.blocks[1].norm.weight.data.zero_(),
        "out_of_line",
        "blocks.1.norm.weight",
    ),
    "clones": (
        lambda m: m.blocks[1].load_state_dict(m.blocks[0].state_dict()),
        "equal_parameters",
        "blocks.0.up.weight",
    ),
    "equal units": (
        lambda m: weight_of(m)[5].copy_(weight_of(m)[90]),
        "equal_units",
        "blocks.3.up.weight",
    ),
    "constant": (lambda m: m.head.weight.data.fill_(0.1), "equal_units", "head.weight"),
    "rand for randn": (
        lambda m: [nn.init.uniform_(weight_of(m, n), 0, 0.04) for n in range(BLOCKS)],
        "centred",
        "blocks.0.up.weight",
    ),
    "padding drawn": (lambda m: m.embed.weight.data[0].normal_(), "padding_row", "embed.weight"),
    "NaN": (lambda m: weight_of(m)[0, :1].fill_(math.nan), "uninitialized", "blocks.3.up.weight"),
    "memory": (lambda m: weight_of(m).mul_(1e-40), "uninitialized", "blocks.3.up.weight"),
    "a role left at the default": (
        lambda m: [block.up.reset_parameters() for block in m.blocks],
        "left_at_default",
        "blocks.0.up.weight",
    ),
}


def _faults(found: ist.audits.Audit, *severities: str) -> list[str]:
    kept = found.findings["severity"].isin(severities or ("error", "warning"))
    return [*found.findings.loc[kept, "rule"]]


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found_where_they_are(name: str) -> None:
    torch.manual_seed(len(name))
    model = sound()
    assert not _faults(ist.audit(model))
    plant, rule, where = PLANTED[name]
    with torch.no_grad():
        plant(model)
    findings: Any = ist.audit(model).findings
    found = findings[findings["severity"].isin(["error", "warning", "note"])]
    assert rule in set(found["rule"])
    assert found.loc[found["rule"] == rule, "where"].str.contains(where, regex=False).any()


def test_one_weight_that_is_scaled_by_the_other_fan_is_named() -> None:
    torch.manual_seed(0)
    sizes = (784, 300, 120, 500, 60, 10)
    model: Any = nn.Sequential(*map(nn.Linear, sizes, sizes[1:]))
    for module in model:
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)
    assert not _faults(ist.audit(model))
    nn.init.kaiming_normal_(model[2].weight, mode="fan_out")
    findings: Any = ist.audit(model).findings.set_index("rule")
    assert findings.loc["wrong_fan", "where"] == "2.weight"
    assert "2.04 times" not in findings.loc["wrong_fan", "evidence"]
    assert f"{math.sqrt(120 / 500):.3g} times" in findings.loc["wrong_fan", "evidence"]


def test_scales_that_all_differ_have_none_out_of_line_but_a_far_one() -> None:
    torch.manual_seed(0)
    model = sound()
    fitted = (0.96, 1.04, 1.03, 0.96, 0.97, 1.09)  # to data, as LSUV does
    for block, factor in zip(model.blocks, fitted, strict=True):
        block.up.weight.data *= factor
    assert not _faults(ist.audit(model))
    weight_of(model, 5).mul_(3)
    findings: Any = ist.audit(model).findings.set_index("rule")
    assert findings.loc["out_of_line", "where"] == "blocks.5.up.weight"


def test_a_dependence_on_depth_is_told_and_is_no_fault() -> None:
    torch.manual_seed(0)
    model = sound()
    for number, block in enumerate(model.blocks):
        nn.init.normal_(block.down.weight, std=0.02 / math.sqrt(2 * (number + 1)))
    found = ist.audit(model)
    assert not _faults(found)
    assert "depth_dependence" in _faults(found, "note")
    formulas: Any = found.table.set_index("role").loc["blocks.*.down.weight", "formula"]
    assert set(formulas) == {"0.02 / sqrt(2 block)"}


def test_published_rules_are_read_off_gpt2() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=4, n_embd=64, n_head=4, vocab_size=300)
    roles: Any = ist.audit(transformers.GPT2LMHeadModel(config)).roles.set_index("role")["drawn"]
    assert roles["transformer.h.*.attn.c_proj.weight"] == "normal, std 0.02 / sqrt(2 blocks)"
    assert roles["transformer.h.*.mlp.c_fc.weight"] == "normal, std 0.02"
    assert roles["transformer.wte.weight"] == "normal, std 0.02"


def test_an_input_shows_the_fans_of_weights_beside_modules() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(30, 50) / 30**0.5)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    torch.manual_seed(0)
    model = Bare()
    assert ist.audit(model).table["fan_in"].isna().all()
    (row,) = ist.audit(model, torch.randn(8, 30)).table.to_dict("records")
    assert (row["fan_in"], row["fan_out"]) == (30, 50)


def test_nothing_is_changed_and_copies_on_purpose_are_a_note() -> None:
    torch.manual_seed(0)
    online = sound()
    target = copy.deepcopy(online).requires_grad_(False)
    both = nn.ModuleDict({"online": online, "target": target}).eval()
    before = copy.deepcopy(both.state_dict())
    state = torch.get_rng_state()
    found = ist.audit(both)
    assert torch.equal(state, torch.get_rng_state())
    assert not both.training
    assert all(torch.equal(x, before[name]) for name, x in both.state_dict().items())
    assert not _faults(found)
    assert "equal_parameters" in _faults(found, "note")


MODULES: list[Callable[[], nn.Module]] = [
    lambda: nn.Identity(),
    lambda: nn.LazyLinear(3),
    lambda: nn.Linear(1, 1),
    lambda: nn.Linear(3, 2, dtype=torch.float64),
    lambda: nn.Linear(3, 2, dtype=torch.bfloat16),
    lambda: nn.Linear(30, 20, dtype=torch.complex64),
    lambda: nn.Linear(3, 2, device="meta"),
    lambda: nn.Linear(0, 2, bias=False),
    lambda: nn.ParameterList([nn.Parameter(torch.tensor(2.0))]),
    lambda: nn.LSTM(8, 16, num_layers=3),
    lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    lambda: nn.Bilinear(3, 4, 5),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
]


@pytest.mark.parametrize("build", MODULES)
@pytest.mark.filterwarnings("ignore:Initializing zero-element", "ignore:Lazy modules")
def test_any_module_can_be_audited(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    found = ist.audit(model)
    assert len(found.table) == len([*model.parameters()])
    assert not _faults(found)
    assert type(model).__name__ in str(found)


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(ValueError, match="not str"):
        ist.audit("gpt2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="between 0 and 1, not 2"):
        ist.audit(nn.Linear(2, 2), level=2)
    half = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match=r"1\.weight is on the meta device"):
        ist.audit(half, torch.zeros(1, 2))


def test_alarms_about_sound_models_are_as_rare_as_asked() -> None:
    alarms = []
    for seed in range(60):
        torch.manual_seed(seed)
        alarms.append(bool(_faults(ist.audit(sound(), level=0.05))))
    assert np.sum(alarms) <= stats.binom.isf(1e-4, 60, 0.05)


def test_what_holds_no_numbers_is_told() -> None:
    (where,) = ist.audit(nn.Linear(3, 2, device="meta")).findings.query("severity == 'note'")[
        "where"
    ]
    assert where == "weight, bias"


def test_units_of_a_transposed_weight_are_its_columns() -> None:
    torch.manual_seed(0)
    layer = transformers.pytorch_utils.Conv1D(12, 40)
    with torch.no_grad():
        layer.weight[:, 3] = layer.weight[:, 7]
    (evidence,) = ist.audit(layer).findings.query("rule == 'equal_units'")["evidence"]
    assert evidence.startswith("1 of 12 units")


def test_steps_of_a_branch_that_ends_in_zeros_are_compared_with_their_like() -> None:
    torch.manual_seed(0)
    blocks: Any = [nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40)) for _ in range(5)]
    for first, last in blocks:
        nn.init.kaiming_normal_(first.weight)
        nn.init.zeros_(last.weight)
    model: Any = nn.Sequential(*blocks)
    assert not _faults(ist.audit(model))
    nn.init.zeros_(model[2][0].weight)
    (row,) = ist.audit(model).findings.query("severity == 'warning'").to_dict("records")
    assert (row["rule"], row["where"]) == ("out_of_line", "2.0.weight")
