from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initstats.registry import Registry, Value, keyword_defaults, name_of, split_names, unknown

Made = tuple[str, dict[str, Value]]
DEFAULTS: dict[str, Value] = {"leak": 0.1, "sub": 0.4, "count": 3, "fast": False, "mode": "fan_in"}


@pytest.fixture
def registry() -> Registry[Made]:
    registry: Registry[Made] = Registry("shape")
    registry.add("general", lambda spelling, **parameters: (spelling, parameters), DEFAULTS)
    registry.add("plain", lambda spelling: (spelling, {}), {})
    return registry


def test_defaults_are_filled_in_and_not_spelled(registry: Registry[Made]) -> None:
    assert registry.get("general") == ("general", DEFAULTS)
    assert registry.get(" general( sub = 0.40, mode=fan_in ) ") == ("general", DEFAULTS)
    assert registry.get("plain()") == ("plain", {})


def test_a_spelling_names_what_differs_in_the_order_of_declaration(
    registry: Registry[Made],
) -> None:
    name, parameters = registry.get("general(mode=fan_out,fast=true,count=5,leak=2)")
    assert name == "general(leak=2,count=5,fast=true,mode=fan_out)"
    assert parameters == {"leak": 2.0, "sub": 0.4, "count": 5, "fast": True, "mode": "fan_out"}
    assert isinstance(parameters["leak"], float)


def test_every_spelling_of_an_entry_gives_the_same_object(registry: Registry[Made]) -> None:
    assert registry.get("general(leak=0.2)") is registry.get("general( leak=2e-1 , sub=0.4)")


numbers = st.floats(allow_nan=False)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "leak": numbers,
        "sub": numbers,
        "count": st.integers() | st.floats(-1e3, 1e3),
        "fast": st.booleans(),
        "mode": st.from_regex(r"[a-z_]{1,9}", fullmatch=True),
    },
)


@given(parameters)
def test_spelling_and_reading_are_inverse(given_parameters: dict[str, Value]) -> None:
    registry: Registry[Any] = Registry("shape")
    registry.add("general", lambda spelling, **_: spelling, DEFAULTS)
    spelling = registry.spell("general", given_parameters)
    name, read = registry.parse(spelling)
    assert (name, read) == ("general", {**DEFAULTS, **given_parameters})
    assert registry.spell(name, read) == spelling
    assert " " not in spelling
    assert split_names(f"a,{spelling},b") == ["a", spelling, "b"]


def test_zero_has_no_sign(registry: Registry[Made]) -> None:
    assert registry.get("general(leak=-0)") is registry.get("general(leak=0)")
    assert math.copysign(1, float(registry.get("general(leak=-0.0)")[1]["leak"])) == 1
    assert registry.spell("general", {"leak": -0.0}) == "general(leak=0)"


def test_infinity_is_a_number_and_nan_is_not(registry: Registry[Made]) -> None:
    assert registry.get("general(leak=inf)")[1]["leak"] == math.inf
    with pytest.raises(ValueError, match=r"leak must be a number, got 'nan'"):
        registry.get("general(leak=nan)")


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("generl", r"^unknown shape 'generl': did you mean 'general'\? available: general, plain$"),
        ("zzz", r"^unknown shape 'zzz': available: general, plain$"),
        (
            "general(leek=1)",
            "unknown parameter of shape 'general' 'leek': did you mean 'leak'. available: leak, su",
        ),
        ("plain(x=1)", "unknown parameter of shape 'plain' 'x': available: none"),
        ("general(0.2)", "cannot read shape 'general.0.2.': '0.2' is not parameter=value"),
        ("general(leak=1,leak=2)", "'leak' is given twice"),
        ("general(leak=1,)", "'' is not parameter=value"),
        ("general(leak=much)", "leak must be a number, got 'much'"),
        ("general(count=1.5.2)", "count must be a number, got '1.5.2'"),
        ("general(fast=yes)", "fast must be true or false, got 'yes'"),
        ("general(mode='fan_in')", "mode must be a word"),
        ("general(leak=0.2", "cannot read shape 'general.leak=0.2': write name or name.param"),
        ("general(leak=(1))", "cannot read shape"),
        ("", "cannot read shape ''"),
    ],
)
def test_a_faulty_spelling_says_what_is_wrong(
    registry: Registry[Made], spelling: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        registry.get(spelling)


def test_faulty_registrations_are_refused(registry: Registry[Made]) -> None:
    with pytest.raises(ValueError, match="shape 'plain' is registered already"):
        registry.add("plain", lambda spelling: (spelling, {}), {})
    with pytest.raises(ValueError, match="shape '<lambda>' cannot be spelled"):
        registry.add("<lambda>", lambda spelling: (spelling, {}), {})
    with pytest.raises(ValueError, match="default of 'a' must be a number.*got None"):
        registry.add("new", lambda spelling, **_: (spelling, {}), {"a": None})  # type: ignore[dict-item]
    assert list(registry) == ["general", "plain"]


def test_parameters_are_keyword_only_with_defaults() -> None:
    def good(x: float, *, generator: object, a: float = 1.0, b: str = "c") -> float:
        return x

    def positional(x: float, a: float = 1.0) -> float:
        return x

    def bare(x: float, *, a: float) -> float:
        return x

    assert keyword_defaults(good, reserved=("generator",)) == {"a": 1.0, "b": "c"}
    for faulty in (positional, bare):
        with pytest.raises(ValueError, match=r"each with a default: def \w+\(x, \*, a=\.\.\.\)"):
            keyword_defaults(faulty)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("relu", ["relu"]),
        ("relu, gelu ,tanh", ["relu", "gelu", "tanh"]),
        ("a,b(c=1,d=2),e", ["a", "b(c=1,d=2)", "e"]),
    ],
)
def test_lists_are_split_outside_parentheses(text: str, names: list[str]) -> None:
    assert split_names(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,,b", "a name is missing in 'a,,b'"), ("a,", "missing"), ("a(b", "match"), ("a)(", "mat")],
)
def test_faulty_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_names(text)


def test_callables_have_names() -> None:
    assert name_of(split_names) == "split_names"
    assert name_of(lambda: None) == "lambda"


def test_an_empty_list_of_names_is_said() -> None:
    assert str(unknown("figure", "x", [])) == "unknown figure 'x': available: none"
