"""Limits on what a work folder may use up."""

from __future__ import annotations

from dataclasses import dataclass

from amodal.datagen.backends.base import Estimate
from amodal.datagen.store.requests_log import Prices, Spent
from amodal.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Over all runs of a work folder; None is no limit."""

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "tokens", "money"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"max_{name}: expected 0 or more, got {value}")


class Budget:
    """Counts what was used and what requests on their way may still use.

    A request may be sent only if its estimate fits in what is left, so that a limit holds even if
    all requests under way turn out as expensive as they can.
    """

    def __init__(self, limits: Limits, prices: Prices, before: Spent) -> None:
        if limits.money is not None and prices == Prices():
            raise InputError("max_money: expected prices of tokens with it, got none")
        self._limits, self._prices = limits, prices
        self._requests, self._tokens, self._money = before.requests, before.tokens, before.money

    def take(self, estimate: Estimate) -> str | None:
        """Set aside what a request may use.

        Returns:
            None, or the name of the limit that it would break; nothing is set aside then.
        """
        tokens, money = self._size(estimate.prompt_tokens, estimate.completion_tokens)
        for name, used, more, limit in (
            ("requests", self._requests, 1, self._limits.requests),
            ("tokens", self._tokens, tokens, self._limits.tokens),
            ("money", self._money, money, self._limits.money),
        ):
            if limit is not None and used + more > limit:
                return name
        self._requests, self._tokens, self._money = self._requests + 1, self._tokens + tokens, self._money + money
        return None

    def settle(self, estimate: Estimate, prompt_tokens: int, completion_tokens: int) -> float:
        """Put what a request did use in place of its estimate; returns its cost."""
        aside, set_aside = self._size(estimate.prompt_tokens, estimate.completion_tokens)
        tokens, money = self._size(prompt_tokens, completion_tokens)
        self._tokens += tokens - aside
        self._money += money - set_aside
        return money

    def _size(self, prompt_tokens: int, completion_tokens: int) -> tuple[int, float]:
        return prompt_tokens + completion_tokens, self._prices.cost(prompt_tokens, completion_tokens)
