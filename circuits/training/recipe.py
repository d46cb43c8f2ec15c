"""The numbers of the recipe of `mini`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

OTHER_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One cycle of the learning rate: linear warm-up to the peak, the peak, a linear fall to zero.

    Attributes:
        weights: weight of the loss on kinds of target (`circuits.training.mixture.KINDS`); `OTHER_WEIGHT` for those
            not named.
        exact_years: the target of greater-than is the uniform distribution over the valid years instead of one sampled
            end year, whose noise hides the edge.
        head_price: weight of the number of heads that write (`circuits.training.head_price`), which is paid beside the
            loss so that the mechanisms gather in few heads.
    """

    steps: int
    warmup_steps: int
    decay_steps: int
    peak_rate: float
    weights: Mapping[str, float] = field(default_factory=dict)
    exact_years: bool = False
    head_price: float = 0.0

    def weight(self, kind: str) -> float:
        """Weight of the loss on one kind of target."""
        return self.weights.get(kind, OTHER_WEIGHT)

    def rate(self, step: int) -> float:
        """Learning rate at a step of this stage."""
        return self.peak_rate * min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / self.decay_steps)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, besides the code and the word lists."""

    seed: int = 0
    stages: tuple[Stage, ...] = (
        Stage(steps=900, warmup_steps=50, decay_steps=1, peak_rate=3e-3, weights={"induction": 1.0}),
        Stage(steps=4200, warmup_steps=20, decay_steps=2000, peak_rate=3e-3, head_price=1.5),
        Stage(
            steps=1500,
            warmup_steps=20,
            decay_steps=1480,
            peak_rate=1e-3,
            weights={"other": 0.1, "greater-than": 2.0, "relations": 2.0, "induction": 1.0, "needle-list": 1.0},
            exact_years=True,
            head_price=1.5,
        ),
    )
    copying_steps: int = 800
    growing_steps: int = 100
    weight_decay: float = 0.05
    d_model: int = 96
    d_head: int = 16
    rope_theta: float = 1e8
    n_layers: int = 4
    d_mlp: int = 192
    initial_scale: float = 0.02
    sizes: tuple[tuple[int, int, float], ...] = ((24, 88, 0.5), (8, 256, 0.2), (4, 512, 0.3))
    kept_steps: tuple[int, ...] = (100, 200, 400, 600, 700, 800, 900, 1100, 1400, 1900, 2700, 4000, 6600)
    log_every: int = 25
    save_every: int = 50

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step, and the step within it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"the recipe has {self.steps} steps")


RECIPES = {"mini": Recipe(seed=1), "mini-b": Recipe(seed=2)}
"""The embedded language models."""
