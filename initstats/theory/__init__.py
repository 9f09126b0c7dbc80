"""What should happen to a signal in a deep stack of random layers: mean-field theory.

Statements are about draws of the weights, for layers so wide that pre-activations are Gaussian,
and to first order in 1 / width beyond (Poole et al. 2016; Schoenholz et al. 2017; Yaida 2019).
Everything here works on paper: an activation, variances, lengths, no data and no grid.
"""

from __future__ import annotations

from initstats.activations.tailoring import leaky_correlation, tailored_slope
from initstats.theory.maps import correlation_map, length_map, patch_mean, product_moment
from initstats.theory.pairs import Correlations, correlations
from initstats.theory.phases import Edge, FixedPoint, depth_scale, edge_of_chaos, fixed_point
from initstats.theory.propagation import Weights, gradient_factors, propagate, relu_log_length
from initstats.theory.response import Response, response
from initstats.theory.state import Law, State

__all__ = [
    "Correlations",
    "Edge",
    "FixedPoint",
    "Law",
    "Response",
    "State",
    "Weights",
    "correlation_map",
    "correlations",
    "depth_scale",
    "edge_of_chaos",
    "fixed_point",
    "gradient_factors",
    "leaky_correlation",
    "length_map",
    "patch_mean",
    "product_moment",
    "propagate",
    "relu_log_length",
    "response",
    "tailored_slope",
]
