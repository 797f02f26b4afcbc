"""The optimisers a recipe can name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.training.recipe import TrainingRecipe


def new_optimizer(model: nn.Module, settings: TrainingRecipe) -> torch.optim.Optimizer:
    """AdamW, or Muon for the linear maps and AdamW for the rest; vectors (biases, norms) are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = _linear_weights(model) if settings.optimizer == "muon" else []
    taken = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
    if settings.optimizer == "adamw":
        return adamw
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f"training.optimizer: expected 'adamw' with torch {torch.__version__}, got 'muon' (torch 2.9)")
    muon = torch.optim.Muon(
        matrices, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return MuonAndAdamW(muon, adamw)


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimisers that look like one: their groups in a row, their states in one dictionary.

    Muon orthogonalises the update of a matrix; `match_rms_adamw` scales it so that AdamW's
    learning rate and weight decay fit it too.

    Args:
        muon: for matrices.
        adamw: for everything else.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.parts = (muon, adamw)
        self.cut = len(muon.param_groups)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        """One step of both; the loss of a closure, if there is one."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's, which replaces groups and state when a checkpoint is loaded."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        muon, adamw = self.parts
        muon.param_groups, adamw.param_groups = self.param_groups[: self.cut], self.param_groups[self.cut :]
        muon.state = adamw.state = self.state


def _linear_weights(model: nn.Module) -> list[Tensor]:
    """Weights of linear maps, but for an LLM's output layer: a row a word, like the embeddings'."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
    return [linear.weight for name, linear in found if not name.endswith("lm_head")]
