"""Models and passes that the tests of the hook share."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from interp.model.model import Model
from tests.architectures import ARCHITECTURES, token_rows

ROWS = {row.name: row for row in ARCHITECTURES}
EXACT: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}


def fresh(name: str) -> Model:
    """A model of a row of the table that a test may change."""
    return Model(ROWS[name].build(), None, name=name)


@cache
def loaded(name: str) -> Model:
    """A model that tests share and leave as it is, probed once per process."""
    return fresh(name)


def ids(length: int = 12) -> Tensor:
    """Two rows of tokens."""
    return torch.tensor(token_rows((length, length)))


@torch.no_grad()
def logits(model: Model, tokens: Tensor, **kwargs: Any) -> Tensor:
    """Logits without a gradient."""
    return model.hf(input_ids=tokens, **kwargs).logits
