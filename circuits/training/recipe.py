"""The numbers of the recipe of `mini`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, besides the code and the word lists."""

    seed: int = 0
    steps: int = 1400
    decay_steps: int = 400
    """The rate falls to zero over the last steps; before, nothing depends on how many steps there are in all."""
    warmup_steps: int = 100
    copying_steps: int = 500
    growing_steps: int = 1000
    peak_rate: float = 2e-3
    weight_decay: float = 0.05
    d_model: int = 192
    n_layers: int = 4
    d_mlp: int = 512
    initial_scale: float = 0.06
    sizes: tuple[tuple[int, int, float], ...] = ((32, 64, 0.6), (16, 128, 0.2), (8, 256, 0.14), (4, 512, 0.06))
    kind_weights: tuple[float, ...] = (0.08, 0.3, 0.15, 0.3, 1.0)
    log_every: int = 25
    save_every: int = 250
