"""From examples as text to tensors of tokens, for any fast tokenizer.

Words take part only where they are one token in their place: a named position is one token, and clean and corrupted
prompts line up. Examples for which this does not hold with the tokenizer at hand are left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks.prompts import TaskPrompts
from circuits.tasks.text import Example, SlotText, distinct
from interp.errors import InputError

ATTEMPTS_PER_PROMPT, MORE_ATTEMPTS = 20, 1000
"""How many examples are drawn before the task is taken to have no more: so many per prompt, and so many besides."""


@dataclass(frozen=True, kw_only=True)
class EncodedExample:
    """Tokens of one example, without BOS and padding."""

    example: Example
    clean: list[int]
    corrupted: list[int]
    answers: list[int]
    wrong: int
    positions: dict[str, int]


def encode_prompts(
    examples: Iterator[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: str,
    n: int,
    slots: Sequence[str],
    template_names: tuple[str, ...],
    prepend_bos: bool | None,
) -> TaskPrompts:
    """The first `n` distinct examples that this tokenizer can represent.

    Arguments:
        slots: named positions to find; a name such as "S1+1" is the token after the slot "S1", "END" the last token.
        prepend_bos: whether to put a BOS in front; None does as the tokenizer itself does.

    Raises:
        InputError: `n` is not positive, the tokenizer is not a fast one, or too few examples survive.
    """
    if n < 1:
        raise InputError(f"The number of prompts must be at least 1, got {n}.")
    if not tokenizer.is_fast:
        raise InputError("The tokenizer gives no character offsets; load the fast version (a tokenizer.json) of it.")
    kept: list[EncodedExample] = []
    attempts = islice(distinct(examples), ATTEMPTS_PER_PROMPT * n + MORE_ATTEMPTS)
    while len(kept) < n and (chunk := list(islice(attempts, n - len(kept)))):
        kept += [encoded for encoded in _encode_chunk(chunk, tokenizer, slots) if encoded]
    if len(kept) < n:
        raise InputError(
            f"Only {len(kept)} distinct {task} prompts of this split can be written with this tokenizer, {n} were "
            "asked for; ask for fewer, or use a model whose vocabulary has whole words."
        )
    return _to_tensors(kept, tokenizer, task, template_names, resolve_bos(tokenizer, prepend_bos))


def resolve_bos(tokenizer: PreTrainedTokenizerBase, prepend_bos: bool | None) -> bool:
    """Whether prompts get a BOS: as asked, or as the tokenizer does by itself.

    Raises:
        InputError: a BOS is asked for and the tokenizer has none.
    """
    if prepend_bos is None:
        ids = tokenizer("a")["input_ids"]
        return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    if prepend_bos and tokenizer.bos_token_id is None:
        raise InputError("The tokenizer has no BOS token; leave prepend_bos out or set it to False.")
    return prepend_bos


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the pad token, else EOS, else 0; padded places are masked."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if isinstance(i, int)), 0)


def _encode_chunk(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, slots: Sequence[str]
) -> Iterator[EncodedExample | None]:
    clean = [example.clean.text for example in examples]
    encoded = tokenizer(clean, add_special_tokens=False, return_offsets_mapping=True)
    corrupted = tokenizer([example.corrupted.text for example in examples], add_special_tokens=False)["input_ids"]
    answered = tokenizer([e.clean.text + e.answer + e.rest for e in examples], add_special_tokens=False)["input_ids"]
    mistaken = tokenizer([e.clean.text + e.wrong for e in examples], add_special_tokens=False)["input_ids"]
    for index, example in enumerate(examples):
        ids = encoded["input_ids"][index]
        positions = _positions(example.clean, encoded["offset_mapping"][index], slots)
        answers, wrong = _continuation(ids, answered[index]), _continuation(ids, mistaken[index])
        single = len(wrong) == 1 and (len(answers) == 1 or (example.rest and answers)) and answers[0] != wrong[0]
        aligned = len(corrupted[index]) == len(ids) and tokenizer.unk_token_id not in (*answers, *wrong, *ids)
        if positions is None or not single or not aligned:
            yield None
        else:
            yield EncodedExample(
                example=example,
                clean=ids,
                corrupted=corrupted[index],
                answers=answers,
                wrong=wrong[0],
                positions=positions,
            )


def _positions(text: SlotText, offsets: list[tuple[int, int]], slots: Sequence[str]) -> dict[str, int] | None:
    """Token position of each slot, or None if a slot is more than one token."""
    positions = {}
    for name in slots:
        slot, _, step = name.partition("+")
        if slot == "END":
            positions[name] = len(offsets) - 1
            continue
        start, end = text.spans[slot]
        covering = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
        if len(covering) != 1:
            return None
        positions[name] = covering[0] + int(step or 0)
    return positions


def _continuation(prompt: list[int], continued: list[int]) -> list[int]:
    """The tokens that the continuation adds, none if it changes the prompt's own tokens."""
    return continued[len(prompt) :] if continued[: len(prompt)] == prompt else []


def _to_tensors(
    kept: list[EncodedExample],
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    template_names: tuple[str, ...],
    prepend_bos: bool,
) -> TaskPrompts:
    lead = [tokenizer.bos_token_id] if prepend_bos else []
    shape = (len(kept), len(lead) + max(len(encoded.clean) for encoded in kept))
    clean = torch.full(shape, padding_token(tokenizer), dtype=torch.long)
    corrupted, mask = clean.clone(), torch.zeros(shape, dtype=torch.long)
    for row, encoded in enumerate(kept):
        length = len(lead) + len(encoded.clean)
        clean[row, :length] = torch.tensor(lead + encoded.clean)
        corrupted[row, :length] = torch.tensor(lead + encoded.corrupted)
        mask[row, :length] = 1
    return TaskPrompts(
        task=task,
        clean=clean,
        corrupted=corrupted,
        attention_mask=mask,
        answer=torch.tensor([encoded.answers[0] for encoded in kept]),
        wrong=torch.tensor([encoded.wrong for encoded in kept]),
        positions={
            name: torch.tensor([encoded.positions[name] + len(lead) for encoded in kept]) for name in kept[0].positions
        },
        template=torch.tensor([encoded.example.template for encoded in kept]),
        template_names=template_names,
        prepend_bos=prepend_bos,
        texts=tuple(encoded.example.clean.text for encoded in kept),
        corrupted_texts=tuple(encoded.example.corrupted.text for encoded in kept),
        answers=_pad_answers([encoded.answers for encoded in kept]),
    )


def _pad_answers(answers: list[list[int]]) -> Int[Tensor, "prompt answer"] | None:
    """Answers of several tokens as one tensor, -1 after the end of each; None where all are single tokens."""
    longest = max(map(len, answers))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in answers]) if longest > 1 else None
