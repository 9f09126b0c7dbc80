"""What a model should show before it is trained: theory through the graph of its operations."""

from __future__ import annotations

from initstats.prediction.model.predicting import predict_model as predict_model
