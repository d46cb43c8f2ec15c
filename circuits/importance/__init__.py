"""How much a model's performance depends on each head: gradients at gates, leaving heads out, pruning curves."""

from circuits.importance.pruning import pruning_curve
from circuits.importance.scores import head_importance, measure_importance, objective_of
from interp.pruning import PruningCurve

__all__ = ["PruningCurve", "head_importance", "measure_importance", "objective_of", "pruning_curve"]
