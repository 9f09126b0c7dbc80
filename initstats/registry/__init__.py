"""Named entries, spelled the way users type them: ``relu``, ``general_relu(leak=0.2,sub=0.3)``.

A catalogue keeps everything of one kind (inits, activations, networks, statistics, rules, figures)
by name. An entry may be a family: a spelling picks one member of it by its parameters. The
canonical spelling names only the parameters that differ from the family's defaults, in the order of
their declaration and without spaces, so that one member has one name in every table.
"""

from __future__ import annotations

from initstats.registry.catalog import Catalog as Catalog
from initstats.registry.catalog import Family as Family
from initstats.registry.catalog import meaning_of as meaning_of
from initstats.registry.catalog import name_of as name_of
from initstats.registry.entry import Entry as Entry
from initstats.registry.entry import Need as Need
from initstats.registry.entry import check_importable as check_importable
from initstats.registry.entry import import_module as import_module
from initstats.registry.entry import import_own as import_own
from initstats.registry.entry import missing as missing
from initstats.registry.shipped import Sources as Sources
from initstats.registry.shipped import neighbours as neighbours
from initstats.registry.shipped import receive as receive
from initstats.registry.shipped import sources_of as sources_of
from initstats.registry.spelling import Value as Value
from initstats.registry.spelling import spelled as spelled
from initstats.registry.spelling import split_names as split_names
from initstats.registry.spelling import unknown as unknown
from initstats.registry.staying import staying as staying
