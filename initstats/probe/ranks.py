"""Several processes that train copies of one model: how many they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def distributed() -> bool:
    """Whether this process is one of several that train together."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def ranks(model: nn.Module) -> int:
    """Over how many processes the gradients are averaged: more than one inside of torch's DDP."""
    if not distributed():
        return 1
    parallel: Any = nn.parallel.DistributedDataParallel
    outer = model if isinstance(model, parallel) else parallel._get_active_ddp_module()
    return 1 if outer is None else int(outer.process_group.size())
