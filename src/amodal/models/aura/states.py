"""The embedding of a mask token, by one function for training and inference."""

from __future__ import annotations

from torch import Tensor


def seg_states(states: Tensor, tokens: Tensor, seg_token_id: int) -> tuple[Tensor, Tensor]:
    """States at the positions that predict a mask token, in reading order.

    Args:
        states: (B, K, D) last hidden states.
        tokens: (B, K) the token that each of them predicts.
        seg_token_id: number of the mask token.

    Returns:
        (N, D) states and (N,) the row of each.
    """
    rows, places = (tokens == seg_token_id).nonzero(as_tuple=True)
    return states[rows, places], rows
