"""Runs with participants."""

import torch
from torch import Tensor

from interp.attention.participants import Participant
from interp.attention.session import watch
from interp.interventions.capture_heads import CaptureHeads
from interp.model.model import Model


def logits_with(model: Model, tokens: Tensor, *participants: Participant) -> Tensor:
    with torch.no_grad(), watch(model, *participants):
        return model(tokens)


def heads_of(model: Model, tokens: Tensor, *participants: Participant) -> dict[int, Tensor]:
    """z of every layer."""
    reader = CaptureHeads()
    logits_with(model, tokens, *participants, reader)
    return reader.z
