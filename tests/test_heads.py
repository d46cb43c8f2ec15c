"""Head names: every accepted spelling, every refusal, the order."""

import numpy as np
import pytest

from interp.errors import InputError
from interp.heads import HeadRef, parse_heads


@pytest.mark.parametrize(
    "spelling",
    ["9.6", "L9H6", "l9h6", "a9.h6", "A9.H6", " L9H6 ", "L09H06", (9, 6), [9, 6], (9, 6, ""), HeadRef(9, 6)],
)
def test_every_spelling_gives_the_same_head(spelling: object) -> None:
    assert HeadRef.parse(spelling) == HeadRef(layer=9, head=6)


def test_numpy_indices_become_python_integers() -> None:
    head = HeadRef.parse((np.int64(3), np.int64(4)))
    assert head == HeadRef(3, 4)
    assert type(head.layer) is type(head.head) is int


@pytest.mark.parametrize(("text", "stack"), [("EL0H1", "E"), ("dl0h1", "D")])
def test_stacks_of_encoder_decoder_models(text: str, stack: str) -> None:
    head = HeadRef.parse(text)
    assert head == HeadRef(0, 1, stack)
    assert head.label == text.upper()


def test_labels_print_and_read_back() -> None:
    for head in (HeadRef(0, 0), HeadRef(11, 10), HeadRef(3, 2, "E")):
        assert str(head) == f"{head}" == repr(head) == head.label
        assert HeadRef.parse(head.label) == head


@pytest.mark.parametrize(
    "value",
    ["", "9", "9.", ".6", "-1.3", "L-1H3", "9.6.1", "9,6", "H6L9", "x9.h6", "XL9H6", "L9H6x", "L²H1"]
    + [(9,), (9, 6, 1), (-1, 3), (1, -3), (1.0, 2), (True, 2), ("9", "6"), (9, 6, "X"), 9, None, 9.6],
)
def test_anything_else_is_refused_in_one_sentence(value: object) -> None:
    with pytest.raises(InputError, match="does not name an attention head.*write it as 'L9H6', '9.6' or") as caught:
        HeadRef.parse(value)
    assert repr(value) in str(caught.value)


def test_order_is_layer_then_head() -> None:
    assert sorted([HeadRef(10, 0), HeadRef(2, 5), HeadRef(2, 1)]) == [HeadRef(2, 1), HeadRef(2, 5), HeadRef(10, 0)]


@pytest.mark.parametrize("value", ["9.6,9.9", "9.6 9.9", "L9H6, a9.h9", ["9.6", (9, 9)], "9.6,9.9,9.6", "9.6,9.9,"])
def test_lists_of_heads_keep_their_order_and_drop_repeats(value: str | list[object]) -> None:
    assert parse_heads(value) == [HeadRef(9, 6), HeadRef(9, 9)]


def test_one_head_is_a_list_of_one() -> None:
    assert parse_heads(HeadRef(1, 2)) == parse_heads("1.2") == [HeadRef(1, 2)]


@pytest.mark.parametrize("value", ["", " , ", []])
def test_an_empty_list_is_refused(value: str | list[object]) -> None:
    with pytest.raises(InputError, match="list of heads is empty"):
        parse_heads(value)


def test_a_bad_entry_in_a_list_is_named() -> None:
    with pytest.raises(InputError, match="'9-6' does not name"):
        parse_heads("9.6,9-6")
