"""What a model should show before it is trained: theory through the graph of its operations."""

from __future__ import annotations

from initstats.prediction.model.beside import beside as beside
from initstats.prediction.model.beside import farthest as farthest
from initstats.prediction.model.predicting import predict_model as predict_model
