"""A fuzzer that is guided by coverage: `python tests/guided.py run -max_total_time=60`.

The first word is one of the properties in `test_fuzz.py`; what follows is libFuzzer's. It needs
atheris, the extra `fuzz`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import atheris
from hypothesis import given

if __name__ == "__main__":
    # numba compiles the kernels, and has no use for what would count their steps
    kernels = "initstats.moments.kernels_numba"
    with atheris.instrument_imports(["initstats", "gzip", "tomllib"], [kernels]):
        properties = import_module("test_fuzz").PROPERTIES
    program, name, *options = sys.argv
    strategy, check = properties[name]
    with_examples: Any = given(strategy)
    tested = with_examples(check)
    atheris.Setup([program, "-len_control=0", *options], tested.hypothesis.fuzz_one_input)
    atheris.Fuzz()
