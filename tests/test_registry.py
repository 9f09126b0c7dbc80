from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initstats.registry import Catalog, Value, name_of, split_names, unknown
from initstats.registry.catalog import Family, keyword_defaults
from initstats.registry.spelling import plain

Made = tuple[str, dict[str, Value]]
DEFAULTS: dict[str, Value] = {"leak": 0.1, "sub": 0.4, "count": 3, "fast": False, "mode": "fan_in"}


@pytest.fixture
def catalog() -> Catalog[Made]:
    catalog: Catalog[Made] = Catalog("shape")
    catalog.add(
        Family(
            "general", lambda spelling, **parameters: (spelling, parameters), DEFAULTS, module="one"
        )
    )
    catalog.add(Family("plain", lambda spelling: (spelling, {}), module="one"))
    return catalog


def test_defaults_are_filled_in_and_not_spelled(catalog: Catalog[Made]) -> None:
    assert catalog["general"] == ("general", DEFAULTS)
    assert catalog[" general( sub = 0.40, mode=fan_in ) "] == ("general", DEFAULTS)
    assert catalog["plain()"] == ("plain", {})


def test_a_spelling_names_what_differs_in_the_order_of_declaration(
    catalog: Catalog[Made],
) -> None:
    name, parameters = catalog["general(mode=fan_out,fast=true,count=5,leak=2)"]
    assert name == "general(leak=2,count=5,fast=true,mode=fan_out)"
    assert parameters == {"leak": 2.0, "sub": 0.4, "count": 5, "fast": True, "mode": "fan_out"}
    assert isinstance(parameters["leak"], float)


def test_every_spelling_of_an_entry_gives_the_same_object(catalog: Catalog[Made]) -> None:
    assert catalog["general(leak=0.2)"] is catalog["general( leak=2e-1 , sub=0.4)"]


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
    catalog: Catalog[Any] = Catalog("shape")
    catalog.add(Family("general", lambda spelling, **_: spelling, DEFAULTS))
    spelling = catalog.spell("general", given_parameters)
    name, read = catalog.parse(spelling)
    tidy = {k: plain(v) if isinstance(v, float) else v for k, v in given_parameters.items()}
    assert (name, read) == ("general", {**DEFAULTS, **tidy})
    assert catalog.spell(name, read) == spelling
    assert " " not in spelling
    assert split_names(f"a,{spelling},b") == ["a", spelling, "b"]


def test_zero_has_no_sign(catalog: Catalog[Made]) -> None:
    assert catalog["general(leak=-0)"] is catalog["general(leak=0)"]
    assert math.copysign(1, float(catalog["general(leak=-0.0)"][1]["leak"])) == 1
    assert catalog.spell("general", {"leak": -0.0}) == "general(leak=0)"


def test_infinity_is_a_number_and_nan_is_not(catalog: Catalog[Made]) -> None:
    assert catalog["general(leak=inf)"][1]["leak"] == math.inf
    with pytest.raises(ValueError, match=r"leak must be a number, got 'nan'"):
        catalog["general(leak=nan)"]


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
    catalog: Catalog[Made], spelling: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        catalog[spelling]


def test_faulty_registrations_are_refused(catalog: Catalog[Made]) -> None:
    with pytest.raises(ValueError, match="shape 'plain' is registered already, by one: choose"):
        catalog.add(Family("plain", lambda spelling: (spelling, {}), module="two"))
    with pytest.raises(ValueError, match="shape '<lambda>' cannot be spelled"):
        catalog.add(Family("<lambda>", lambda spelling: (spelling, {})))
    with pytest.raises(ValueError, match="default of 'a' must be a number.*got None"):
        catalog.add(Family("new", lambda spelling, **_: (spelling, {}), {"a": None}))  # type: ignore[dict-item]
    assert list(catalog) == ["general", "plain"]


def test_the_module_that_defined_a_name_may_define_it_again(catalog: Catalog[Made]) -> None:
    before = catalog["general(leak=0.2)"], catalog["plain"]
    new: Made = ("new", {})
    catalog.add(Family("general", lambda spelling, **_: new, {"leak": 1.0}, module="one"))
    assert before[0] == ("general(leak=0.2)", {**DEFAULTS, "leak": 0.2})
    assert catalog["general(leak=0.2)"] is new
    assert catalog["plain"] is before[1]
    with pytest.raises(ValueError, match="unknown parameter of shape 'general' 'sub'"):
        catalog["general(sub=1)"]
    assert list(catalog) == ["general", "plain"]


def test_an_entry_can_be_removed(catalog: Catalog[Made]) -> None:
    made = catalog["plain"]
    catalog.remove("plain")
    assert list(catalog) == ["general"]
    assert "plain" not in catalog
    with pytest.raises(ValueError, match="unknown shape 'plain'"):
        catalog.remove("plain")
    catalog.add_one("plain", ("again", {}), meaning="", module="two")
    assert catalog["plain"] is not made


@pytest.mark.parametrize(
    ("spelling", "values"),
    [
        ("general(leak=0:0.4:5)", [0.0, 0.1, 0.2, 0.3, 0.4]),
        ("general(leak=0.4:0:3)", [0.4, 0.2, 0.0]),
        ("general(leak=-1:1:3)", [-1.0, 0.0, 1.0]),
        ("general(leak=0.999:1.001:5)", [0.999, 0.9995, 1.0, 1.0005, 1.001]),
        ("general(leak=1e-30:1e30:3log)", [1e-30, 1.0, 1e30]),
        ("general(leak=0.5:4:8log)", [0.5, 0.673, 0.9057, 1.219, 1.641, 2.208, 2.972, 4.0]),
        ("general(leak=0.3)", [0.3]),
    ],
)
def test_a_range_is_several_values(
    catalog: Catalog[Made], spelling: str, values: list[float]
) -> None:
    spellings = catalog.expand(spelling)
    assert [catalog[each][1]["leak"] for each in spellings] == values
    assert max(map(len, spellings)) <= len("general(leak=0.9995)")


def test_ranges_of_two_parameters_make_every_combination(catalog: Catalog[Made]) -> None:
    spellings = catalog.expand("general(leak=1:3:3,count=4:5:2,mode=fan_out)")
    assert spellings[:2] == [
        "general(leak=1,count=4,mode=fan_out)",
        "general(leak=1,count=5,mode=fan_out)",
    ]
    assert len(spellings) == 6
    assert isinstance(catalog[spellings[0]][1]["count"], int)


@pytest.mark.parametrize(
    "text", ["0:1", "0:1:1", "a:b:3", "0:4:3log", "1:1:3", "0:inf:3", "0:1:2:3", "0:1:3lin"]
)
def test_a_faulty_range_is_refused(catalog: Catalog[Made], text: str) -> None:
    with pytest.raises(ValueError, match=f"leak: cannot read the range '{text}': write low:high"):
        catalog.expand(f"general(leak={text})")
    with pytest.raises(ValueError, match="with both ends above 0"):  # of a range by equal factors
        catalog.expand(f"general(leak={text})")
    with pytest.raises(ValueError, match="leak must be a number"):
        catalog[f"general(leak={text})"]


def test_numbers_are_spelled_as_a_person_would(catalog: Catalog[Made]) -> None:
    assert catalog.spell("general", {"leak": 0.1 + 0.2}) == "general(leak=0.3)"
    assert catalog["general(leak=1.2000000000000002)"] is catalog["general(leak=1.2)"]
    assert plain(math.sqrt(2)) == math.sqrt(2)
    assert plain(1 + 1e-12) != 1


def test_parameters_are_keyword_only_with_defaults() -> None:
    def good(x: float, *, generator: object, a: float = 1.0, b: str = "c") -> float:
        return x

    def positional(x: float, a: float = 1.0) -> float:
        return x

    def bare(x: float, *, a: float) -> float:
        return x

    assert keyword_defaults(good, ("generator",)) == {"a": 1.0, "b": "c"}
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
