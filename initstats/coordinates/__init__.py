"""The coordinate check: sizes of values, gradients and updates over width and depth."""

from __future__ import annotations

from initstats.coordinates.check import Coordinates, coordinate_check

__all__ = ["Coordinates", "coordinate_check"]
