"""Text to batches: BOS, padding and its sides, and the text of single tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from interp.errors import InputError
from interp.model.load import load
from interp.model.model import Model
from interp.model.tokens import TokenBatch, adds_bos, encode, pad, str_tokens
from interp.stimuli import repeated_tokens
from tests.attention.models import ids, loaded
from tests.model.checkpoints import LLAMA, word_tokenizer


@pytest.fixture(scope="module")
def model() -> Model:
    return load(LLAMA.build(), word_tokenizer())


def test_padding_on_either_side() -> None:
    right = pad([[4, 5, 6], [7]], pad_id=0, padding_side="right", prepend_bos=False)
    left = pad([[4, 5, 6], [7]], pad_id=0, padding_side="left", prepend_bos=False)
    assert right.tokens.tolist() == [[4, 5, 6], [7, 0, 0]] and right.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert left.tokens.tolist() == [[4, 5, 6], [0, 0, 7]] and left.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert (right.padding_side, left.padding_side) == ("right", "left")
    assert len(left) == 2


@pytest.mark.parametrize("side", ["left", "right"])
def test_selected_rows_lose_the_padding_that_none_of_them_needs(side: Any) -> None:
    batch = pad([[7], [8, 9], [4, 5, 6]], pad_id=0, padding_side=side, prepend_bos=True)
    first, rows = batch.select(slice(0, 2)), batch.select(torch.tensor([1, 0]))
    wanted = [[7, 0], [8, 9]] if side == "right" else [[0, 7], [8, 9]]
    assert first.tokens.tolist() == wanted and rows.tokens.tolist() == wanted[::-1]
    assert first.mask.tolist() == [[int(token > 0) for token in row] for row in wanted]
    assert first.prepend_bos and first.padding_side == side


def test_rows_of_one_length_are_not_padded() -> None:
    batch = pad([[4, 5], [6, 7]], pad_id=0, padding_side="left", prepend_bos=True)
    assert batch.padding_side is None and batch.prepend_bos


@pytest.mark.parametrize(
    ("bos_habit", "prepend_bos", "expected", "starts"),
    [
        (True, None, [1, 4, 5], True),
        (True, True, [1, 4, 5], True),
        (True, False, [4, 5], False),
        (False, None, [4, 5], False),
        (False, True, [1, 4, 5], True),
        (False, False, [4, 5], False),
    ],
)
def test_bos_follows_the_tokenizer_unless_told(
    bos_habit: bool, prepend_bos: bool | None, expected: list[int], starts: bool
) -> None:
    tokenizer = word_tokenizer(bos_habit=bos_habit)
    batch = encode(tokenizer, ["then mary"], prepend_bos=prepend_bos)
    assert adds_bos(tokenizer) == bos_habit
    assert batch.tokens.tolist() == [expected] and batch.prepend_bos == starts


def test_eos_stands_in_for_a_missing_bos() -> None:
    batch = encode(word_tokenizer(bos=False), ["then"], prepend_bos=True)
    assert batch.tokens.tolist() == [[2, 4]]


def test_bos_without_any_candidate_is_refused() -> None:
    tokenizer = word_tokenizer(bos=False)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="the tokenizer has neither BOS nor EOS"):
        encode(tokenizer, ["then"], prepend_bos=True)


def test_eos_stands_in_for_a_missing_padding_token() -> None:
    batch = encode(word_tokenizer(pad=False), ["then mary", "then"], padding_side="left")
    assert batch.tokens.tolist() == [[1, 4, 5], [2, 1, 4]] and batch.mask.tolist() == [[1, 1, 1], [0, 1, 1]]


def test_a_prompt_that_is_no_text_is_refused(unchecked_annotations: None) -> None:
    with pytest.raises(InputError, match="A prompt is a int; expected text"):
        encode(word_tokenizer(), [3])  # type: ignore[list-item]


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="A prompt is empty"):
        encode(word_tokenizer(), ["then", text])


# --- Model.batch and its kin -------------------------------------------------------------------------------------


def test_everything_that_describes_sequences_becomes_a_batch(model: Model) -> None:
    row = torch.tensor([1, 4, 5])
    for inputs in ("then mary", ["then mary"], row, row[None], TokenBatch(row[None], torch.ones(1, 3).long(), True)):
        batch = model.batch(inputs)
        assert batch.tokens.tolist() == [[1, 4, 5]] and batch.mask.tolist() == [[1, 1, 1]]
        assert batch.prepend_bos and batch.padding_side is None


def test_token_rows_of_different_lengths_are_padded(model: Model) -> None:
    batch = model.pad([[1, 4, 5], [1, 6]], padding_side="left")
    assert batch.tokens.tolist() == [[1, 4, 5], [0, 1, 6]] and batch.prepend_bos
    assert not model.pad([[1, 4, 5], [6]]).prepend_bos


def test_forward_inputs_carry_a_mask_only_where_something_is_padded(model: Model) -> None:
    rows = [[1, 4, 5], [1, 6]]
    assert set(model.forward_inputs(model.batch("then mary"))) == {"input_ids"}
    assert set(model.forward_inputs(model.pad(rows))) == {"input_ids", "attention_mask"}
    left = model.forward_inputs(model.pad(rows, padding_side="left"))
    assert left["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]]


def test_padded_positions_of_roberta_hold_its_own_padding_token() -> None:
    roberta = loaded("roberta")
    batch = TokenBatch(torch.tensor([[4, 5, 6], [50, 7, 8]]), torch.tensor([[1, 1, 1], [0, 1, 1]]), False)
    assert roberta.forward_inputs(batch)["input_ids"].tolist() == [[4, 5, 6], [1, 7, 8]]


def test_texts_of_different_lengths_have_no_plain_tensor(model: Model) -> None:
    assert model.to_tokens(["then mary", "gave ring"]).shape == (2, 3)
    with pytest.raises(InputError, match="a plain token tensor cannot say what is padding. Use model.batch"):
        model.to_tokens(["then mary", "then"])


def test_generation_continues_every_text_of_a_padded_batch(model: Model) -> None:
    texts = ["then mary gave a ring", "then john"]
    together = model.generate(texts, max_new_tokens=4, eos_token_id=-1)
    for row, text in zip(together, texts, strict=True):
        alone = model.generate(text, max_new_tokens=4, eos_token_id=-1)[0]
        assert row[-4:].tolist() == alone[-4:].tolist()


def test_generation_from_a_batch_padded_on_the_wrong_side_is_refused(model: Model) -> None:
    batch = model.batch(["then mary gave", "then"], padding_side="right")
    with pytest.raises(InputError, match="needs padding on the left. Use model.batch"):
        model.generate(batch)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("bert", {}, "bert cannot generate text"), ("llama", {"num_beams": 2}, "Use num_beams=1")],
)
def test_generation_that_cannot_be_followed_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(name).generate(ids(), **options)


# --- text of single tokens ---------------------------------------------------------------------------------------


def test_str_tokens_give_one_text_per_token(model: Model) -> None:
    assert [text.strip() for text in model.to_str_tokens("then mary")] == ["<bos>", "then", "mary"]
    assert [text.strip() for text in model.to_str_tokens(torch.tensor([5, 7]))] == ["mary", "a"]


def test_str_tokens_of_a_sentencepiece_tokenizer_keep_their_leading_space(stories260k: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories260k)
    text = "Once upon a time there was a girl"
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    texts = str_tokens(tokenizer, tokens)
    assert len(texts) == len(tokens)
    assert "".join(texts).strip() == text


def test_a_result_says_when_the_text_has_words_that_the_model_does_not_know(model: Model) -> None:
    tokenizer = model.tokenizer
    known, unknown = [i for i in range(len(tokenizer)) if i != tokenizer.unk_token_id][5:9], tokenizer.unk_token_id
    assert model.provenance([model.batch(torch.tensor([known]))]).warnings == ()
    (sentence,) = model.provenance([model.batch(torch.tensor([[*known[:3], unknown]]))]).warnings
    assert sentence.startswith("25% of the tokens are words that") and sentence.endswith(f"({tokenizer.unk_token})")
    nothing = model.provenance([])
    assert (nothing.prompt_hash, nothing.prepend_bos, nothing.warnings) == (None, None, ())


def test_one_text_is_not_enough_for_an_encoder_decoder() -> None:
    model = loaded("t5")
    batch = model.batch(ids())
    with pytest.raises(InputError, match=r"t5 is an encoder-decoder.*Use a model with one stack, or give decoder_"):
        model(batch)
    assert model(batch, decoder_input_ids=ids()[:, :3]).shape[1] == 3


def test_a_model_of_pictures_reads_no_text() -> None:
    model = loaded("vit")
    for read in (lambda: model.batch("a dog"), lambda: model.batch(ids()), lambda: repeated_tokens(model, seed=0)):
        with pytest.raises(InputError, match="vit reads pictures and no text. Use a model of text"):
            read()
