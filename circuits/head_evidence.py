"""Everything that is measured of every head beside its causal effect, and the roles that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from circuits.direct_logit import DirectLogits, direct_logits
from circuits.effects import HeadEffects
from circuits.head_types import head_types
from circuits.key_attention import KeyPair, Kind, key_attention, key_pairs
from circuits.roles import TYPE_KINDS, Attention, HeadEvidence, role_of
from circuits.study import Study
from interp.results import HeadScores
from interp.statistics import layer_controls


@dataclass(frozen=True, kw_only=True, eq=False)
class EvidenceTable:
    """Evidence on every head.

    Attributes:
        pairs: pairs of named positions.
        attention: mean attention between them, `[layer, head]` by label.
        types: previous-token, duplicate-token and induction scores on repeated random tokens.
        direct: direct logit attribution.
    """

    effects: HeadEffects
    pairs: list[KeyPair]
    attention: Mapping[str, Float[Tensor, "layer head"]]
    types: Mapping[str, HeadScores]
    direct: DirectLogits
    answer_position: str

    @classmethod
    def gather(cls, study: Study, effects: HeadEffects) -> EvidenceTable:
        """Run the model once for each kind of evidence."""
        model, task, prompts = study.model, study.task, study.prompts
        pairs = key_pairs(task, prompts)
        return cls(
            effects=effects,
            pairs=pairs,
            attention=key_attention(model, task, prompts, pairs, batch_size=study.batch_size),
            types=head_types(model, seed=study.seed, progress=study.progress),
            direct=direct_logits(model, task, prompts, batch_size=study.batch_size),
            answer_position=task.answer_position,
        )

    @property
    def direct_mean(self) -> Float[Tensor, "layer head"]:
        """Mean direct contribution in nats."""
        return self.direct.heads.double().mean(-1)

    @property
    def direct_share(self) -> Float[Tensor, "layer head"]:
        """Mean direct contribution as a share of the magnitude of the clean logit difference."""
        return self.direct_mean / self.direct.total.double().mean().abs()

    def columns(self) -> dict[str, Float[Tensor, "layer head"]]:
        """The numbers by name, as they stand in the result."""
        layer_mean, layer_rank = layer_controls(self.effects.effect)
        return {
            "noising": self.effects.noising.float(),
            "denoising": self.effects.denoising.float(),
            "layer mean": layer_mean.float(),
            "layer rank": layer_rank.float(),
            "direct logit": self.direct_mean.float(),
            **self.attention,
            **{name: scores.scores.float() for name, scores in self.types.items()},
        }

    def chances(self) -> dict[str, dict[str, float]]:
        """What a head that looks everywhere alike would have in the columns of attention."""
        attention = {pair.label: pair.chance for pair in self.pairs}
        types = {name: float(scores.chances.nanmean()) for name, scores in self.types.items()}
        return {"attention chance": attention, "type chance": types}

    def labels(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Role and evidence of every head, layer by layer."""
        n_layers, n_heads = self.effects.effect.shape
        found = [[role_of(self._of(layer, head)) for head in range(n_heads)] for layer in range(n_layers)]
        return {
            "role": tuple(tuple(role for role, _ in row) for row in found),
            "evidence": tuple(tuple(reason for _, reason in row) for row in found),
        }

    def _of(self, layer: int, head: int) -> HeadEvidence:
        def at(values: Tensor) -> float:
            return float(values[layer, head])

        def look(pair: KeyPair, kind: Kind) -> Attention:
            return Attention(label=pair.label, kind=kind, value=at(self.attention[pair.label]), chance=pair.chance)

        return HeadEvidence(
            effect=at(self.effects.effect),
            ci_low=at(self.effects.ci_low),
            ci_high=at(self.effects.ci_high),
            direct=at(self.direct_share),
            from_end=[look(pair, pair.reads) for pair in self.pairs if pair.query == self.answer_position],
            random_types=[
                Attention(label=name, kind=TYPE_KINDS[name], value=at(scores.scores), chance=at(scores.chances))
                for name, scores in self.types.items()
            ],
            task_types=[look(pair, kind) for pair in self.pairs for kind in pair.types],
        )
