"""Twenty models that are initialized as published, to plant faults in.

Weights have at least 1500 entries, so that chance hides no factor of 1.1 in them, and blocks come
in fours, so that one that is out of line has three to differ from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor, nn

import initstats as ist

BLOCKS, WIDTH, WORDS = 4, 48, 150
Build = Callable[[], Any]


class Made(NamedTuple):
    """A model.

    Attributes:
        build: draws it anew.
        scheme: the published one that it keeps; empty where it keeps none by name.
        x: an input.
        blocks: name of the list of its blocks; empty where it has none.
        scaled: ends of names of weights whose scale goes with the depth.
        factor: what the scale of these is divided by.
        cuts: whether the scheme allows for a law that is cut at two standard deviations.
    """

    build: Build
    scheme: str = ""
    x: Callable[[], Any] | None = None
    blocks: str = ""
    scaled: tuple[str, ...] = ()
    factor: float = 1.0
    cuts: bool = False


def chain(sizes: tuple[int, ...], act: Build, draw: Callable[[Tensor], object]) -> nn.Module:
    """A plain stack of linear maps."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), act()]
        draw(layers[-2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


def convolutions(draw: Callable[[Tensor], object] | None) -> nn.Module:
    """A plain stack of convolutions; as torch draws them where nothing else is said."""
    layers: list[nn.Module] = []
    for inputs, outputs, size in ((3, 24, 5), (24, 40, 3), (40, 64, 3), (64, 96, 1), (96, 40, 3)):
        layers += [nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 20))
    for module in model.modules():
        if draw and isinstance(module, nn.Conv2d | nn.Linear):
            draw(module.weight)
    return model


class Branch(nn.Module):
    """A residual block of two linear maps."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH) if norm else nn.Identity()
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())  # type: ignore[no-any-return]


class Stack(nn.Module):
    """Blocks between a linear stem and a head."""

    def __init__(self, block: Build, inputs: int = 64) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, 40)
        self.blocks = nn.ModuleList(block() for _ in range(BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A layer of a transformer: its norms before its branches or behind them, its map gated."""

    def __init__(self, post: bool, gated: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.w1, self.w2 = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)
        self.w3 = nn.Linear(WIDTH, 3 * WIDTH) if gated else None
        self.n1, self.n2, self.post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), post

    def attend(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).mT / WIDTH**0.5
        return self.o(scores.softmax(-1) @ self.v(x))  # type: ignore[no-any-return]

    def feed(self, x: Tensor) -> Tensor:
        hidden = nn.functional.silu(self.w1(x))
        return self.w2(hidden if self.w3 is None else hidden * self.w3(x))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.n1(x + self.attend(x))
            return self.n2(x + self.feed(x))  # type: ignore[no-any-return]
        x = x + self.attend(self.n1(x))
        return x + self.feed(self.n2(x))


class Language(nn.Module):
    """A transformer between embeddings and a head."""

    def __init__(self, post: bool = False, gated: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(32, WIDTH)
        self.layers = nn.ModuleList(Layer(post, gated) for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A residual block of convolutions, with norms or without."""

    def __init__(self, inputs: int, width: int, stride: int, norm: bool, deep: bool) -> None:
        super().__init__()
        sizes = [(inputs, width, 1), (width, width, 3), (width, width, 1)]
        sizes = sizes if deep else [(inputs, width, 3), (width, width, 3)]
        self.steps = nn.ModuleList(
            nn.Conv2d(i, o, k, stride if not n else 1, k // 2, bias=not norm)
            for n, (i, o, k) in enumerate(sizes)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(o) if norm else nn.Identity() for _, o, _ in sizes
        )
        same = inputs == width and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number, (step, norm) in enumerate(zip(self.steps, self.norms, strict=True)):
            y = norm(step(y.relu() if number else y))
        return torch.relu(y + self.short(x))


class ResNet(nn.Module):
    """A stem, residual blocks of two widths, and a head."""

    def __init__(self, norm: bool = True, deep: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 5, padding=2, bias=False)
        widths = [40] * (BLOCKS + 1) + [64] * BLOCKS
        self.blocks = nn.Sequential(
            *(Residual(i, o, 1 + (i != o), norm, deep) for i, o in pairwise(widths))
        )
        self.head = nn.Linear(64, 30)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))  # type: ignore[no-any-return]


class Mixing(nn.Module):
    """A block of a convolution within channels, and two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(64, 64, 5, padding=2, groups=64)
        self.norm = nn.GroupNorm(1, 64)
        self.up, self.down = nn.Conv2d(64, 128, 1), nn.Conv2d(128, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(self.deep(x)))))  # type: ignore[no-any-return]


class Patches(nn.Module):
    """Blocks behind a convolution of patches."""

    def __init__(self, block: Build, width: int, *, flat: bool) -> None:
        super().__init__()
        self.stem, self.flat = nn.Conv2d(3, width, 4, 4), flat
        self.blocks = nn.ModuleList(block() for _ in range(BLOCKS))
        self.head = nn.Linear(width, 30)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.flatten(2).mT if self.flat else x
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1) if self.flat else x.mean((2, 3)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """torch's own, drawn as the tutorial has it: Xavier for every matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 3 * WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, BLOCKS, enable_nested_tensor=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.words(ids)))  # type: ignore[no-any-return]


def by_scheme(model: nn.Module, scheme: str, x: Any) -> nn.Module:
    """A model initialized by a scheme, by the random state of torch."""
    ist.initialize_(model, scheme, x, seed=int(torch.randint(2**31, ())))
    return model


def cut(model: nn.Module) -> nn.Module:
    """A model whose weights are cut at two standard deviations, and made up for."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            std = 0.02 / 0.8796256610342398  # what a cut at 2 leaves of a normal law's std
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return model


def xavier(model: nn.Module) -> nn.Module:
    """A model of which every matrix is drawn by Xavier's uniform law."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def tokens() -> Tensor:
    return torch.arange(32).reshape(4, 8) * 4


def images() -> Tensor:
    return torch.linspace(-2, 2, 4 * 3 * 16 * 16).sin().reshape(4, 3, 16, 16)


def vectors() -> Tensor:
    return torch.linspace(-90, 90, 16 * 64).sin().reshape(16, 64)


SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "intermediate_size": 3 * WIDTH,
}


def _ids() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def _gpt2() -> Any:
    sizes = {"n_layer": BLOCKS, "n_embd": WIDTH, "n_head": 4, "n_positions": 32}
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=WORDS, bos_token_id=0, eos_token_id=0, **sizes)
    ).eval()


def _t5() -> Any:
    sizes = {"num_layers": BLOCKS, "d_model": WIDTH, "d_kv": 12, "num_heads": 4, "d_ff": 96}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=WORDS, **sizes)).eval()


def _llama() -> Any:
    config = hf.LlamaConfig(num_key_value_heads=4, vocab_size=WORDS, **SIZES)
    return hf.LlamaForCausalLM(config).eval()


def _vit() -> Any:
    return hf.ViTForImageClassification(hf.ViTConfig(image_size=16, patch_size=4, **SIZES)).eval()


HE = (784, 300, 120, 500, 60, 40)
BRANCHES = 2 * BLOCKS
MODELS: dict[str, Made] = {
    "relu": Made(lambda: chain(HE, nn.ReLU, lambda w: nn.init.kaiming_normal_(w))),
    "tanh": Made(lambda: chain(HE, nn.Tanh, lambda w: nn.init.xavier_uniform_(w))),
    "convolutions": Made(lambda: convolutions(lambda w: nn.init.kaiming_normal_(w))),
    "torch's own": Made(lambda: convolutions(None)),
    "residual": Made(lambda: xavier(Stack(Branch)), blocks="blocks"),
    "mup": Made(
        lambda: by_scheme(Stack(Branch), "mup", vectors()), "mup", vectors, blocks="blocks"
    ),
    "resnet": Made(
        lambda: by_scheme(ResNet(), "resnet", images()), "resnet", images, blocks="blocks"
    ),
    "bottlenecks": Made(
        lambda: by_scheme(ResNet(deep=True), "resnet", images()), "resnet", images, "blocks"
    ),
    "fixup": Made(
        lambda: by_scheme(ResNet(norm=False), "fixup", images()),
        "fixup",
        images,
        "blocks",
        ("steps.0.weight",),
        math.sqrt(BRANCHES),
    ),
    "own gpt2": Made(
        lambda: by_scheme(Language(), "gpt2", tokens()),
        "gpt2",
        tokens,
        "layers",
        ("o.weight", "w2.weight"),
        math.sqrt(BRANCHES),
    ),
    "own bert": Made(
        lambda: by_scheme(Language(post=True), "bert", tokens()),
        "bert",
        tokens,
        "layers",
        cuts=True,
    ),
    "deepnorm": Made(
        lambda: by_scheme(Language(post=True), "deepnorm", tokens()),
        "deepnorm",
        tokens,
        "layers",
        ("v.weight", "o.weight", "w1.weight", "w2.weight"),
        (8 * BLOCKS) ** 0.25,
    ),
    "own llama": Made(
        lambda: by_scheme(Language(gated=True), "llama", tokens()), "llama", tokens, "layers"
    ),
    "own vit": Made(
        lambda: by_scheme(
            Patches(lambda: Layer(False, False), WIDTH, flat=True), "vit_timm", images()
        ),
        "vit_timm",
        images,
        "blocks",
    ),
    "convnext": Made(lambda: cut(Patches(Mixing, 64, flat=False)), "", images, "blocks"),
    "encoder": Made(Encoder, "", tokens, "encoder.layers"),
    "gpt2": Made(_gpt2, "gpt2", _ids, "transformer.h", ("c_proj.weight",), math.sqrt(BRANCHES)),
    "bert": Made(
        lambda: hf.BertForMaskedLM(hf.BertConfig(vocab_size=WORDS, **SIZES)).eval(),
        "bert",
        _ids,
        "bert.encoder.layer",
        cuts=True,
    ),
    "vit": Made(_vit, "vit_transformers", images, "vit.layers", cuts=True),
    "t5": Made(_t5, "t5", lambda: {**_ids(), "decoder_input_ids": tokens()}, "encoder.block"),
    "llama": Made(_llama, "llama", _ids, "model.layers"),
}
"""All of them by name."""
