"""The analyzers: a literal list, found by name."""

from __future__ import annotations

from collections.abc import Sequence

from interp.analyzers.analyzer import Analyzer
from interp.analyzers.cmr import CmrDistance
from interp.analyzers.distant_mass import DistantMass
from interp.analyzers.local_heads import LocalHeads
from interp.analyzers.massive_activations import MassiveActivations
from interp.analyzers.matching import DuplicateToken, Induction
from interp.analyzers.patch_distance import PatchDistance
from interp.analyzers.positional import Entropy, FirstTokenMass, PreviousToken
from interp.analyzers.received import ReceivedMass
from interp.analyzers.rhythm import FutureInfluence, WindowedDistance
from interp.analyzers.shape import DelimiterMass, DiagonalOffset, LocalMass, MeanDistance, NormalisedEntropy
from interp.analyzers.sinks import Sinks, SinkTokens
from interp.analyzers.visual_sinks import VisualSinks
from interp.errors import InputError
from interp.model.model import Model

ANALYZERS: tuple[type[Analyzer], ...] = (
    FirstTokenMass,
    PreviousToken,
    DuplicateToken,
    Induction,
    CmrDistance,
    Entropy,
    NormalisedEntropy,
    MeanDistance,
    LocalMass,
    DiagonalOffset,
    DelimiterMass,
    WindowedDistance,
    FutureInfluence,
    ReceivedMass,
    Sinks,
    SinkTokens,
    MassiveActivations,
    VisualSinks,
    DistantMass,
    LocalHeads,
    PatchDistance,
)


def analyzer_named(name: str, model: Model | None = None) -> Analyzer:
    """An analyzer with its default parameters; for some they come from the model, such as the ids of delimiters."""
    found = {analyzer.name: analyzer for analyzer in ANALYZERS}
    if name not in found:
        raise InputError(f"There is no analyzer {name!r}. Choose from {', '.join(found)}.")
    return found[name].for_model(model)


def resolve(analyzers: Sequence[str | Analyzer], model: Model | None = None) -> list[Analyzer]:
    """Names and analyzers as analyzers, each name once."""
    resolved = [analyzer_named(a, model) if isinstance(a, str) else a for a in analyzers]
    names = [analyzer.name for analyzer in resolved]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not resolved or twice:
        problem = f"named twice: {', '.join(twice)}" if twice else "none given"
        raise InputError(f"Analyzers must be given once each; {problem}. Choose from {', '.join(known_names())}.")
    return resolved


def known_names(kind: str | None = None) -> list[str]:
    """Names of all analyzers, or of those that read a kind of attention."""
    return [analyzer.name for analyzer in ANALYZERS if kind is None or kind in analyzer.reads]
