"""Published initializations: roles read off the graph, scales against other people's programs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import initstats as ist
from initstats.schemes import SCHEMES
from initstats.schemes.draw import Piece, drawn, normal, truncated

SMALL: dict[str, Any] = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
Build = Callable[[], nn.Module]


def gpt2(layers: int = 3, width: int = 48, **more: Any) -> Any:
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(n_layer=layers, n_embd=width, n_head=4, vocab_size=150, **more)
    )


class Bottleneck(nn.Module):
    """As torchvision's, three convolutions with norms behind them."""

    def __init__(self, inputs: int, width: int, stride: int, *, norm: bool) -> None:
        super().__init__()
        sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 2 * width, 1, 1)]
        self.steps = nn.ModuleList(
            nn.Conv2d(i, o, k, s, k // 2, bias=not norm) for i, o, k, s in sizes
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(o) if norm else nn.Identity() for _, o, *_ in sizes
        )
        same = inputs == 2 * width and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, 2 * width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number, (step, norm) in enumerate(zip(self.steps, self.norms, strict=True)):
            y = norm(step(y))
            y = y.relu() if number < 2 else y
        return torch.relu(y + self.short(x))


class ResNet(nn.Module):
    """As torchvision draws it."""

    def __init__(self, *, norm: bool = True, zero_last: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        places = [(16, 8, 1), (16, 8, 1), (16, 16, 2), (32, 16, 1)]
        self.blocks = nn.Sequential(*(Bottleneck(*place, norm=norm) for place in places))
        self.head = nn.Linear(32, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Bottleneck) and norm and zero_last:
                module.norms[2].weight.data.zero_()  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))  # type: ignore[no-any-return]


PUBLISHED: dict[str, tuple[Build, str]] = {
    "gpt2": (gpt2, "gpt2"),
    "gpt2 of five layers": (lambda: gpt2(5, 32), "gpt2"),
    "gpt2 with eager attention": (lambda: gpt2(attn_implementation="eager"), "gpt2"),
    "bert": (
        lambda: hf.BertForMaskedLM(hf.BertConfig(num_hidden_layers=2, vocab_size=150, **SMALL)),
        "bert",
    ),
    "roberta": (
        lambda: hf.RobertaForMaskedLM(
            hf.RobertaConfig(num_hidden_layers=2, vocab_size=150, pad_token_id=0, **SMALL)
        ),
        "bert",
    ),
    "llama": (
        lambda: hf.LlamaForCausalLM(
            hf.LlamaConfig(num_hidden_layers=2, num_key_value_heads=2, vocab_size=150, **SMALL)
        ),
        "llama",
    ),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(num_layers=2, d_model=48, d_kv=8, num_heads=4, d_ff=96, vocab_size=150)
        ),
        "t5",
    ),
    "t5 with gates": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(
                num_layers=2,
                d_model=48,
                d_kv=16,
                num_heads=4,
                d_ff=96,
                vocab_size=150,
                feed_forward_proj="gated-gelu",
                tie_word_embeddings=False,
            )
        ),
        "t5",
    ),
    "vit": (
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(num_hidden_layers=2, image_size=32, patch_size=8, **SMALL)
        ),
        "vit_transformers",
    ),
    "resnet": (ResNet, "resnet"),
    "resnet with zeros": (lambda: ResNet(zero_last=True), "resnet_timm"),
}


@pytest.mark.sampled(every=4)
@pytest.mark.parametrize("name", PUBLISHED)
def test_scales_are_those_that_other_programs_draw(name: str) -> None:
    build, scheme = PUBLISHED[name]
    torch.manual_seed(len(name))
    model = build().eval()
    table: Any = ist.prescribe(model, scheme).table
    assert len(table) == len([*model.parameters()])
    asked = 0
    for row in table.itertuples():
        entries = model.get_parameter(row.name).detach().double()
        if row.std > 0 and row.drawn:
            padding = float((entries == 0).double().mean())  # rows of padding
            found = float(entries.square().mean().sqrt()) / math.sqrt(1 - padding)
            # BERT's std is that before a cut, which transformers does not make
            wanted = 0.02 if scheme == "bert" else row.std
            assert abs(math.log(found / wanted)) < 5 / math.sqrt(2 * entries.numel()), row.name
            asked += 1
        elif row.drawn:
            assert entries.std(correction=0) == 0, row.name
    assert asked > 8
    for again in (model, build()):  # as its program draws it, and as this one does
        if again is not model:
            ist.initialize_(again, scheme, seed=len(name))
        findings = ist.audit(again, expected=scheme).findings
        assert not findings["severity"].isin(["error", "warning"]).any(), str(findings)


class Block(nn.Module):
    """A block whose names tell nothing; its attention is written out."""

    def __init__(self, width: int, *, post: bool) -> None:
        super().__init__()
        self.post = post
        self.a, self.b, self.c, self.d = (nn.Linear(width, width) for _ in range(4))
        self.e, self.f = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.g, self.h = nn.LayerNorm(width), nn.LayerNorm(width)

    def attend(self, x: Tensor) -> Tensor:
        scores = self.b(x) @ self.d(x).mT / x.shape[-1] ** 0.5
        return self.a(scores.softmax(-1) @ self.c(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.g(x * 1.5 + self.attend(x))
            return self.h(x * 1.5 + self.f(self.e(x).relu()))  # type: ignore[no-any-return]
        x = x + self.attend(self.g(x))
        return x + self.f(self.e(self.h(x)).relu())  # type: ignore[no-any-return]


def blocks(number: int, width: int, *, post: bool = False) -> nn.Sequential:
    made = [Block(width, post=post) for _ in range(number)]
    return nn.Sequential(nn.Linear(7, width), *made, nn.Linear(width, 3))


@pytest.mark.parametrize("post", [False, True])
def test_roles_are_read_off_the_graph_and_not_off_names(post: bool) -> None:
    table: Any = ist.prescribe(blocks(2, 16, post=post), "gpt2").table.set_index("name")
    told = {name: table.loc[f"2.{name}.weight", "role"] for name in "abcdef"}
    assert told == {"a": "last", "b": "query", "c": "value", "d": "key", "e": "", "f": "last"}
    assert (table.loc["0.weight", "role"], table.loc["3.weight", "role"]) == ("stem", "head")
    assert set(table.loc[["1.a.weight", "2.e.weight"], "branches"]) == {4}


def test_deepnorm_is_smaller_in_values_and_in_what_follows_them() -> None:
    torch.manual_seed(0)
    model = blocks(3, 64, post=True)
    ist.initialize_(model, "deepnorm")
    beta, square, wide = (8 * 3) ** -0.25, math.sqrt(1 / 64), math.sqrt(2 / (64 + 192))
    wanted = {"a": beta * square, "b": square, "c": beta * square, "d": square}
    for name, std in {**wanted, "e": beta * wide, "f": beta * wide}.items():
        found = float(model.get_parameter(f"1.{name}.weight").detach().square().mean().sqrt())
        assert found == pytest.approx(std, rel=5 / math.sqrt(2 * 64 * 64)), name


@pytest.mark.parametrize(("encoders", "decoders"), [(3, 2), (1, 2)])
def test_deepnorm_of_an_encoder_with_a_decoder(encoders: int, decoders: int) -> None:
    """Also where both streams have as many branches."""
    model = nn.Transformer(32, 2, encoders, decoders, 64, batch_first=True)
    table: Any = ist.initialize_(model, "deepnorm").table.set_index("name")
    betas = {
        "encoder": 0.87 * (encoders**4 * decoders) ** (-1 / 16),
        "decoder": (12 * decoders) ** -0.25,
    }
    for name, weight in model.named_parameters():
        if name.endswith(("linear1.weight", "out_proj.weight")):
            std = betas[name[:7]] * math.sqrt(2 / sum(weight.shape))
            found = float(weight.detach().square().mean().sqrt())
            assert found == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel())), name
            assert table.loc[name, "std"] == pytest.approx(std)
    assert not _faults(model, "deepnorm")


def test_a_packed_weight_is_drawn_by_its_rows() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    ist.initialize_(model, "deepnorm")
    weight: Any = model.layers[2].self_attn.in_proj_weight.detach()
    ratio = float(weight[64:].square().mean() / weight[:64].square().mean()) ** 0.5
    error = math.sqrt(1 / (2 * 32 * 32) + 1 / (2 * 64 * 32))
    assert ratio == pytest.approx((8 * 4) ** -0.25, rel=5 * error)
    assert not torch.equal(weight[:32], weight[32:64])
    assert not torch.equal(weight, model.layers[1].self_attn.in_proj_weight)
    assert not _faults(model, "deepnorm")
    with torch.no_grad():
        model.layers[2].self_attn.in_proj_weight[64:] *= 3
    (fault,) = _faults(model, "deepnorm")
    assert fault.where == "layers.2.self_attn.in_proj_weight"
    assert fault.remedy.startswith("nn.init.normal_(model.get_parameter(")


def _faults(model: nn.Module, scheme: str) -> list[Any]:
    findings: Any = ist.audit(model, expected=scheme).findings
    return [
        *findings[
            findings["rule"].eq("as_expected") & findings["severity"].eq("error")
        ].itertuples()
    ]


def test_fixup_has_the_power_of_the_paper_and_ends_in_zeros() -> None:
    torch.manual_seed(1)
    model: Any = ResNet(norm=False)
    ist.initialize_(model, "fixup")
    assert not model.head.weight.any()
    assert not any(block.steps[2].weight.any() for block in model.blocks)
    x = model.blocks[1].steps[1].weight.detach()
    wanted = math.sqrt(2 / 72) * 4 ** (-1 / (2 * 3 - 2))  # four branches of three products
    assert float(x.square().mean().sqrt()) == pytest.approx(
        wanted, rel=5 / math.sqrt(2 * x.numel())
    )
    short = model.blocks[2].short.weight.detach()  # of no branch
    rel = 5 / math.sqrt(2 * short.numel())
    assert float(short.square().mean().sqrt()) == pytest.approx(math.sqrt(2 / 16), rel=rel)


def test_mup_makes_the_head_smaller_with_the_width() -> None:
    stds = {}
    for width in (64, 256):
        model = blocks(1, width)
        ist.initialize_(model, "mup")
        stds[width] = [
            float(model.get_parameter(f"{n}.weight").detach().std()) for n in ("1.e", "2")
        ]
    assert stds[64][0] / stds[256][0] == pytest.approx(2, rel=0.05)
    assert stds[64][1] / stds[256][1] == pytest.approx(4, rel=0.35)


@pytest.mark.parametrize("scheme", [*SCHEMES, "matched"])
def test_the_code_draws_from_the_same_laws(scheme: str) -> None:
    torch.manual_seed(0)
    model = ResNet(norm=scheme != "fixup") if "resnet" in scheme else blocks(2, 24)
    found = ist.prescribe(model, scheme)
    before = copy.deepcopy(model)
    assert all(
        torch.equal(x, y) for x, y in zip(model.parameters(), before.parameters(), strict=True)
    )
    scope: dict[str, Any] = {}
    exec(found.code, scope)
    scope["initialize"](model)
    assert not _faults(model, found), found.code  # type: ignore[arg-type]
    changed = [
        n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n))
    ]
    assert len(changed) > 4


def test_draws_depend_on_the_seed_and_the_name_alone() -> None:
    torch.manual_seed(3)
    models = [gpt2(layers).eval() for layers in (2, 2, 3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (1, 2, 1), strict=True):
        ist.initialize_(model, "gpt2", seed=seed)
        assert not model.training
    assert torch.equal(state, torch.get_rng_state())
    one, other, deeper = ([*m.named_parameters()] for m in models)
    assert not torch.equal(one[0][1], other[0][1])
    assert torch.equal(one[0][1], deeper[0][1])
    names = [name for name, p in one if p.ndim > 1]
    assert len(
        {float(models[0].get_parameter(name).detach().flatten()[0]) for name in names}
    ) == len(names)


def test_types_ties_and_padding_are_kept() -> None:
    model: Any = nn.Sequential(nn.Embedding(40, 32, padding_idx=3), nn.Linear(32, 40, bias=False))
    model[1].weight = model[0].weight
    model.bfloat16()
    ist.initialize_(model, "gpt2")
    assert model[1].weight is model[0].weight
    assert model[0].weight.dtype == torch.bfloat16
    assert not model[0].weight[3].any()
    assert float(model[0].weight.detach()[4:].float().std()) == pytest.approx(0.02, rel=0.1)


def test_a_residual_stream_stays_as_it_was_over_200_branches() -> None:
    ids = torch.randint(150, (2, 16))

    def growth(model: Any) -> float:
        with torch.no_grad():
            states = model.transformer(ids, output_hidden_states=True).hidden_states[:-1]
        rms = [float(state.square().mean().sqrt()) for state in states]
        return max(rms) / min(rms)

    model: Any = gpt2(100, 64).eval()
    ist.initialize_(model, "gpt2", ids)
    assert growth(model) < 2
    for block in model.transformer.h:  # as programs had it that forgot the scale
        nn.init.normal_(block.mlp.c_proj.weight, std=0.02)
        nn.init.normal_(block.attn.c_proj.weight, std=0.02)
    assert growth(model) > 5


class Vector(nn.Module):
    """A branch with a gate of one unit, whose weight is a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.gate = nn.Linear(8, 8), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.map(x) * (x @ self.gate)[:, None]  # type: ignore[no-any-return]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_that_are_vectors_are_drawn_too(scheme: str) -> None:
    found = ist.initialize_(Vector(), scheme, torch.randn(5, 8))
    assert "gate" in found.rulings


def test_a_law_that_is_accepted_of_weights_is_none_of_norms() -> None:
    torch.manual_seed(0)
    model = PUBLISHED["vit"][0]()
    norm: Any = next(m for m in model.modules() if isinstance(m, nn.LayerNorm))
    nn.init.trunc_normal_(norm.weight, std=0.02, a=-0.04, b=0.04)
    assert _faults(model, "vit_transformers")


class Towers(nn.ModuleList):
    """Streams side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([tower(x) for tower in self], -1)


class Three(nn.Module):
    """A model that no made-up input fits."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.map(x) + y + z  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "scheme", "words"),
    [
        (nn.Linear(3, 3), "gtp2", "did you mean 'gpt2'"),
        (Three(), "gpt2", "x="),
        (nn.Linear(3, 3), "fixup", "has none"),
        (nn.Linear(3, 3), "deepnorm", "has none"),
        (nn.Linear(3, 3, device="meta"), "gpt2", "to_empty"),
        ("gpt2", "gpt2", "torch.nn.Module"),
        (
            Towers([blocks(1, 8), blocks(2, 8)]),
            "deepnorm",
            "of 2, 4 branches",
        ),
    ],
)
def test_what_cannot_be_initialized_is_said_and_stays(model: Any, scheme: str, words: str) -> None:
    before = copy.deepcopy(model.state_dict()) if isinstance(model, nn.Module) else {}
    with pytest.raises(ValueError, match=words):
        ist.initialize_(model, scheme)
    for name, x in before.items():
        assert x.is_meta or torch.equal(x, model.state_dict()[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_models_are_refused() -> None:
    scripted = torch.jit.script(nn.Linear(3, 3))
    for refused in (lambda: ist.initialize_(scripted, "gpt2"), lambda: ist.audit(scripted)):
        with pytest.raises(ValueError, match="before it is scripted"):
            refused()


def test_weights_that_are_computed_are_left_alone() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    found = ist.prescribe(nn.Sequential(layer, nn.Linear(8, 8)), "gpt2")
    assert "1.weight" in found.rulings
    assert not [name for name in found.rulings if "parametrizations" in name]


def test_a_cut_law_has_the_std_that_is_told() -> None:
    draw = truncated(0.5, 1.5)
    x = drawn((Piece(draw),), torch.empty(400, 500), torch.Generator().manual_seed(0))
    assert float(x.abs().max()) <= 0.75
    assert float(x.std()) == pytest.approx(draw.std, rel=5 / math.sqrt(2 * x.numel()))
    cut = drawn((Piece(normal(1.0), 1, 2, 4),), torch.zeros(3, 5), torch.Generator().manual_seed(0))
    assert (cut != 0).sum(0).tolist() == [0, 0, 3, 3, 0]


class Tied(nn.Module):
    """A table of words that is also the head, a map that is used twice, and one that is turned."""

    def __init__(self, *, tie: bool = True) -> None:
        super().__init__()
        self.words, self.map = nn.Embedding(70, 30, padding_idx=2), nn.Linear(30, 30)
        self.again, self.turned = self.map, nn.Linear(30, 50, bias=False)
        self.head = nn.Linear(30, 70)
        if tie:
            self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.again(self.map(self.words(ids)).relu()).relu()
        x = nn.functional.linear(self.turned(x).relu(), self.turned.weight.T)
        return self.head(x)  # type: ignore[no-any-return]


class Steep(nn.Module):
    """Maps whose output is multiplied by 30, and one that adds a vector of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(20, 60), nn.Linear(60, 60)
        self.last, self.bias = nn.Parameter(torch.randn(60, 40)), nn.Parameter(torch.randn(40))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(30 * self.second(torch.sin(30 * self.first(x))))
        return y @ self.last + self.bias


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize("scheme", ["matched", "gpt2", "mup", "t5", "bert", "vit"])
@pytest.mark.parametrize("build", [Tied, lambda: Tied(tie=False), Steep])
def test_the_table_the_code_and_the_draw_agree(scheme: str, build: Build) -> None:
    torch.manual_seed(1)
    x = torch.rand(64, 20) * 2 - 1 if build is Steep else torch.randint(70, (16, 4))
    model, raw = build(), build()
    before = copy.deepcopy(model)
    found = ist.initialize_(model, scheme, x)
    pasted: Any = copy.deepcopy(before)
    scope: dict[str, Any] = {}
    exec(found.code, scope)
    scope["initialize"](pasted)
    table: Any = found.table.set_index("name")
    for name, p in model.named_parameters():
        old = before.get_parameter(name)
        assert torch.equal(p, old) == (not table.loc[name, "drawn"]), name
        if table.loc[name, "drawn"]:
            held = (p != 0).double().mean().item() or 1.0  # without the row of padding
            for made in (p, pasted.get_parameter(name)):
                rms = float(made.detach().double().square().mean() / held) ** 0.5
                rel = 5 / math.sqrt(2 * p.numel())
                assert rms == pytest.approx(table.loc[name, "std"] or rms, rel=rel), name
        else:
            assert torch.equal(pasted.get_parameter(name), old)
    ist.assert_initialized(model, scheme, x, fail_on="error")
    ist.assert_initialized(pasted, scheme, x, fail_on="error")
    with pytest.raises(AssertionError, match="is not initialized as it should be"):
        ist.assert_initialized(raw, scheme, x)


def test_matched_gives_a_tied_table_the_scale_of_its_head() -> None:
    model = Tied()
    found = ist.initialize_(model, "matched")
    row: Any = found.table.set_index("name").loc["words.weight"]
    assert (row["kind"], row["role"], row["fan_in"], row["fan_out"]) == (
        "embedding",
        "head",
        30,
        70,
    )
    assert row["std"] == pytest.approx(1 / math.sqrt(30))
    with pytest.raises(AssertionError, match=r"words\.weight"):
        ist.assert_initialized(Tied(), "matched")


def test_weights_that_are_computed_are_named_in_code_that_leaves_them() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
    found = ist.initialize_(nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 8)), "matched")
    table: Any = found.table.set_index("name")
    name = "0.parametrizations.weight.original1"
    assert table.loc[name, "drawn"] == "as the weight needs that is computed of it"
    assert f"    # {name} stays: the model computes a weight of it" in found.code.splitlines()


@pytest.mark.parametrize("scheme", ["gpt2", "matched"])
def test_code_of_a_lazy_model_says_that_it_must_run_first(scheme: str) -> None:
    models = [nn.Sequential(nn.LazyLinear(9), nn.ReLU(), nn.LazyLinear(4)) for _ in range(2)]
    found = ist.initialize_(models[0], scheme, torch.randn(3, 5))
    assert "# the model is lazy: it has parameters after it has run once" in found.code
    models[1](torch.randn(3, 5))
    scope: dict[str, Any] = {}
    exec(found.code, scope)
    scope["initialize"](models[1])
    assert "lazy" not in ist.prescribe(models[1], scheme).code
