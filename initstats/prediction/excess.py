"""What a finite width adds to gradients behind norms, as measured: a band, not a theory.

The mean of a gradient's square lies above its value at infinite width by a factor of about
exp(kappa layers / width). Figures are of widths 32 to 256 and up to a hundred layers.
"""

from __future__ import annotations

from initstats.networks import Linear, Serial, Stream
from initstats.networks.norm import Norm

_PLAIN, _RMS, _GROUPS, _AFTER, _STANDARDIZED, _BATCH = 1.3, 2.8, 5.2, 2.5, 2.8, 0.4
_PRE, _POST, _STRONG_SKIP, _PRE_ATTENTION, _POST_ATTENTION = 0.3, 1.8, 0.06, 0.5, 1.1


def excess(network: Serial) -> float:
    """The kappa of a network; 0 where it has no norm.

    >>> from initstats.networks import get
    >>> [excess(get(name).on((1, 28, 28), 8, 4)) for name in ("mlp", "resmlp(norm=layer)")]
    [0.0, 0.3]
    """
    leaves = [*network.leaves()]
    streams = [leaf for leaf in leaves if isinstance(leaf, Stream)]
    norms = [leaf for leaf in leaves if leaf.tensor == "normed"]
    attention = any(leaf.tensor == "attention" for leaf in leaves)
    if streams and streams[0].norm is not None:
        after = _POST_ATTENTION if attention else _POST
        return _STRONG_SKIP if streams[0].skip > 1 else after
    if any(isinstance(leaf, Linear) and leaf.standardized for leaf in leaves):
        return _STANDARDIZED
    if not norms:
        return 0.0
    if streams:
        return _PRE_ATTENTION if attention else _PRE
    norm = norms[0]
    if not isinstance(norm, Norm):
        return _BATCH
    if any(leaf.tensor == "activation" for leaf in leaves[: leaves.index(norm)]):
        return _AFTER
    if norm.groups > 1:
        return _GROUPS
    return _PLAIN if norm.centred else _RMS
