"""Settings of every test: one thread, fixed seeds, no network, and the shared real model.

This file must not import the packages under test: pytest checks their shape annotations by an import hook
that is set up after this file is read.
"""

import os

# Read by huggingface_hub, transformers and OpenMP when they are first imported.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="disabled",
)

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from jaxtyping import config as jaxtyping_config

if TYPE_CHECKING:
    from interp.provenance import Provenance

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked `network` out unless `-m` names the marker."""
    if "network" in str(config.getoption("markexpr")):
        return
    skip = pytest.mark.skip(reason="needs the internet; choose it with -m network")
    for item in items:
        if "network" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """The same global random state at the start of every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def unchecked_annotations() -> Iterator[None]:
    """Shape annotations are not checked, as for users, so that the package's own refusals are reached."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """Directory of the real TinyStories model (5 layers x 8 heads, 4 KV heads) that lies beside the checkout."""
    directory = ROOT.parent / "shared" / "models" / "stories260k"
    if not directory.is_dir():
        pytest.skip(f"{directory} is not there; the real model lies outside the repository")
    return directory


@pytest.fixture
def provenance() -> "Provenance":
    """Where an invented result came from."""
    from interp.provenance import Provenance

    return Provenance(model="mini", seed=0, prepend_bos=True, padding_side="left")
