"""The numbers of the recipe of `mini-sinks`, and of the controls in its card."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from circuits.training.recipe import Stage


@dataclass(frozen=True, kw_only=True)
class SinksRecipe:
    """Everything that decides the result, besides the code and the words.

    Attributes:
        copies: as in `circuits.training.sinks.process.Process`.
        lengths: tokens of a row; the steps take them in turn, with as many rows as make `batch` tokens.
        initial_scale: standard deviation of the random weights.
        kept_steps: after which steps the heads are measured, for the curves of their emergence.
    """

    seed: int = 1
    copies: bool = True
    steps: int = 3000
    warmup_steps: int = 50
    decay_steps: int = 1000
    peak_rate: float = 1e-2
    weight_decay: float = 0.0
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    batch: int = 1024
    n_layers: int = 1
    n_heads: int = 4
    d_model: int = 32
    d_mlp: int = 64
    initial_scale: float = 0.05
    kept_steps: tuple[int, ...] = (100, 200, 300, 400, 600, 800, 1000, 1300, 1600, 2000, 2500, 3000)
    log_every: int = 50

    @property
    def stage(self) -> Stage:
        """The one cycle of the learning rate."""
        return Stage(
            steps=self.steps,
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
            peak_rate=self.peak_rate,
        )


RECIPE = SinksRecipe()
NO_COPIES = "triggers bring nothing back"
CONTROLS: Mapping[str, SinksRecipe] = {
    NO_COPIES: replace(RECIPE, copies=False),
    "weight decay 0.1": replace(RECIPE, weight_decay=0.1),
    "seed 2": replace(RECIPE, seed=2),
    "seed 3": replace(RECIPE, seed=3),
}
"""Trained alike but for one difference, and measured for the card; they are not kept."""
