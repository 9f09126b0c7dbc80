"""Models that train well, from which nothing but notes may come: a check-up must not cry wolf."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initstats import audit, lsuv_, reinitialize_
from initstats.diagnosis import diagnose
from initstats.probe import Probe, measure

pytestmark = pytest.mark.filterwarnings("default")  # other people's
SEEDS = range(5 if os.environ.get("INITSTATS_ALL_SEEDS") else 1)
Built = tuple[nn.Module, Any]
SOUND: dict[str, Callable[[], Built]] = {}


def sound(build: Callable[[], Built]) -> Callable[[], Built]:
    SOUND[build.__name__] = build
    return build


def images(samples: int = 16, channels: int = 3, size: int = 12) -> Tensor:
    return torch.randn(samples, channels, size, size)


def tokens(samples: int = 8, length: int = 16, vocabulary: int = 100) -> Tensor:
    return torch.randint(1, vocabulary, (samples, length))


def chain(*parts: nn.Module | Sequence[nn.Module]) -> nn.Sequential:
    modules = [m for part in parts for m in ([part] if isinstance(part, nn.Module) else part)]
    return nn.Sequential(*modules)


def drawn(model: nn.Module) -> nn.Module:
    """He's initialization of every linear map, and biases at zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


class Residual(nn.Module):
    """A shortcut beside a branch, with what comes before and after."""

    def __init__(self, branch: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.after = branch, after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(x + self.branch(x))
        return out


# plain stacks after one repair


def dense(act: type[nn.Module], depth: int = 6) -> nn.Sequential:
    layers = [m for _ in range(depth) for m in (nn.Linear(64, 64), act())]
    return chain(layers, nn.Linear(64, 10))


@sound
def dense_relu_lsuv() -> Built:
    model, x = dense(nn.ReLU), torch.randn(128, 64)
    lsuv_(model, x)
    return model, x


@sound
def dense_tanh_matched() -> Built:
    model, x = dense(nn.Tanh), torch.randn(128, 64)
    reinitialize_(model, "matched", x)
    return model, x


@sound
def dense_gelu_matched() -> Built:
    model, x = dense(nn.GELU), torch.randn(128, 64)
    reinitialize_(model, "matched", x)
    return model, x


@sound
def dense_tanh_xavier() -> Built:
    model, x = dense(nn.Tanh, 10), torch.randn(128, 64)
    reinitialize_(model, "xavier_uniform", x)
    return model, x


@sound
def dense_relu6_kaiming() -> Built:
    model = drawn(dense(nn.ReLU6, 4))
    return model, torch.randn(128, 64)


@sound
def dense_selu_lecun() -> Built:
    model, x = dense(nn.SELU, 10), torch.randn(128, 64)
    reinitialize_(model, "lecun_normal", x)
    return model, x


@sound
def dense_orthogonal_uneven() -> Built:
    """A policy's network: wide layers, orthogonal, with a small head."""
    model = chain(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    for layer, gain in zip([*model][::2], (math.sqrt(2), math.sqrt(2), 0.01), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return model, torch.randn(64, 8)


@sound
def convolutions_lsuv() -> Built:
    widths = (3, 8, 16, 16, 16)
    layers = [m for i, o in pairwise(widths) for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
    model, x = chain(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)), images()
    lsuv_(model, x)
    return model, x


@sound
def convolutions_pooled_matched() -> Built:
    block = [nn.Conv2d(3, 16, 3), nn.LeakyReLU(0.2), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3)]
    model = chain(block, nn.ReLU(), nn.Flatten(), nn.Dropout(0.0), nn.Linear(288, 10))
    x = images()
    reinitialize_(model, "matched", x)
    return model, x


@sound
def torch_defaults_uneven() -> Built:
    """Two layers as torch makes them, narrow and wide."""
    return chain(nn.Linear(128, 384), nn.ReLU(), nn.Linear(384, 20)), torch.randn(64, 128)


@sound
def autoencoder() -> Built:
    down, up = nn.Conv2d(8, 16, 3, 2, 1), nn.ConvTranspose2d(16, 8, 4, 2, 1)
    model = chain(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), down, nn.ReLU(), up, nn.ReLU())
    model.append(nn.Conv2d(8, 3, 3, padding=1))
    x = images()
    lsuv_(model, x)
    return model, x


# normalization everywhere


def normalized(norm: Callable[[int], nn.Module], depth: int = 8) -> Built:
    layers = [m for _ in range(depth) for m in (nn.Linear(64, 64), norm(64), nn.ReLU())]
    return chain(layers, nn.Linear(64, 10)), torch.randn(128, 64)


@sound
def dense_layer_norm() -> Built:
    return normalized(nn.LayerNorm)


@sound
def dense_batch_norm() -> Built:
    return normalized(nn.BatchNorm1d)


@sound
def dense_rms_norm() -> Built:
    return normalized(nn.RMSNorm)


@sound
def convolutions_group_norm() -> Built:
    layers: list[nn.Module] = []
    for i, o in ((3, 16), (16, 32), (32, 32), (32, 16)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.SiLU()]
    return chain(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)), images()


@sound
def mobile_net() -> Built:
    """Depthwise and pointwise convolutions by fan_out, each normalized, with relu6."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)]
    for _ in range(3):
        deep = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        layers += [deep, nn.BatchNorm2d(16), nn.ReLU6()]
        layers += [nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    model = chain(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return model, images()


class WrittenOut(nn.Module):
    """A block whose weights and values are normalized by hand, and whose samples may skip it."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(2 * size, size)), nn.Linear(size, size)
        self.score = nn.Linear(size, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        w = self.weight - self.weight.mean(1, keepdim=True)
        gate, value = F.linear(h, w / (w.norm(dim=1, keepdim=True) + 1e-6)).chunk(2, -1)
        h = F.normalize(F.silu(gate) * value, dim=-1) * 32**0.5
        pooled = (self.score(h).softmax(1) * h).sum(1, keepdim=True)
        kept = x.new_empty(len(x), 1, 1).bernoulli_(0.8).div_(0.8)
        out: Tensor = x + self.out(h + pooled) * kept
        return out


@sound
def normalized_by_hand() -> Built:
    return chain([WrittenOut() for _ in range(4)], nn.LayerNorm(32)), torch.randn(16, 9, 32)


# residual networks, also those whose branches start at zero


def convolved(norms: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    first = [nn.Conv2d(16, 16, 3, padding=1, bias=False), norms(16), nn.ReLU()]
    return chain(first, nn.Conv2d(16, 16, 3, padding=1, bias=False), norms(16))


def residual_net(block: Callable[[], nn.Module], blocks: int = 4) -> nn.Sequential:
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    body = [block() for _ in range(blocks)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return chain(stem, body, head)


@sound
def residual_post_activation() -> Built:
    return drawn(residual_net(lambda: Residual(convolved(), nn.ReLU()))), images()


@sound
def residual_pre_activation() -> Built:
    def block() -> nn.Module:
        parts = [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False)]
        return Residual(chain(parts, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1)))

    return residual_net(block, 6), images()


@sound
def residual_zero_gamma() -> Built:
    def block() -> nn.Module:
        branch = convolved()
        nn.init.zeros_(branch[-1].weight)  # type: ignore[arg-type]
        return Residual(branch, nn.ReLU())

    return drawn(residual_net(block)), images()


class ReZero(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.alpha = branch, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.alpha * self.branch(x)
        return out


@sound
def residual_rezero() -> Built:
    blocks = [ReZero(chain(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))) for _ in range(8)]
    return drawn(chain(blocks, nn.Linear(32, 10))), torch.randn(64, 32)


@sound
def residual_scaled_branches() -> Built:
    blocks = [Residual(chain(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))) for _ in range(8)]
    model = chain([drawn(block) for block in blocks], nn.Linear(32, 10))
    with torch.no_grad():
        for block in blocks:
            block.get_parameter("branch.2.weight").mul_(8**-0.5)
    return model, torch.randn(64, 32)


@sound
def residual_zero_last_layer() -> Built:
    """Fixup: the last layer of each branch and the head start at zero."""
    blocks = [Residual(chain(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))) for _ in range(5)]
    model = drawn(chain(blocks, nn.Linear(32, 10)))
    for layer in [block.branch[2] for block in blocks] + [model[-1]]:  # type: ignore[index]
        nn.init.zeros_(layer.weight)
    return model, torch.randn(64, 32)


class Lora(nn.Module):
    def __init__(self, size: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(size, size).requires_grad_(False)
        self.a, self.b = nn.Linear(size, rank, bias=False), nn.Linear(rank, size, bias=False)
        nn.init.kaiming_normal_(self.base.weight)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + 2.0 * self.b(self.a(x))
        return out


@sound
def lora() -> Built:
    return chain([m for _ in range(4) for m in (Lora(48), nn.ReLU())], Lora(48)), torch.randn(
        64, 48
    )


class LayerScale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(size, size, 7, padding=3, groups=size)
        self.norm = nn.LayerNorm(size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.scale = nn.Parameter(1e-6 * torch.ones(size))
        for layer in (self.deep, self.wide, self.narrow):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.deep(x).permute(0, 2, 3, 1))
        h = self.scale * self.narrow(F.gelu(self.wide(h)))
        out: Tensor = x + h.permute(0, 3, 1, 2)
        return out


@sound
def conv_next() -> Built:
    stem = [nn.Conv2d(3, 16, 2, 2), nn.GroupNorm(1, 16)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 10)]
    return chain(stem, [LayerScale(16) for _ in range(3)], head), images()


# diffusion


class Noised(nn.Module):
    """A block of a diffusion network: conditioned on time, its last convolution at zero."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(size, size, 3, 1, 1), nn.Conv2d(size, size, 3, 1, 1)
        self.norm1, self.norm2 = nn.GroupNorm(4, size), nn.GroupNorm(4, size)
        self.time = nn.Linear(32, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.first(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        out: Tensor = x + self.last(F.silu(self.norm2(h)))
        return out


class Diffusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 3, 3, 1, 1)
        self.blocks = nn.ModuleList(Noised(16) for _ in range(3))
        self.time, self.norm = nn.Linear(16, 32), nn.GroupNorm(4, 16)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-torch.arange(8) * math.log(10000) / 8)
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, time)
        out: Tensor = self.leave(F.silu(self.norm(h)))
        return out


@sound
def diffusion() -> Built:
    return Diffusion(), (images(), 1000 * torch.rand(16))


class Modulated(nn.Module):
    """A block of a diffusion transformer: the gates of its branches start at zero."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.mlp = chain(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.norms = nn.ModuleList(nn.LayerNorm(size, elementwise_affine=False) for _ in "12")
        self.modulation = nn.Linear(size, 6 * size)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        s1, k1, g1, s2, k2, g2 = self.modulation(F.silu(c))[:, None].chunk(6, dim=-1)
        h = self.norms[0](x) * (1 + k1) + s1
        x = x + g1 * self.attention(h, h, h)[0]
        out: Tensor = x + g2 * self.mlp(self.norms[1](x) * (1 + k2) + s2)
        return out


class Conditioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Modulated(32) for _ in range(2))
        self.leave = nn.Linear(32, 32)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, c)
        out: Tensor = self.leave(F.layer_norm(x, (32,)))
        return out


@sound
def diffusion_transformer() -> Built:
    return Conditioned(), (torch.randn(16, 9, 32), torch.randn(16, 32))


# sequences


@sound
def encoder_post_norm() -> Built:
    layers = [nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True) for _ in range(3)]
    return chain(layers), torch.randn(8, 12, 32)


@sound
def encoder_pre_norm() -> Built:
    def layer() -> nn.Module:
        return nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, norm_first=True)

    return chain([layer() for _ in range(4)], nn.LayerNorm(32)), torch.randn(8, 12, 32)


class Language(nn.Module):
    """Padded sentences, a tied head, and a recurrent layer between."""

    def __init__(self, cell: Callable[..., nn.Module], size: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, size, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.body = cell(size, size, num_layers=2, batch_first=True)
        self.head = nn.Linear(size, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(self.embedding(ids) * 32**0.5)[0])
        return out


def padded() -> Tensor:
    ids = tokens(16, 12)
    for row, length in enumerate(torch.randint(3, 12, (16,)).tolist()):
        ids[row, length:] = 0
    return ids


@sound
def language_lstm() -> Built:
    return Language(nn.LSTM), padded()


@sound
def language_gru() -> Built:
    return Language(nn.GRU), padded()


class Bag(nn.Module):
    """The mean of the words of a sentence, padding left out, read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32, padding_idx=0)
        self.hidden, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, ids: Tensor) -> Tensor:
        valid = (ids > 0)[:, :, None].float()
        mean = (self.embedding(ids) * valid).sum(1) / valid.sum(1).sqrt()
        out: Tensor = self.head(torch.relu(self.hidden(mean)))
        return out


@sound
def bag_of_words() -> Built:
    return Bag(), padded()


class Mixer(nn.Module):
    def __init__(self, positions: int, size: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in "12")
        self.across = chain(nn.Linear(positions, 32), nn.GELU(), nn.Linear(32, positions))
        self.within = chain(nn.Linear(size, 64), nn.GELU(), nn.Linear(64, size))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norms[0](x).mT).mT
        out: Tensor = x + self.within(self.norms[1](x))
        return out


@sound
def mixer() -> Built:
    return chain([Mixer(9, 32) for _ in range(4)], nn.LayerNorm(32)), torch.randn(16, 9, 32)


class Experts(nn.Module):
    """Each token goes to the expert of its largest score; the chosen biases start at zero."""

    def __init__(self, size: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(size, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, size, 2 * size) / size**0.5)
        self.down = nn.Parameter(torch.randn(experts, 2 * size, size) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(experts, size))
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        weight, chosen = self.router(h).softmax(-1).max(-1)
        every = torch.einsum("bi,eih->ebh", h, self.up)
        every = torch.bmm(torch.relu(every), self.down)
        picked = every[chosen, torch.arange(len(x))] + self.bias[chosen]
        out: Tensor = x + weight[:, None] * picked
        return out


@sound
def mixture_of_experts() -> Built:
    return chain([Experts() for _ in range(3)], nn.LayerNorm(32)), torch.randn(64, 32)


class Masked(nn.Module):
    """Attention written out, with a mask that is added and one that is filled in."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(size, size) for _ in range(4))
        self.norm, self.size = nn.LayerNorm(size), size

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x)
        scores = self.q(h) @ self.k(h).mT / self.size**0.5
        scores = scores + (1.0 - mask[:, None]) * torch.finfo(x.dtype).min
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        probabilities = scores.masked_fill(later, -math.inf).softmax(-1)
        out: Tensor = x + self.out(probabilities @ self.v(h))
        return out


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32, padding_idx=0)
        self.layers = nn.ModuleList(Masked() for _ in range(3))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x: Tensor = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x


@sound
def masked_attention() -> Built:
    ids = tokens(16, 12)
    ids[:, 8:] = 0
    return Reader(), (ids, (ids > 0).float())


# values that are steps, and values beside parameters


class Spike(torch.autograd.Function):
    """1 where the potential is above the threshold, with the slope of a smooth function."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        shaped: Tensor = gradient / (1 + 10 * v.abs()) ** 2
        return shaped


class Spiking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(drawn(nn.Linear(32, 32)) for _ in range(2))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        charges, out = [torch.zeros_like(x)] * 2, torch.zeros(len(x), 4)
        for _ in range(4):
            spikes = x
            for number, layer in enumerate(self.layers):
                charge = 0.9 * charges[number] + layer(spikes)
                spikes = Spike.apply(charge - 1)  # type: ignore[no-untyped-call]
                charges[number] = charge - spikes.detach()
            out = out + self.head(spikes)
        return out / 4


@sound
def spiking() -> Built:
    return Spiking(), torch.randn(64, 32)


@sound
def binary() -> Built:
    """Hardtanh of normalized values has a third of its entries at a bound, and learns."""
    model = chain(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Hardtanh(), nn.Linear(64, 4))
    return model, torch.randn(64, 32)


class Policy(nn.Module):
    """A distribution of actions, whose spread is a parameter that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = drawn(chain(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2)))
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.distributions.Normal(self.mean(x), self.log_std.exp()).rsample()
        return out


@sound
def policy() -> Built:
    return Policy(), torch.randn(64, 8)


class RelativeScores(Masked):
    """Attention to positions by maps of small embeddings, beside a score that is no position's."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.01 * torch.randn(12, 32))
        nn.init.normal_(self.k.weight, std=0.01)
        nn.init.zeros_(self.k.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x)
        q, v = self.q(h), self.v(h)
        scores = q @ h.mT / self.size**0.5 + q @ self.k(self.positions).mT / self.size**0.5
        size = x.shape[1]
        scores = scores + torch.full((size, size), torch.finfo(x.dtype).min).triu(1)
        scores = torch.cat([scores, torch.zeros_like(scores[..., :1])], -1)
        shares = (scores - scores.amax(-1, keepdim=True)).softmax(-1)[..., :-1]
        out: Tensor = x + self.out(shares @ v)
        return out


@sound
def relative_attention() -> Built:
    ids = tokens(16, 12)
    ids[:, 8:] = 0
    reader = Reader()
    reader.layers = nn.ModuleList(RelativeScores() for _ in range(2))
    return reader, (ids, (ids > 0).float())


class DividedScores(Masked):
    """Scores that are divided by the size of a head, so that one learning rate fits all widths."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x)
        shares = (self.q(h) @ self.k(h).mT / self.size).softmax(-1)
        out: Tensor = x + self.out(shares @ (self.v(h) * mask[..., None]))
        return out


@sound
def scores_divided_by_the_size() -> Built:
    layers = [DividedScores(128) for _ in range(2)]
    for layer in layers:
        for module in (layer.q, layer.k, layer.v, layer.out):
            nn.init.normal_(module.weight, std=0.02)
    reader = Reader()
    reader.embedding = nn.Embedding(100, 128)
    reader.layers = nn.ModuleList(layers)
    return reader, (tokens(2, 256), torch.ones(2, 256))


@sound
def small_head_after_lsuv() -> Built:
    """A head that was scaled up for what it reads is not drawn by its fan-out."""
    model = chain(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 5))
    with torch.no_grad():
        x = torch.randn(64, 16)
        for layer in [*model][:3:2]:
            nn.init.normal_(layer.weight, std=0.5 / layer.in_features**0.5)
    lsuv_(model[4], model[:4](x), orthogonal=False)
    return model, x


# models of transformers, from their configuration


def configured(name: str, model: str, **settings: Any) -> nn.Module:
    transformers: Any = import_module("transformers")  # a type checker would read all of it
    config = getattr(transformers, f"{name}Config")(**settings)
    built: nn.Module = getattr(transformers, model)(config).eval()
    return built


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@sound
def gpt2() -> Built:
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 100, "n_positions": 32}
    model = configured("GPT2", "GPT2LMHeadModel", bos_token_id=0, eos_token_id=0, **sizes)
    return model, {"input_ids": tokens()}


@sound
def bert() -> Built:
    model = configured("Bert", "BertModel", vocab_size=100, attn_implementation="eager", **SMALL)
    ids = padded()
    return model, {"input_ids": ids, "attention_mask": (ids > 0).long()}


@sound
def vit() -> Built:
    model = configured("ViT", "ViTModel", image_size=16, patch_size=4, **SMALL)
    return model, {"pixel_values": images(16, 3, 16)}


@sound
def t5() -> Built:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    model = configured(
        "T5", "T5ForConditionalGeneration", vocab_size=100, decoder_start_token_id=0, **sizes
    )
    return model, {"input_ids": tokens(), "decoder_input_ids": tokens(8, 7)}


@sound
def llama() -> Built:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    model = configured(
        "Llama", "LlamaForCausalLM", vocab_size=100, num_key_value_heads=1, **ends, **SMALL
    )
    return model, {"input_ids": tokens()}


# after some steps of training


def trained(model: nn.Module, x: Any, steps: int = 30) -> Built:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    y = torch.arange(len(x)) % 10
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model, x


@sound
def dense_trained() -> Built:
    return trained(*dense_relu_lsuv())


@sound
def residual_trained() -> Built:
    return trained(*residual_zero_gamma(), steps=5)


@sound
def defaults_trained() -> Built:
    return trained(*torch_defaults_uneven())


@sound
def gaussian_watched() -> Built:
    """A network of fixed std 0.02, as language models have, with norms before its layers."""
    model = chain(
        [Residual(chain(nn.LayerNorm(64), nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)))
         for _ in range(3)],
        nn.Linear(64, 10),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return model, torch.randn(64, 64)


CASES = [(name, seed) for name in SOUND for seed in SEEDS]


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize(("name", "seed"), CASES)
def test_nothing_above_a_note(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = SOUND[name]()
    for found in (diagnose(measure(model, x, backward=True)), audit(model).findings):
        grave = found[found["severity"] <= "warning"]
        assert grave.empty, str(grave)


def test_nothing_above_a_note_without_gradients() -> None:
    """What the gradient would have excused is not accused where there is none."""
    for name in ("residual_zero_gamma", "lora", "diffusion", "diffusion_transformer"):
        torch.manual_seed(0)
        model, x = SOUND[name]()
        found = diagnose(measure(model, x))
        assert found[found["severity"] <= "warning"].empty, f"{name}: {found}"


def watched(model: nn.Module, x: Any, steps: int) -> Iterator[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        yield model(x)
        optimizer.step()


@pytest.mark.parametrize("name", ["dense_tanh_xavier", "residual_zero_gamma", "dense_layer_norm"])
def test_nothing_above_a_note_while_it_trains(name: str) -> None:
    torch.manual_seed(0)
    model, x = SOUND[name]()
    with Probe(model, backward=True) as probe:
        for y in watched(model, x, 6):
            F.cross_entropy(y, torch.arange(len(y)) % 10).backward()  # type: ignore[no-untyped-call]
    found = diagnose(probe.table())
    assert found[found["severity"] <= "warning"].empty, str(found)


def test_enough_models() -> None:
    assert len(SOUND) >= 30
