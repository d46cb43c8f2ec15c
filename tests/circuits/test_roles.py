"""Every role from evidence made by hand, and the border cases between them."""

import math

import pytest

from circuits.roles import DIRECT, EFFECT, SELECTIVE, Attention, HeadEvidence, role_of


def look(label: str, kind: str, value: float, chance: float = 0.05) -> Attention:
    return Attention(label=label, kind=kind, value=value, chance=chance)  # type: ignore[arg-type]


def evidence(effect: float = 0.2, direct: float = 0.0, **looks: list[Attention]) -> HeadEvidence:
    """A head whose effect is clear."""
    return HeadEvidence(effect=effect, ci_low=effect - 0.01, ci_high=effect + 0.01, direct=direct, **looks)


def ioi(answer: float = 0.05, wrong: float = 0.05) -> list[Attention]:
    """Attention from END in indirect object identification."""
    return [look("END->IO", "answer", answer), look("END->S1", "wrong", 0.05), look("END->S2", "wrong", wrong)]


def test_selectivity_is_zero_at_chance_and_one_for_everything() -> None:
    assert look("x", "answer", 0.05).selectivity == 0
    assert look("x", "answer", 1.0).selectivity == 1
    assert look("x", "answer", 0.0).selectivity < 0


@pytest.mark.parametrize(
    ("role", "given"),
    [
        ("name-mover-like", evidence(direct=0.4, from_end=ioi(answer=0.58))),
        ("negative mover", evidence(effect=-0.2, direct=-0.4, from_end=ioi(answer=0.58))),
        ("negative mover", evidence(effect=0.2, direct=-0.4, from_end=ioi(answer=0.58))),
        ("S-inhibition-like", evidence(from_end=ioi(wrong=0.5))),
        ("previous-token", evidence(random_types=[look("previous-token", "previous", 0.9)])),
        ("duplicate-token", evidence(random_types=[look("duplicate-token", "duplicate", 0.9)])),
        ("induction", evidence(random_types=[look("induction", "induction", 0.9)])),
        ("duplicate-token", evidence(task_types=[look("S2->S1", "duplicate", 0.9)])),
        ("retrieval", evidence(from_end=[look("END->SUBJECT", "content", 0.9)])),
        ("retrieval", evidence(direct=0.5, from_end=[look("END->fact", "answer", 0.9)])),
        ("other", evidence(from_end=ioi())),
        ("other", evidence()),
    ],
)
def test_every_role(role: str, given: HeadEvidence) -> None:
    assert role_of(given)[0] == role


def test_the_justification_has_the_numbers() -> None:
    _, because = role_of(evidence(direct=0.41, from_end=ioi(answer=0.58)))
    assert because == "END->IO 0.58 (chance 0.05); direct +0.41 of the logit difference"
    _, because = role_of(evidence(effect=0.35, direct=0.01, from_end=ioi(wrong=0.5)))
    assert because == "END->S2 0.50 (chance 0.05); effect +0.35, direct +0.01"
    _, because = role_of(evidence(effect=0.2, from_end=ioi()))
    assert "+0.20" in because


def test_the_strongest_type_wins_and_names_what_agrees_with_it() -> None:
    both = evidence(
        random_types=[look("duplicate-token", "duplicate", 0.4), look("induction", "induction", 0.8)],
        task_types=[look("S2->S1+1", "induction", 0.6)],
    )
    role, because = role_of(both)
    assert role == "induction"
    assert because == "induction 0.80 (chance 0.05); S2->S1+1 0.60 (chance 0.05)"


def test_a_head_without_effect_keeps_its_type_but_gets_no_part_in_the_task() -> None:
    idle = HeadEvidence(
        effect=0.0, ci_low=-0.1, ci_high=0.1, direct=0.5, from_end=ioi(answer=0.9),
        random_types=[look("previous-token", "previous", 0.9)], task_types=[look("S2->S1", "duplicate", 0.95)],
    )  # fmt: skip
    assert role_of(idle)[0] == "previous-token"


def test_what_end_reads_goes_before_types_seen_in_the_task_alone() -> None:
    both = {"from_end": ioi(wrong=0.9), "task_types": [look("S1+1->S1", "previous", 0.95)]}
    assert role_of(evidence(effect=0.1, direct=0.08, **both))[0] == "retrieval"
    assert role_of(evidence(effect=0.1, direct=0.08, task_types=both["task_types"]))[0] == "previous-token"
    random = [look("previous-token", "previous", 0.9)]
    assert role_of(evidence(effect=0.1, direct=0.08, **both, random_types=random))[0] == "previous-token"


def test_attention_to_both_names_is_not_moving_one_of_them() -> None:
    assert role_of(evidence(direct=0.4, from_end=ioi(answer=0.4, wrong=0.5)))[0] != "name-mover-like"


def test_a_head_that_writes_the_answer_itself_is_no_inhibition() -> None:
    """What it reads at the wrong name has been brought there by other heads."""
    role, because = role_of(evidence(effect=0.1, direct=0.08, from_end=ioi(wrong=0.9)))
    assert role == "retrieval"
    assert because == "END->S2 0.90 (chance 0.05); effect +0.10, direct +0.08"
    assert role_of(evidence(effect=0.1, direct=0.04, from_end=ioi(wrong=0.9)))[0] == "S-inhibition-like"
    assert role_of(evidence(effect=0.06, direct=0.04, from_end=ioi(wrong=0.9)))[0] == "other"


def test_attention_to_the_answer_more_than_to_the_wrong_one_is_no_inhibition() -> None:
    assert role_of(evidence(from_end=ioi(answer=0.4, wrong=0.35)))[0] == "retrieval"


def test_unknown_direct_contributions_make_no_mover() -> None:
    assert role_of(evidence(direct=math.nan, from_end=ioi(answer=0.9)))[0] == "retrieval"


def test_unmeasured_heads_are_other() -> None:
    nothing = HeadEvidence(effect=math.nan, ci_low=math.nan, ci_high=math.nan, direct=math.nan)
    assert role_of(nothing) == ("other", "not measured")


@pytest.mark.parametrize("below", [0.99, 1.01])
def test_thresholds_are_where_they_are_documented(below: float) -> None:
    chance = 0.05
    value = chance + SELECTIVE * below * (1 - chance)
    found = role_of(evidence(effect=EFFECT, direct=DIRECT, from_end=ioi(answer=value)))[0]
    assert (found == "name-mover-like") == (below > 1)
    clear = HeadEvidence(effect=EFFECT * below, ci_low=0.001, ci_high=0.1, direct=DIRECT, from_end=ioi(answer=0.9))
    assert (role_of(clear)[0] == "name-mover-like") == (below > 1)
