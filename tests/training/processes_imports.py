"""Imports of the server in `processes` before it forks."""

import torch.utils.tensorboard  # noqa: F401

import amodal.training.loop  # noqa: F401
import tests.models.trunk  # noqa: F401  (which registers a trunk for EdgeTAM)
