"""What a sweep should find: the rows of a grid from theory, and measured against predicted.

Theory is about the mean over draws of the weights. To first order in 1 / width a finite width adds
a shift, which is predicted with the rest, and a spread from draw to draw, which decides how well
seeds can tell theory and measurement apart (Yaida 2019, arXiv:1910.00019; Hanin & Nica 2018,
arXiv:1812.05994).
"""

from __future__ import annotations

from initstats.prediction.comparison import COMPARED as COMPARED
from initstats.prediction.comparison import compare_with_theory as compare_with_theory
from initstats.prediction.kept import predict_run as predict_run
from initstats.prediction.predicting import KEYS as KEYS
from initstats.prediction.predicting import FailedPredictionError as FailedPredictionError
from initstats.prediction.predicting import predict as predict
