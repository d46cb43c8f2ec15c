"""The numbers of the recipe of `mini`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, besides the code and the word lists."""

    seed: int = 0
    steps: int = 4000
    peak_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 0.08
    d_model: int = 192
    n_layers: int = 4
    d_mlp: int = 512
    sizes: tuple[tuple[int, int, float], ...] = ((48, 64, 0.6), (24, 128, 0.2), (12, 256, 0.14), (6, 512, 0.06))
    kind_weights: tuple[float, ...] = (0.25, 1.0, 0.5, 1.0, 1.0)
    log_every: int = 50
    save_every: int = 250
