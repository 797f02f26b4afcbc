"""What the server of `processes` imports before it forks."""

import torch.utils.tensorboard  # noqa: F401

import amodal.training.loop  # noqa: F401
