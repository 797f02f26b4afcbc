"""What all sections of a recipe share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """A section: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


def config_fields(init: Callable[..., Any], filled_in: set[str]) -> dict[str, Any]:
    """Types and defaults of a configuration class, which has them in the one place.

    Args:
        init: its `__init__`.
        filled_in: arguments that a recipe does not set.
    """
    types = get_type_hints(init)
    parameters = inspect.signature(init).parameters
    left_out = filled_in | {"self", "kwargs"}
    return {name: (types[name], p.default) for name, p in parameters.items() if name not in left_out}
