"""Named entries, spelled the way users type them: ``relu``, ``general_relu(leak=0.2,sub=0.3)``.

A catalogue keeps everything of one kind (inits, activations, networks, statistics, rules, figures)
by name. An entry may be a family: a spelling picks one member of it by its parameters. The
canonical spelling names only the parameters that differ from the family's defaults, in the order of
their declaration and without spaces, so that one member has one name in every table.
"""

from __future__ import annotations

from initstats.registry.catalog import Catalog, Family, Members, varied
from initstats.registry.entry import Entry, check_importable, import_module
from initstats.registry.names import keyword_defaults, meaning_of, name_of, split_names, unknown
from initstats.registry.need import Need, missing
from initstats.registry.values import Value, plain, spelled

__all__ = [
    "Catalog",
    "Entry",
    "Family",
    "Members",
    "Need",
    "Value",
    "check_importable",
    "import_module",
    "keyword_defaults",
    "meaning_of",
    "missing",
    "name_of",
    "plain",
    "spelled",
    "split_names",
    "unknown",
    "varied",
]
