"""The coordinate check multiplies in all digits, and puts torch's switches back."""

from __future__ import annotations

import subprocess
import sys

import torch

import initstats as ist

SCRIPT = """
import torch
from initstats.coordinates.precision import all_digits

CUDA, CUDNN = torch.backends.cuda, torch.backends.cudnn
READ = [
    lambda: CUDNN.conv.fp32_precision, lambda: CUDNN.rnn.fp32_precision,
    lambda: CUDA.matmul.fp32_precision, lambda: CUDNN.allow_tf32, lambda: CUDA.matmul.allow_tf32,
    torch.get_float32_matmul_precision,
]

def state():
    found = []
    for read in READ:
        try:
            found.append(read())
        except (AttributeError, RuntimeError) as error:
            found.append(type(error))
    return found

for setting in [
    "",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "CUDA.matmul.allow_tf32 = True; CUDNN.allow_tf32 = False",
    "CUDNN.conv.fp32_precision = 'ieee'",
    "CUDA.matmul.fp32_precision = 'tf32'; CUDNN.rnn.fp32_precision = 'ieee'",
    "torch.backends.fp32_precision = 'tf32'",
]:
    exec(setting)
    before = state()
    try:
        with all_digits():
            within = state()
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert within[:3] == ["ieee"] * 3, (setting, within)
    assert True not in within, (setting, within)
    assert state() == before, (setting, state(), before)
"""


def test_no_factor_is_rounded_and_switches_are_put_back() -> None:
    """In a process of its own, one setting after the other: torch forgets none of them."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_the_check_is_made_of_such_products() -> None:
    seen = []

    def factory(n: int) -> torch.nn.Module:
        seen.append(torch.get_float32_matmul_precision())
        return torch.nn.Linear(4, n)

    torch.set_float32_matmul_precision("high")
    try:
        ist.coordinate_check(factory, (8, 16), x=torch.randn(3, 4), seeds=1)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"highest"}
