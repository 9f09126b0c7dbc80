"""What theory says of streams, norms and attention, against many draws of the engine's networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

import initstats as ist
from initstats.draws import generator_for
from initstats.moments.notes import NOTES
from initstats.networks import Block, Dense, Expectation, Leaf, Run, Serial, Signal
from initstats.prediction.excess import excess
from initstats.prediction.fields import Fields
from initstats.prediction.planes import Planes
from initstats.stack import Settings, run_stack
from initstats.theory.state import Activated, Cotangent, State

PLACE = ["network", "layer", "tensor", "direction"]
WIDTH, DEPTH, SEEDS = 64, 6, 60


def compared(
    data: ist.Dataset,
    name: Any,
    phi: str,
    init: str = "lecun_normal",
    *,
    width: int = WIDTH,
    depth: int = DEPTH,
    seeds: int = SEEDS,
) -> pd.DataFrame:
    """Measured means over draws, their standard errors, and what was predicted, place by place."""
    grid = ist.Grid(
        networks=[name],
        inits=[init],
        activations=[phi],
        widths=[width],
        depth=depth,
        seeds=seeds,
        backward=True,
    )
    table, predicted = ist.run_sweep(grid, data), ist.predict(grid, data)
    names = ["second_moment", "sample_correlation", "branch_share", "pair_correlation"]
    names += ["participation_ratio", "attention_entropy", "concentration"]
    names = [name for name in names if name in table]
    groups = table.groupby(PLACE, observed=True)[names]
    errors = groups.sem().add_suffix("_error")
    told = predicted.set_index(PLACE)[[*names, "claim", "note"]].add_prefix("told_")
    return groups.mean().join(errors).join(told).reset_index()


EXACT = ["resmlp(norm=layer)", "resmlp(norm=rms,scale=inverse_sqrt_depth)", "resmlp(norm=group)"]
OTHERS = {
    "resmlp": 0.0,
    "resmlp(scale=inverse_sqrt_depth)": 0.0,
    "resmlp(norm=layer,branch=1)": 1.2,
    "resmlp(norm=layer,place=post)": 1.8,
    "resmlp(norm=layer,place=post,scale=deepnorm)": 0.3,
    "resmlp(scale=fixup)": 0.0,
    "resmlp(norm=predicted,branch=1)": 0.9,
    "mlp(norm=layer)": 1.3,
    "mlp(norm=rms)": 2.8,
    "mlp(norm=layer,place=after)": 2.5,
    "mlp(standardized=true)": 2.8,
    "mlp(norm=batch,batch=16)": 1.2,
    "resmlp(norm=batch,batch=16)": 0.5,
    "mlp(dropout=0.2)": 0.1,
    "resmlp(norm=layer,dropout=0.2)": 0.5,
    "resmlp(drop_path=0.3)": 0.3,
    "transformer(patch=2,heads=2,hidden=1)": 0.5,
    "transformer(patch=4,place=post,hidden=1)": 1.1,
    "transformer(patch=4,causal=true,hidden=1)": 0.5,
    "transformer(norm=none,patch=4,scale=inverse_sqrt_depth,hidden=1)": 0.5,
    "transformer(patch=4,logits=inverse,hidden=1)": 0.5,
    "transformer(patch=4,positions=normal,hidden=1)": 0.5,
    "transformer(patch=4,norm=batch,batch=16,hidden=1)": 0.5,
    "transformer(patch=4,norm=batch,batch=16,hidden=1,place=post)": 1.1,
    "transformer(patch=4,norm=batch,batch=16,hidden=1,causal=true)": 0.5,
    "rescnn(scale=inverse_sqrt_depth)": 0.5,
    "cnn(norm=batch,batch=16)": 0.4,
    "cnn(norm=batch,batch=41,strided=2)": 0.4,
    "rescnn(norm=batch,batch=16)": 0.3,
    "cnn(norm=batch,batch=41,strided=2,place=after)": 0.4,
    "cnn(norm=layer)": 1.3,
    "cnn(norm=rms)": 2.8,
    "cnn(norm=group)": 5.2,
    "cnn(norm=layer,place=after)": 2.5,
    "rescnn(norm=layer)": 0.3,
    "rescnn(norm=group,scale=inverse_sqrt_depth)": 0.3,
    "mlp(norm=batch,batch=16,place=after)": 1.2,
}
"""Networks, and the excess of their gradients at finite width, a layer and unit, as measured."""


RARER = {
    "transformer(patch=4,norm=batch,batch=16,hidden=1,place=post)",
    "transformer(patch=4,norm=batch,batch=16,hidden=1,causal=true)",
    "cnn(norm=batch,batch=41,strided=2)",
    "cnn(norm=batch,batch=41,strided=2,place=after)",
    "cnn(norm=layer)",
    "cnn(norm=rms)",
    "cnn(norm=layer,place=after)",
    "rescnn(norm=layer)",
    "rescnn(norm=group,scale=inverse_sqrt_depth)",
}
"""Those that differ from another one in a word, and take 10 s each."""


@pytest.mark.sampled(every=6)
@pytest.mark.parametrize(
    ("name", "phi"),
    [
        pytest.param(name, phi, marks=[pytest.mark.mutations] * (name in RARER))
        for name, phi in [
            *zip([*EXACT, *OTHERS], cycle(["relu", "tanh"])),
            ("mlp(norm=layer)", "gelu"),
        ]
    ],
)
def test_theory_agrees_with_draws(toy: ist.Dataset, name: str, phi: str) -> None:
    rows = compared(toy, name, phi)
    known = rows[rows["told_second_moment"].notna()]
    forward = known["direction"] == "forward"
    tensors = {"stream", "normed", "preactivation", "activation", "branch"} & {*rows["tensor"]}
    assert {*known.loc[forward, "tensor"]} >= tensors
    assert known["told_claim"].ne("").all()
    error, told = known["second_moment_error"], known["told_second_moment"]
    exact = known["told_claim"] == "exact"
    z = (known["second_moment"] - told)[exact] / np.hypot(error, 1e-4 * told)[exact]
    assert (z.fillna(0).abs() < 4).all()  # 0 over 0 where nothing passes
    near = known[~exact & (told > 0)]
    off = np.abs(np.log(near["second_moment"] / near["told_second_moment"]))
    kappa = OTHERS.get(name, 0.3)
    assert excess(ist.networks.get(name).on((1, 8, 8), WIDTH, DEPTH)) <= kappa + 1e-9
    most = (1.5 * kappa * DEPTH + 3) / WIDTH
    assert (off < 4 * near["second_moment_error"] / near["second_moment"] + most).all()
    alike = known[forward & known["told_sample_correlation"].notna()]
    apart = np.abs(alike["sample_correlation"] - alike["told_sample_correlation"])
    assert (apart < 4 * alike["sample_correlation_error"] + 3 / WIDTH).all()
    for note in ("branch_share", "pair_correlation", "attention_entropy", "concentration"):
        # entropies of causal rows are not told
        if note in known and known[f"told_{note}"].notna().any():
            noted = known[forward & known[f"told_{note}"].notna() & known[note].notna()]
            assert len(noted)
            apart = np.abs(noted[note] - noted[f"told_{note}"])
            assert (apart < 4 * noted[f"{note}_error"] + 3 / WIDTH).all()


@pytest.mark.parametrize(
    ("place", "phi", "batch"), [("pre", "relu", 8), ("pre", "tanh", 8), ("after", "tanh", 8)]
)
def test_one_layer_of_batch_norm_over_positions_at_any_width(
    toy: ist.Dataset, monkeypatch: pytest.MonkeyPatch, place: str, phi: str, batch: int
) -> None:
    """Units of the first layer are independent: what a norm makes of few rows is all there is."""
    units, drawn, seeds = 512, 6000, 20
    monkeypatch.setattr("initstats.prediction.planes._UNITS", drawn)
    rows = compared(
        toy,
        f"cnn(norm=batch,batch={batch},place={place})",
        phi,
        width=units,
        depth=1,
        seeds=seeds,
    )
    assert rows["told_second_moment"].notna().all()
    # of theory's draws the error is that of as many units in place of all that are measured
    error = rows["second_moment_error"] * np.sqrt(1 + units * seeds / drawn)
    z = (rows["second_moment"] - rows["told_second_moment"]) / (error + 1e-4)
    assert (z.abs() < 4).all()


@pytest.mark.parametrize("batch", [16, 41])
def test_batch_norm_of_drawn_units_is_that_of_torch(toy: ist.Dataset, batch: int) -> None:
    """Units and gradients, number by number, the last batch being smaller."""
    generator = torch.Generator().manual_seed(3)
    h, g = (torch.randn(41, 5, 2, 3, generator=generator) + 1 for _ in range(2))
    h.requires_grad_()
    normed = torch.cat([batch_norm(x, None, None, training=True) for x in torch.split(h, batch)])
    (gradient,) = torch.autograd.grad(normed, h, g)
    planes, square = Planes(toy.valid, batch, 16), np.ones((41, 2, 3))
    k, product = (cast(Any, Fields(x)) for x in (h.detach(), g))
    state = State(square, square, k=k, pairs=planes, gaussian=True)
    behind: Any = planes.batch_normed(state, batch).k
    before: Any = planes.unbatch_normed(Cotangent(square, product=product), state, batch).product
    torch.testing.assert_close(behind.values, normed.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(before.values, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_a_pre_norm_stream_is_predicted_exactly_at_every_width(toy: ist.Dataset, name: str) -> None:
    rows = compared(toy, name, "tanh")
    stream = rows[(rows["tensor"] == "stream") & (rows["direction"] == "forward")]
    assert (stream["told_claim"] == "exact").all()


def test_every_kind_of_note_is_predicted(toy: ist.Dataset) -> None:
    network = "transformer(patch=4,heads=2)"
    grid = ist.Grid(networks=[network], inits=["lecun_normal"], widths=[16], depth=3)
    predicted = ist.predict(grid, toy)
    assert predicted[[*NOTES]].notna().any().all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mlp(norm=batch)", "two whole batches of 32"),
        ("mlp(norm=batch,batch=257)", "at most 256 samples a batch, not 257"),
        ("resnet", "residual sums"),
        ("cnn(norm=batch,batch=16,place=after)", "nearly no spread in some units"),
        ("cnn(norm=batch,batch=16,dropout=0.1)", "knows no dropout"),
        ("rescnn(norm=batch,batch=16,drop_path=0.1)", "knows no stochastic depth"),
        ("cnn(norm=batch,batch=16,standardized=true)", "knows no standardized weights"),
        ("transformer(patch=1,norm=batch,batch=16)", "at most 512 tokens a batch, not 1024"),
    ],
)
def test_what_is_unknown_is_a_note_and_no_guess(toy: ist.Dataset, name: str, reason: str) -> None:
    depth = 5 if name.startswith("res") else 3
    settings: Any = {"inits": ["xavier_normal"], "widths": [16], "depth": depth}
    grid = ist.Grid(networks=[name], **settings, backward=True)
    predicted = ist.predict(grid, toy)
    unknown = predicted[predicted["second_moment"].isna()]
    assert unknown["note"].str.contains(reason).any()
    assert (predicted.loc[predicted["second_moment"].isna(), "note"] != "").all()
    assert predicted.loc[predicted["second_moment"].isna(), "claim"].isna().all()


@dataclass(frozen=True)
class Gate(Leaf):
    """A gated linear unit (Dauphin et al. 2017): units times the sigmoid of as many others."""

    tensor: ClassVar[str] = "activation"

    @property
    def outputs(self) -> Signal:
        return self.reads._replace(units=self.reads.units // 2)

    def forward(self, x: Tensor, at: Run) -> Tensor:
        at.tape.append(x)
        value, gate = x.chunk(2, dim=-2)
        y = (value * gate.sigmoid()).contiguous()
        at.emit(self, "forward", y)
        return y

    def backward(self, gradient: Tensor, at: Run, *, inward: bool = True) -> Tensor:
        at.emit(self, "backward", gradient)
        value, gate = at.tape.pop().chunk(2, dim=-2)
        share = gate.sigmoid()
        of_gate = gradient * value * share * (1 - share)
        return torch.cat([gradient * share, of_gate], dim=-2)

    def expect(self, state: State, at: Expectation) -> State:
        gated = state.activated(SIGMOID)
        at.tape.append(gated)
        product = State(
            state.square * gated.square,
            np.zeros_like(state.square),
            k=state.k * gated.k,
            pairs=state.pairs,
            width=state.width // 2,
            exact=False,
        )
        at.emit(self, product)
        return product

    def pull(self, cotangent: Cotangent, at: Expectation, *, inward: bool = True) -> Cotangent:
        at.emit_gradient(self, cotangent)
        gated = at.tape.pop()
        assert isinstance(gated, Activated)
        through = gated.square + gated.before.square * gated.response.slope_square
        return replace(cotangent, square=cotangent.square * through / 2, given=False)


SIGMOID = ist.activations.get("sigmoid")


def gated(width: int, depth: int) -> Block:
    """Layers of gated units."""
    return Serial(*(block for _ in range(depth) for block in (Dense(2 * width), Gate())))


def test_a_block_of_ones_own_is_one_class(toy: ist.Dataset) -> None:
    placed = ist.networks.get(gated).on((1, 8, 8), 5, 3)
    reference: list[Tensor] = []
    x = toy.valid.x.double()
    for weights in placed.draw(
        ist.inits.get("lecun_normal"), SIGMOID, partial(generator_for, 2)
    ).values():
        h = (x @ weights.matrix.double().mT).requires_grad_()
        h.retain_grad()
        reference.append(h)
        value, gate = h.chunk(2, dim=1)
        x = value * gate.sigmoid()
    drawn = torch.randn(48, 5, generator=generator_for(2, "cotangent"))[:41].double()
    torch.autograd.backward(x, drawn)
    settings = Settings(3, 41, backward=True, dtype="float64")
    init, relu = ist.inits.get("lecun_normal"), ist.activations.get("relu")
    (result,) = run_stack(placed, init, [relu], [2], toy.valid, None, settings)
    column = list(ist.moments.STATISTICS).index("second_moment")
    found = dict(zip(placed.places(backward=True), result.statistics[:, column], strict=True))
    for layer, h in enumerate(reference, 1):
        assert h.grad is not None
        assert found[layer, "preactivation", "forward"] == pytest.approx(
            float(h.detach().square().mean())
        )
        slope = float(h.grad.square().mean())
        assert found[layer, "preactivation", "backward"] == pytest.approx(slope)
    rows = compared(toy, gated, "relu")
    told = rows[rows["told_second_moment"].notna()]
    assert len(told) == len(rows)
    off = np.abs(np.log(told["second_moment"] / told["told_second_moment"]))
    assert (off < 4 * told["second_moment_error"] / told["second_moment"] + 3 / WIDTH).all()
