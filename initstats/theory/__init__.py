"""What should happen to a signal in a deep stack of random layers: mean-field theory.

Statements are about draws of the weights, for layers so wide that pre-activations are Gaussian,
and to first order in 1 / width beyond (Poole et al. 2016; Schoenholz et al. 2017; Yaida 2019).
Everything here works on paper: an activation, variances, lengths, no data and no grid.
"""

from __future__ import annotations

from initstats.activations.tailoring import leaky_correlation as leaky_correlation
from initstats.activations.tailoring import tailored_slope as tailored_slope
from initstats.theory.attention import Attended as Attended
from initstats.theory.attention import KernelGradient as KernelGradient
from initstats.theory.attention import TokenGradient as TokenGradient
from initstats.theory.attention import Tokens as Tokens
from initstats.theory.attention import attend as attend
from initstats.theory.attention import attend_kernel as attend_kernel
from initstats.theory.attention import pull_attention as pull_attention
from initstats.theory.attention import pull_kernel as pull_kernel
from initstats.theory.batch import BatchMoments as BatchMoments
from initstats.theory.batch import batch_norm_moments as batch_norm_moments
from initstats.theory.batch import batch_norm_rate as batch_norm_rate
from initstats.theory.batch_after import AfterMoments as AfterMoments
from initstats.theory.batch_after import batch_after_moments as batch_after_moments
from initstats.theory.maps import correlation_map as correlation_map
from initstats.theory.maps import length_map as length_map
from initstats.theory.maps import patch_mean as patch_mean
from initstats.theory.maps import product_moment as product_moment
from initstats.theory.norms import gradient_rate as gradient_rate
from initstats.theory.norms import post_norm_rate as post_norm_rate
from initstats.theory.norms import pre_norm_growth as pre_norm_growth
from initstats.theory.norms import standardized_rate as standardized_rate
from initstats.theory.pairs import Correlations as Correlations
from initstats.theory.pairs import correlations as correlations
from initstats.theory.phases import Edge as Edge
from initstats.theory.phases import FixedPoint as FixedPoint
from initstats.theory.phases import depth_scale as depth_scale
from initstats.theory.phases import edge_of_chaos as edge_of_chaos
from initstats.theory.phases import fixed_point as fixed_point
from initstats.theory.propagation import WeightKind as WeightKind
from initstats.theory.propagation import gradient_factors as gradient_factors
from initstats.theory.propagation import propagate as propagate
from initstats.theory.propagation import relu_log_length as relu_log_length
from initstats.theory.response import Response as Response
from initstats.theory.response import absolute_moments as absolute_moments
from initstats.theory.response import response as response
from initstats.theory.softmax import SoftmaxMoments as SoftmaxMoments
from initstats.theory.softmax import softmax_moments as softmax_moments
from initstats.theory.sphere import SphereMoments as SphereMoments
from initstats.theory.sphere import sphere_moments as sphere_moments
from initstats.theory.state import Law as Law
from initstats.theory.state import State as State
