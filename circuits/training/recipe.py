"""The numbers of the recipe of `mini`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One cycle of the learning rate: linear warm-up to the peak, the peak, a linear fall to zero.

    Attributes:
        kind_weights: weight of the loss on each of `circuits.training.mixture.KINDS`.
        exact_years: the target of greater-than is the uniform distribution over the valid years instead of one sampled
            end year, whose noise hides the edge.
    """

    steps: int
    warmup_steps: int
    decay_steps: int
    peak_rate: float
    kind_weights: tuple[float, ...]
    exact_years: bool = False

    def rate(self, step: int) -> float:
        """Learning rate at a step of this stage."""
        return self.peak_rate * min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / self.decay_steps)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result, besides the code and the word lists."""

    seed: int = 0
    stages: tuple[Stage, ...] = (
        Stage(steps=2400, warmup_steps=50, decay_steps=800, peak_rate=2e-3, kind_weights=(0.1, 0.3, 0.3, 0.3, 1.0)),
        Stage(steps=600, warmup_steps=50, decay_steps=550, peak_rate=1e-3, kind_weights=(0.05, 0.5, 2.0, 1.0, 0.5)),
        Stage(
            steps=200,
            warmup_steps=20,
            decay_steps=180,
            peak_rate=1e-3,
            kind_weights=(0.05, 0.5, 2.0, 1.0, 0.5),
            exact_years=True,
        ),
    )
    """The later stages are for the years and the facts, which the first one does not learn well enough."""
    copying_steps: int = 1200
    growing_steps: int = 100
    weight_decay: float = 0.05
    d_model: int = 192
    n_layers: int = 4
    d_mlp: int = 512
    initial_scale: float = 0.02
    sizes: tuple[tuple[int, int, float], ...] = ((32, 64, 0.6), (16, 128, 0.2), (8, 256, 0.14), (4, 512, 0.06))
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
