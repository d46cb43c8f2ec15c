"""From evidence to the role of a head: a pure function with documented thresholds.

Attention is judged by its *selectivity*, ``(attention - chance) / (1 - chance)``, where chance is the attention of a
head that looks everywhere alike: 0 at chance, 1 when all attention goes there. The first rule that holds gives the
role; "takes part" means that the interval of the causal effect excludes 0 and the effect is at least EFFECT:

    negative mover       takes part; END attends to the answer; its direct contribution lowers the answer
    name-mover-like      takes part; END attends to the answer, and more than to the wrong one, which also stands in the
                         prompt; its direct contribution raises the answer
    S-inhibition-like    takes part, for the better; END attends to the wrong one, more than to the answer; less than
                         half of its effect is direct, so it acts through other heads
    previous-token,      attends so on repeated random tokens; of several the most selective
    duplicate-token,
    induction
    retrieval            takes part, for the better; END attends to a named position, if to the wrong one, then with a
                         direct contribution that raises the answer (which has been brought there before)
    previous-token,      takes part; attends so between named positions of the task
    duplicate-token,
    induction
    other                none of these

Names end in "-like" where the paper's definition needs path patching, which this is not. Source of the roles: Wang et
al. 2022, arXiv 2211.00593; Olsson et al. 2022, arXiv 2209.11895; thresholds: this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from circuits.key_attention import Kind, TypeKind

Role = Literal[
    "negative mover",
    "name-mover-like",
    "S-inhibition-like",
    "previous-token",
    "duplicate-token",
    "induction",
    "retrieval",
    "other",
]

SELECTIVE = 0.25
"""Least selectivity that counts; the name movers of GPT-2 small attend 0.58 to the indirect object at chance 0.06."""
EFFECT = 0.02
"""Least causal effect that counts: 2 % of what the corruption does."""
DIRECT = 0.05
"""Least direct contribution that counts, as a share of the clean logit difference."""

TYPE_KINDS: Mapping[str, TypeKind] = {
    "previous-token": "previous",
    "duplicate-token": "duplicate",
    "induction": "induction",
}
TYPE_ROLES: Mapping[Kind, Role] = {
    "previous": "previous-token",
    "duplicate": "duplicate-token",
    "induction": "induction",
}


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Attention of a head somewhere: mean share in [0, 1], and the share it would have by chance."""

    label: str
    kind: Kind
    value: float
    chance: float

    @property
    def selectivity(self) -> float:
        """0 at chance, 1 for all attention, negative below chance."""
        return (self.value - self.chance) / (1 - self.chance) if self.chance < 1 else 0.0

    def __str__(self) -> str:
        return f"{self.label} {self.value:.2f} (chance {self.chance:.2f})"


@dataclass(frozen=True, kw_only=True)
class HeadEvidence:
    """Everything that is known of one head on one task.

    Attributes:
        effect, ci_low, ci_high: causal effect and its interval; NaN when not measured, as the interval of one prompt.
        direct: direct contribution to the logit difference, as a share of the clean one; NaN when unknown.
        from_end: attention from the answer position to the other named positions, by what stands there.
        random_types, task_types: attention that makes a head previous-token, duplicate-token or induction, on repeated
            random tokens and between named positions.
    """

    effect: float
    ci_low: float
    ci_high: float
    direct: float
    from_end: Sequence[Attention] = field(default=())
    random_types: Sequence[Attention] = field(default=())
    task_types: Sequence[Attention] = field(default=())

    @property
    def takes_part(self) -> bool:
        """Whether the causal effect is clearly not zero, and not tiny."""
        return abs(self.effect) >= EFFECT and (self.ci_low > 0 or self.ci_high < 0)


def role_of(evidence: HeadEvidence) -> tuple[Role, str]:
    """The role and one line with the numbers that it rests on.

    Example:
        >>> looks = Attention(label="previous-token", kind="previous", value=0.93, chance=0.04)
        >>> role_of(HeadEvidence(effect=0.2, ci_low=0.1, ci_high=0.3, direct=0.0, random_types=(looks,)))
        ('previous-token', 'previous-token 0.93 (chance 0.04)')
    """
    for rule in (_mover, _inhibition, _type, _retrieval, _type_in_task):
        found = rule(evidence)
        if found is not None:
            return found
    return "other", _nothing(evidence)


def _mover(evidence: HeadEvidence) -> tuple[Role, str] | None:
    answer, wrong = _strongest(evidence.from_end, "answer"), _strongest(evidence.from_end, "wrong")
    if answer is None or not evidence.takes_part or answer.selectivity < SELECTIVE:
        return None
    words = f"{answer}; direct {evidence.direct:+.2f} of the logit difference"
    if evidence.direct <= -DIRECT:
        return "negative mover", words
    if wrong is not None and evidence.direct >= DIRECT and answer.value > wrong.value:
        return "name-mover-like", words
    return None


def _inhibition(evidence: HeadEvidence) -> tuple[Role, str] | None:
    answer, wrong = _strongest(evidence.from_end, "answer"), _strongest(evidence.from_end, "wrong")
    if wrong is None or not evidence.takes_part or evidence.effect < 0 or wrong.selectivity < SELECTIVE:
        return None
    if (answer is not None and answer.value >= wrong.value) or not abs(evidence.direct) < evidence.effect / 2:
        return None
    return "S-inhibition-like", f"{wrong}; effect {evidence.effect:+.2f}, direct {evidence.direct:+.2f}"


def _type(evidence: HeadEvidence) -> tuple[Role, str] | None:
    role = _most_selective(evidence.random_types)
    if role is None:
        return None
    same = [look for look in evidence.task_types if look.kind == role.kind and look.selectivity >= SELECTIVE]
    return TYPE_ROLES[role.kind], "; ".join(map(str, (role, *same)))


def _type_in_task(evidence: HeadEvidence) -> tuple[Role, str] | None:
    role = _most_selective(evidence.task_types)
    if role is None or not evidence.takes_part:
        return None
    return TYPE_ROLES[role.kind], f"{role}; effect {evidence.effect:+.2f}"


def _retrieval(evidence: HeadEvidence) -> tuple[Role, str] | None:
    raises = evidence.direct >= DIRECT
    best = _most_selective([look for look in evidence.from_end if look.kind != "wrong" or raises])
    if best is None or not evidence.takes_part or evidence.effect < 0:
        return None
    return "retrieval", f"{best}; effect {evidence.effect:+.2f}, direct {evidence.direct:+.2f}"


def _nothing(evidence: HeadEvidence) -> str:
    if evidence.effect != evidence.effect:
        return "not measured"
    looks = [*evidence.from_end, *evidence.random_types]
    if evidence.ci_low != evidence.ci_low:
        return f"effect {evidence.effect:+.3f}; one prompt has no interval"
    if not evidence.takes_part:
        return f"effect {evidence.effect:+.3f} ({evidence.ci_low:+.3f} to {evidence.ci_high:+.3f}) is not clearly one"
    if not looks:
        return f"effect {evidence.effect:+.2f}; no attention was measured"
    return f"effect {evidence.effect:+.2f}; most selective: {max(looks, key=lambda look: look.selectivity)}"


def _most_selective(looks: Sequence[Attention]) -> Attention | None:
    """The most selective one, if that is selective enough to count."""
    best = max(looks, key=lambda look: look.selectivity, default=None)
    return best if best is not None and best.selectivity >= SELECTIVE else None


def _strongest(looks: Sequence[Attention], kind: Kind) -> Attention | None:
    """The most attended place of a kind; None where the task has no such place."""
    return max((look for look in looks if look.kind == kind), key=lambda look: look.value, default=None)
