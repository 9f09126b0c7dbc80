"""Gates: factors between 0 and a bound by which one value is multiplied, made of another.

What makes them is off the path of the signal, which a gate that is the same for every sample only
scales (Hu et al. 2018, squeeze and excitation).
"""

from __future__ import annotations

import numpy as np

from initstats.diagnosis.graph import SCALING, SUMS
from initstats.diagnosis.profile import Profile
from initstats.probe.kinds import MIXING, words

_PRODUCTS = SCALING | MIXING | words("addcmul addcmul_ lerp lerp_")


def only_gates(profile: Profile, layer: int) -> bool:
    """Whether nothing but gates is made of a value, by one more linear map at most."""
    graph, rows = profile.graph, profile.values
    bounded = ((rows["low"] >= 0) & np.isfinite(rows["high"])) | (rows["shares_axis"] >= 0)
    waiting, seen = [(layer, 0, False)], {layer}
    while waiting:
        here, maps, gate = waiting.pop()
        gate = gate or bool(bounded[profile.at[here]])
        if not graph.readers[here]:
            return False
        for reader in graph.readers[here]:
            linear, several = reader in graph.linear, len(graph.inputs[reader]) > 1
            if gate and several and not linear and graph.ops[reader] in _PRODUCTS:
                continue
            added = graph.ops[reader] in SUMS
            if maps + linear > 1 or (gate and linear) or (several and not added):
                return False
            if reader not in seen:
                seen.add(reader)
                waiting.append((reader, maps + linear, gate))
    return True


def bottleneck(profile: Profile, layer: int) -> bool:
    """Whether a value is what gates are made of, and has fewer units than the maps that read it."""
    graph, waiting, wider = profile.graph, [layer], True
    units = profile.along([layer])["units"][0]
    if not only_gates(profile, layer):
        return False
    for here in waiting:
        for reader in graph.readers[here]:
            if reader in graph.linear:
                wider &= bool(profile.along([reader])["units"][0] > units)
            elif reader not in waiting and len(graph.inputs[reader]) == 1:
                waiting.append(reader)
    return wider
