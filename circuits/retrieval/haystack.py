"""Needle prompts: sentences hidden in a long text, a question about one, and the answer that has to be copied.

Everything is placed by characters and found again by the tokenizer's offsets, so any fast tokenizer will do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations
from string import Formatter
from typing import Any

import torch

from circuits.retrieval.needles import DEPTHS, NEEDLES, Needle, NeedlePrompt, check_places, turns
from circuits.tasks.text import fill
from interp.errors import InputError
from interp.model.model import Model
from interp.stimuli import first_tokens

TEMPLATE = "{context}\n\nBased on the content of the book, Question: {question}\nAnswer: {answer}"
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？][”’」』）]*\s*|\n+")


def needle_prompts(
    model: Model,
    haystack: str,
    needles: Sequence[Needle] = NEEDLES,
    *,
    lengths: Sequence[int],
    depths: Sequence[float] = DEPTHS,
    template: str = TEMPLATE,
    shared: bool = False,
) -> list[NeedlePrompt]:
    """Every needle at every depth of every length.

    A needle is moved back to the nearest start of a sentence; at depth 1 it stands at the very end. *Source*: Wu et
    al. 2024, arXiv 2404.15574. Differences from the official code: sentences and needles are found in the text, not by
    token ids of Llama; the lengths are kept within the few tokens by which joining texts changes their tokens.

    Arguments:
        haystack: a text of at least the longest length; it is never repeated.
        lengths: tokens of a prompt, question included, answer not; of the longest question, where needles share.
        depths: in [0, 1].
        template: with `{context}`, `{question}` and, at its end, `{answer}`; the place for a chat format.
        shared: all needles stand in one haystack (after DuoAttention, arXiv 2410.10819, which hides ten), in as many
            haystacks as there are depths: as many prompts, each needle at each depth once, but a haystack is run once
            for all of its needles. The other needles distract, so scores differ somewhat from those of needles alone.

    Returns:
        Depth by depth of needle by needle of the lengths; shared: needle by needle of haystack by haystack.

    Raises:
        InputError: a haystack too short, a length too short for needles and question or longer than the context, a
            depth outside [0, 1], needles that cannot share a haystack because a question or an answer would fit two,
            a template without its slots, or a tokenizer without offsets.
    """
    writer = _Writer(model, haystack, template)
    check_places(lengths, depths, len(needles))
    if shared:
        _check_apart(needles)
    return [
        prompt
        for length in lengths
        for group in ([needles] if shared else [[needle] for needle in needles])
        for places in turns(len(group), depths)
        for prompt in writer.prompts(group, length, places)
    ]


def sentence_starts(text: str) -> list[int]:
    """Places in a text where a sentence or a line begins, the first being 0.

    Example:
        >>> sentence_starts('One. "Two!" Three')
        [0, 5, 12]
    """
    return [0, *(match.end() for match in _SENTENCE_END.finditer(text) if match.end() < len(text))]


def token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Half-open range of the tokens that hold characters ``start..end``.

    Raises:
        InputError: no token holds any of them.
    """
    inside = [index for index, (first, last) in enumerate(offsets) if first < end and last > start]
    if not inside:
        raise InputError(f"The tokenizer has no token for characters {start} to {end}. Use the model's own tokenizer.")
    return inside[0], inside[-1] + 1


class _Writer:
    """Writes needles into one haystack for one tokenizer."""

    def __init__(self, model: Model, haystack: str, template: str) -> None:
        slots = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        if sorted(slots) != ["answer", "context", "question"] or slots[-1] != "answer" or slots[0] != "context":
            raise InputError(
                f"The template has the slots {slots}; expected {{context}}, {{question}}, {{answer}}, in this order."
            )
        if model.tokenizer is None or not model.tokenizer.is_fast:
            raise InputError("Needles are found by character offsets; use a fast tokenizer (a tokenizer.json).")
        self.model, self.haystack, self.template = model, haystack, template
        self.lead = first_tokens(model)
        self.hay = self._encode(haystack)[1]
        self.starts = torch.tensor(sentence_starts(haystack))

    def prompts(self, needles: Sequence[Needle], length: int, depths: Sequence[float]) -> list[NeedlePrompt]:
        """One prompt of about so many tokens for each of the needles, which stand at these depths of one haystack."""
        budget = length - max(self._size(needles, needle) for needle in needles)
        if budget < 1 or budget > len(self.hay):
            raise InputError(
                f"A prompt of {length} tokens needs {budget} tokens of haystack beside needle and question, and the "
                f"haystack has {len(self.hay)}. Choose other lengths, or a longer haystack."
            )
        end = self.hay[budget - 1][1]
        places = [self._place(round(depth * budget), budget, end) for depth in depths]
        context, starts = self._context(needles, places, end)
        hidden = zip(needles, starts, strict=True)
        return [self._prompt(context, start, needle, len(needles)) for needle, start in hidden]

    def _context(self, needles: Sequence[Needle], places: Sequence[int], end: int) -> tuple[str, list[int]]:
        """The haystack up to a character with every needle at its place, and where in it each needle begins."""
        context, starts, written = "", [0] * len(needles), 0
        for index in sorted(range(len(needles)), key=lambda index: places[index]):
            context = _joined(context, self.haystack[written : places[index]])
            written = places[index]
            context = _joined(context, needles[index].text)
            starts[index] = len(context) - len(needles[index].text)
        return _joined(context, self.haystack[written:end]), starts

    def _prompt(self, context: str, needle_start: int, needle: Needle, hidden: int) -> NeedlePrompt:
        written = fill(self.template, {"context": context, "question": needle.question, "answer": needle.answer})
        ids, offsets = self._encode(written.text)
        start = written.spans["context"][0] + needle_start + needle.text.index(needle.answer)
        bos = len(self.lead)
        first, last = token_span(offsets, start, start + len(needle.answer))
        answer_start, answer_end = token_span(offsets, *written.spans["answer"])
        haystack_end = token_span(offsets, *written.spans["context"])[1]
        tokens = torch.tensor([*self.lead, *ids[:answer_end]])
        self.model.batch(tokens)
        prompt = NeedlePrompt(
            tokens=tokens,
            answer_start=bos + answer_start,
            needle=(bos + first, bos + last),
            question_start=bos + haystack_end,
            depth=first / haystack_end,
            name=needle.question,
            hidden=hidden,
        )
        if not torch.isin(prompt.answer, prompt.needle_tokens).any():
            raise InputError(
                f"The tokenizer writes the answer {needle.answer!r} with other tokens in the haystack than behind the "
                "question, so no token can be copied. Take a longer answer, or one that follows a space in the needle."
            )
        return prompt

    def _size(self, needles: Sequence[Needle], asked: Needle) -> int:
        """Tokens of a prompt without its haystack and its answer."""
        hidden = " ".join(needle.text for needle in needles)
        empty = fill(self.template, {"context": hidden, "question": asked.question, "answer": asked.answer})
        offsets = self._encode(empty.text)[1]
        return len(self.lead) + token_span(offsets, *empty.spans["answer"])[0]

    def _place(self, token: int, budget: int, end: int) -> int:
        """The character at which the needle is put in: the end, or the last sentence start at or before a token."""
        if token >= budget:
            return end
        index = torch.searchsorted(self.starts, self.hay[token][0], right=True) - 1
        return int(self.starts[index])

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded: Any = self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], encoded["offset_mapping"]


def _joined(left: str, right: str) -> str:
    """Two pieces of text with a space between them, unless there is one or nothing to part."""
    return f"{left} {right}" if left and right and not left[-1].isspace() else left + right


def _check_apart(needles: Sequence[Needle]) -> None:
    for one, other in permutations(needles, 2):
        if one.question == other.question or one.answer in other.text:
            raise InputError(
                f"The needles {one.text!r} and {other.text!r} cannot share a haystack: they have the same question, or "
                f"the answer {one.answer!r} stands in both. Give needles with their own questions and answers."
            )
