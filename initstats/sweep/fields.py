"""The fields of a study's settings: what each may hold, and what is said of one that may not."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from initstats import activations as activation_entries
from initstats import inits as init_entries
from initstats import networks as network_entries
from initstats.activations import Activation
from initstats.inits import Init
from initstats.networks import Network
from initstats.recipes import refuse_recipes
from initstats.registry import Entry, unknown
from initstats.store import to_toml
from initstats.sweep.prepared import prepared

MAX_WIDTH, MAX_DEPTH, MAX_SEEDS = 1_000_000, 10_000, 10_000_000

Item = TypeVar("Item")


class Nothing(tuple[()]):
    """No networks and no inits: those of recipes are all that a grid has."""


NOTHING = Nothing()


def listed(values: object) -> list[Any]:
    """The items of a list; a number or another single value that is no text is a list of one."""
    if isinstance(values, str | bytes):
        raise ValueError(f"a list is expected, not {values!r}")
    items = list(values) if isinstance(values, Iterable) else [values]
    if not items:
        raise ValueError("the list is empty: name at least one")
    return items


def entries_of(kind: type[Entry], get: Callable[[Any], Any], values: object) -> list[Any]:
    """The entries that names, ranges of names, callables, and mappings of names to these mean."""
    if values is NOTHING:
        return []
    found: list[Any] = []
    faults: list[str] = []
    cause: BaseException | None = None
    catalog = kind.catalog
    if not (isinstance(values, str) and values in catalog):
        refuse_recipes(values)
    for value in [values] if isinstance(values, Mapping) else listed(values):
        try:
            if isinstance(value, Mapping):
                if taken := [name for name in value if str(name) in catalog]:
                    raise ValueError(
                        f"{taken[0]!r} is the name of a registered {catalog.noun}: choose another"
                    )
                found += [replace(get(of), name=str(name), module="") for name, of in value.items()]
            elif isinstance(value, str) and ":" in value:
                found += map(catalog.__getitem__, catalog.expand(value))
            else:
                found.append(get(value))
        except ValueError as error:
            faults.append(str(error))
            cause = cause or error.__cause__
    if faults:
        raise ValueError(f"; {catalog.noun}s: ".join(faults)) from cause
    if not found:
        raise ValueError("the list is empty: name at least one")
    return found


def names_of(items: Iterable[Any]) -> list[Any]:
    """Entries by name; numbers as they are."""
    return [getattr(item, "name", item) for item in items]


def distinct(values: tuple[Item, ...]) -> tuple[Item, ...]:
    """The values, if none is there twice."""
    names = names_of(values)
    if len({*names}) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(f"named twice: {', '.join(map(str, twice))}")
    return values


def whole(low: int, high: int, value: object) -> int:
    """A whole number, numpy's too."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    if not low <= number <= high:
        raise ValueError(f"{number} is not between {low} and {high}")
    return number


def choice(noun: str, available: Sequence[str], value: object) -> str:
    """One of some names."""
    if value not in available:
        raise unknown(noun, str(value), available)
    return str(value)


def device_name(value: object) -> str:
    """The CPU or a GPU, as torch spells it."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", str(value)):
        raise ValueError(f"{value!r} is not a device that can be used: cpu, cuda or cuda:NUMBER")
    return str(value)


def counted_seeds(seeds: object) -> list[Any]:
    """The seeds of a list; 0 to n - 1 for a number n."""
    if isinstance(seeds, Iterable):
        return [whole(0, 2**63 - 1, seed) for seed in listed(seeds)]
    return list(range(whole(1, MAX_SEEDS, seeds)))


Distinct = AfterValidator(distinct)
Recipes = BeforeValidator(prepared)
Networks = BeforeValidator(partial(entries_of, Network, network_entries.get))
Inits = BeforeValidator(partial(entries_of, Init, init_entries.get))
Activations = BeforeValidator(partial(entries_of, Activation, activation_entries.get))
Width = Annotated[int, BeforeValidator(partial(whole, 1, MAX_WIDTH))]


class Fields(BaseModel):
    """Settings of a study, checked at once; those that a name of several entries has are lists.

    Raises:
        ValueError: naming every fault at once.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True
    )

    def __init__(self, **fields: Any) -> None:
        if "network" in fields:
            if "networks" in fields:
                raise ValueError("network and networks are both given: name one of them")
            network = fields.pop("network")
            fields["networks"] = network if isinstance(network, Mapping) else [network]
        try:
            super().__init__(**fields)
        except ValidationError as error:
            faults = error.errors()
            raised = [fault.get("ctx", {}).get("error") for fault in faults]
            causes = (each.__cause__ for each in raised if isinstance(each, Exception))
            cause = next(filter(None, causes), None)
            raise ValueError("; ".join(map(self._fault, faults))) from cause

    def to_toml(self) -> str:
        """The settings as TOML, which `from_toml` reads."""
        return to_toml(self.config)

    @property
    def config(self) -> dict[str, Any]:
        """The fields as plain values: entries by name, seeds listed."""
        return {
            field: names_of(value) if isinstance(value, tuple) else value
            for field, value in vars(self).items()
        }

    @classmethod
    def _fault(cls, error: Mapping[str, Any]) -> str:
        """One of pydantic's faults in our words."""
        field = str(error["loc"][0]) if error["loc"] else ""
        if error["type"] == "extra_forbidden":
            return str(unknown("field", field, tuple(cls.model_fields)))
        message = error.get("ctx", {}).get("error", error["msg"])
        return f"{field}: {message}" if field else str(message)
