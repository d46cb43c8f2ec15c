"""A tiny model and tokens for it."""

import pytest
import torch
from torch import Tensor

from interp.model.model import Model
from tests.tiny_models import tiny_llama


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_llama()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def other_tokens() -> Tensor:
    return torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(2))
