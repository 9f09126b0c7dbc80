"""Generators of random numbers for purposes, each with a seed that nobody else uses by chance.

A plain seed of 0 would not do: it gives the numbers that a user drew after `torch.manual_seed(0)`.
"""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, *purpose: object) -> int:
    """A seed of a purpose under a seed, as torch takes it; it depends on nothing else."""
    text = "/".join(map(str, (seed, *purpose)))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(seed: int, *purpose: object) -> torch.Generator:
    """The generator of a purpose under a seed, on the CPU."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))
