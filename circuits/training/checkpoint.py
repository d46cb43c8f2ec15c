"""Saving and resuming a training run without pickle: tensors in safetensors, numbers in JSON."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Write weights, AdamW moments and `progress` (with its "step"); a stop in the middle leaves the old file."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment].contiguous()
    save_file(tensors, folder / "new.safetensors", metadata={"progress": json.dumps(progress)})
    (folder / "new.safetensors").replace(folder / "checkpoint.safetensors")
    (folder / "progress.json").write_text(json.dumps(progress, indent=1), encoding="utf-8")


def load_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Restore what `save_checkpoint` wrote and return its progress, or None if there is no checkpoint."""
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight/{name}"])
            state = {moment: tensors[f"{moment}/{name}"] for moment in MOMENTS}
            optimizer.state[parameter] = state | {"step": torch.tensor(float(progress["step"]))}
    return progress
