"""Does the signal survive the depth of your network? Measured, predicted, reported.

Importing the package is cheap: a public name loads its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from initstats.lazy import attach

__version__ = "0.1.0"

if TYPE_CHECKING:
    from initstats import activations as activations
    from initstats import assertions as assertions
    from initstats import audits as audits
    from initstats import backprop as backprop
    from initstats import callbacks as callbacks
    from initstats import coordinates as coordinates
    from initstats import data as data
    from initstats import diagnosis as diagnosis
    from initstats import differences as differences
    from initstats import foundations as foundations
    from initstats import gaussian as gaussian
    from initstats import inits as inits
    from initstats import moments as moments
    from initstats import networks as networks
    from initstats import outcome as outcome
    from initstats import plots as plots
    from initstats import prediction as prediction
    from initstats import probe as probe
    from initstats import repair as repair
    from initstats import report as report
    from initstats import schemes as schemes
    from initstats import store as store
    from initstats import sweep as sweep
    from initstats import theory as theory
    from initstats import training as training
    from initstats.activations import activation as activation
    from initstats.activations import gain as gain
    from initstats.activations import register_activation as register_activation
    from initstats.assertions import assert_healthy as assert_healthy
    from initstats.assertions import assert_initialized as assert_initialized
    from initstats.audits import audit as audit
    from initstats.coordinates import coordinate_check as coordinate_check
    from initstats.data import Dataset as Dataset
    from initstats.data import load_data as load_data
    from initstats.diagnosis import diagnose as diagnose
    from initstats.diagnosis import register_rule as register_rule
    from initstats.diagnosis import summarize as summarize
    from initstats.differences import compare_runs as compare_runs
    from initstats.inits import init as init
    from initstats.inits import register_init as register_init
    from initstats.moments import register_statistic as register_statistic
    from initstats.networks import register_network as register_network
    from initstats.outcome import summarize_training as summarize_training
    from initstats.outcome.tables import load_training as load_training
    from initstats.outcome.tables import load_training_curves as load_training_curves
    from initstats.outcome.tables import load_training_statistics as load_training_statistics
    from initstats.outcome.tables import load_tuning as load_tuning
    from initstats.plan import Plan as Plan
    from initstats.plan import plan_sweep as plan_sweep
    from initstats.plots import register_figure as register_figure
    from initstats.plots.measured import depth_profile as depth_profile
    from initstats.plots.measured import distribution_profile as distribution_profile
    from initstats.plots.measured import training_distributions as training_distributions
    from initstats.plots.measured import training_lines as training_lines
    from initstats.prediction import compare_with_theory as compare_with_theory
    from initstats.prediction import predict as predict
    from initstats.prediction import predict_run as predict_run
    from initstats.prediction.model import predict_model as predict_model
    from initstats.probe import Probe as Probe
    from initstats.probe import measure as measure
    from initstats.recipes import recipe as recipe
    from initstats.repair import lsuv_ as lsuv_
    from initstats.repair import reinitialize_ as reinitialize_
    from initstats.report import write_report as write_report
    from initstats.schemes import initialize_ as initialize_
    from initstats.schemes import prescribe as prescribe
    from initstats.store import load_failures as load_failures
    from initstats.store import load_histograms as load_histograms
    from initstats.store import load_table as load_table
    from initstats.survival import largest_depth as largest_depth
    from initstats.survival import predict_survival as predict_survival
    from initstats.sweep import Grid as Grid
    from initstats.sweep import run_sweep as run_sweep
    from initstats.training import TrainingGrid as TrainingGrid
    from initstats.training import compare_training as compare_training

    __all__: list[str]
else:  # the imports above are for a type checker, and the list of what to load
    __getattr__, __dir__, __all__ = attach(__name__)
