"""The claims of the derivation, by the pieces of work that make them again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from initstats import activations, theory
from initstats.survey.verification import inputs
from initstats.survey.verification.closed_forms import closed_forms
from initstats.survey.verification.compared import Sweep
from initstats.survey.verification.found import GAMMA, Found, K, Q, Rated, Reading, Swept
from initstats.survey.verification.growths import batch_stream, free_transformer
from initstats.survey.verification.tokens import participation, tokens_attending

ONE, THREE, HE, MATCHED = "lecun_normal", "mean_field(sigma_w=3)", "kaiming_normal", "matched"
"""Inits of variance 1, 9 and 2 over fan-in; and of 1, or 2 behind relu."""
EIGHT_BLOCKS = 17
"""Layers of a stream of sixteen branches."""
PREACTIVATION: Reading = ("second_moment", "forward", "preactivation")
NOTES = {
    "paths": "theory here divides by the mean q of the stream, and takes no mean over masks",
    "ends in relu": "theory here follows branches that end in a product",
    "v1": "theory here does not follow a sum that an activation reads: it is not Gaussian",
    "scatter": "theory here does not follow how the q of a stream scatters over draws",
    "batch stream": "what was printed names no inputs; ours are not correlated",
    "batch stream theory": "inputs correlated by 0.018 give 64.3 here",
    "batch stream infinite": "inputs correlated by -0.044 give 52.2 here",
    "attention q": "ours: s_a² = 0.25, 1, 4 and 16; at 0 attention is uniform, exactly",
    "drop path gamma": "what was printed names no rate; ours is 0.4",
    "values alone": "what was printed names no scale of the branches; ours is 1/√L",
}
"""Why claims are not made, and what is to be said of some that are."""


class Piece(Protocol):
    """A piece of work, which makes some claims."""

    def __call__(self, *, quick: bool) -> dict[str, Found]:
        """The claims by their keys, with few seeds if it is to be quick."""
        ...


def pieces() -> dict[str, Piece]:
    """All of them, by their names, what takes longest first."""
    return {
        **dict(_transformers()),
        "transformer without norm": free_transformer,
        "attention": tokens_attending,
        "participation of tokens": participation,
        **dict(_streams()),
        "stream with batch norm": batch_stream,
        **dict(_dropping()),
        **{rated.key: rated for rated in _rates()},
        "closed forms": closed_forms,
    }


def _transformers() -> Iterator[tuple[str, Piece]]:
    cool, warm = (("transformer", MATCHED),), (("transformer", HE),)
    post, relu, data = (("transformer(place=post)", MATCHED),), ("relu",), inputs.patches(2)
    deep = Sweep(cool, relu, 97, 64, 12, data)
    yield "48 blocks", Swept(deep, {"deep q": (Q, K), "deep gamma": (GAMMA,)})
    wide = Sweep(cool, relu, EIGHT_BLOCKS, 128, 32, data)
    yield "pre-LN transformer", Swept(wide, {"pre-LN q": (Q, K), "pre-LN gamma": (GAMMA,)})
    for width, seeds in ((64, 40), (128, 16)):
        sweep = Sweep(warm, relu, EIGHT_BLOCKS, width, seeds, data)
        yield f"warm logits, {width} units", Swept(sweep, {f"pre-LN warm {width}": (GAMMA,)})
    sweep = Sweep(post, relu, EIGHT_BLOCKS, 128, 16, data)
    yield "post-LN transformer", Swept(sweep, {"post-LN gamma": (GAMMA,)})


def _streams() -> Iterator[tuple[str, Piece]]:
    data, two = inputs.rows(16), ("relu", "tanh")
    scales = ("one", "inverse_sqrt_depth", "inverse_sqrt_2depth", "inverse_depth")
    plain = tuple((f"resmlp(scale={scale})", MATCHED) for scale in scales)
    sweep = Sweep(plain, ("relu", "tanh", "gelu"), EIGHT_BLOCKS, 64, 24, data)
    reads = {"streams q": (Q,), "streams K": (K,), "streams gamma": (GAMMA,)}
    yield "streams without norm", Swept(sweep, reads)
    pre = tuple(
        (f"resmlp(norm={norm})", init) for norm in ("layer", "rms") for init in (ONE, THREE)
    )
    narrow, wide = (Sweep(pre, two, 21, width, n, data) for width, n in ((32, 30), (128, 12)))
    reads = {"pre-norm q": (Q,), "pre-norm gamma 32": (GAMMA,)}
    yield "pre-norm, 32 units", Swept(narrow, reads)
    yield "pre-norm, 128 units", Swept(wide, {"pre-norm gamma 128": (GAMMA,)})
    post = (("resmlp(norm=layer,place=post)", ONE),)
    for width, seeds in ((32, 60), (128, 20)):
        sweep = Sweep(post, two, 21, width, seeds, data)
        yield f"post-norm, {width} units", Swept(sweep, {f"post-norm {width}": (GAMMA,)})
    # N(2.5 x + 0.28 f) = N(x + 0.112 f)
    strong = (("resmlp(norm=layer,place=post,scale=0.112)", MATCHED),)
    sweep = Sweep(strong, two, 21, 128, 24, data)
    yield "post-norm, strong skip", Swept(sweep, {"strong skip": (GAMMA,)})


def _dropping() -> Iterator[tuple[str, Piece]]:
    """Dropout with the gain that keeps q, and stochastic depth."""
    data, relu = inputs.rows(16), ("relu",)
    for rate in (0.1, 0.5):
        kept = f"kaiming_normal(gain={(2 * (1 - rate)) ** 0.5})"
        sweep = Sweep(((f"mlp(dropout={rate})", kept),), relu, 12, 64, 60, data)
        yield f"dropout {rate}", Swept(sweep, {f"dropout {rate}": (PREACTIVATION,)})
    sweep = Sweep((("resmlp(norm=layer,drop_path=0.4)", MATCHED),), relu, 21, 128, 30, data)
    reads = {"drop path q": (Q,), "drop path gamma": (GAMMA,)}
    yield "stochastic depth", Swept(sweep, reads, worst=("drop path gamma",))


def _rates() -> Iterator[Rated]:
    """Plain networks with norms, and with standardized weights."""
    relu = activations.get("relu")
    before, after = (
        theory.gradient_rate(relu, "layer", "pre"),
        theory.gradient_rate(relu, "layer", "after"),
    )
    of_weights, own = theory.standardized_rate(relu), "matched(gain=variance)"
    yield Rated("rate LN before 128", "mlp(norm=layer)", "relu", 128, 30, before)
    for width, seeds in ((32, 60), (128, 30)):
        layer = "mlp(norm=layer,place=after)"
        yield Rated(f"rate LN after {width}", layer, "relu", width, seeds, after)
        key = f"rate standardized {width}"
        yield Rated(key, "mlp(standardized=true)", "relu", width, seeds, of_weights, own)
    for width, seeds in ((32, 50), (128, 25), (256, 15)):
        yield _batch_rate(f"rate relu {width}", "relu", 16, width, seeds)
    for name, batch in (("tanh", 16), ("tanh", 32), ("gelu", 16)):
        yield _batch_rate(f"rate {name} {batch}", name, batch, 256, 15)


def _batch_rate(key: str, name: str, batch: int, width: int, seeds: int) -> Rated:
    rate = theory.batch_norm_rate(activations.get(name), batch)
    return Rated(key, f"mlp(norm=batch,batch={batch})", name, width, seeds, rate)
