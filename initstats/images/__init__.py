"""Image folders: their layout, the decoding of their files, and what is kept of it on disk."""

from __future__ import annotations

from initstats.images.reading import Images as Images
from initstats.images.reading import Skipped as Skipped
from initstats.images.reading import read_images as read_images
