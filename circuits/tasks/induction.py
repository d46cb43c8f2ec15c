"""Induction on repeated random tokens: what came after this token before comes again."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuits.tasks.documents import Document
from circuits.tasks.encode import resolve_bos
from circuits.tasks.prompts import TaskPrompts
from circuits.tasks.split import check_split, stable_number
from circuits.tasks.task import Task
from interp.errors import InputError
from interp.stimuli import ordinary_tokens

Corruption = Literal["first", "successor"]


@dataclass(frozen=True, kw_only=True)
class Induction(Task):
    """Induction on repeated random tokens.

    A row is filler, a block of different random tokens, and the beginning of the same block again; END is the last
    token and the answer the one that followed it in the first copy (A1 is its first occurrence, A1+1 the answer's).
    Rows have twice the longest block's tokens: filler makes up for a shorter block and for the part of the second copy
    that is not shown, so that rows need no padding while the distance to the first copy varies. All tokens of a row
    differ except for the repetition.

    Source: Olsson et al. 2022, arXiv 2209.11895. Difference: two copies instead of four, and one scored token in a row.

    Arguments:
        block_length: shortest and longest block; both at least 2.
        corruption: what `wrong`, a token that stands nowhere else, replaces: "first", the token at A1, so that nothing
            tells what follows, and both the previous-token head (at A1+1) and the induction head (at END) lose what
            they read; or "successor", the token at A1+1, which then is what follows: the induction head copies it, and
            the previous-token head notices nothing.
    """

    name = "induction"
    description = "induction: a random block of tokens is repeated"
    source = "Olsson et al. 2022, arXiv 2209.11895"
    key_positions = ("A1", "A1+1", "END")
    block_length: tuple[int, int] = (10, 25)
    corruption: Corruption = "first"

    def __post_init__(self) -> None:
        shortest, longest = self.block_length
        if not 2 <= shortest <= longest:
            raise InputError(f"block_length must be (shortest, longest) with 2 <= shortest, got {self.block_length}.")
        if self.corruption not in get_args(Corruption):
            raise InputError(f"corruption must be one of {', '.join(get_args(Corruption))}, got {self.corruption!r}.")

    @property
    def chance(self) -> float:
        """A draw among the tokens of the shortest block."""
        return 1 / self.block_length[0]

    def prompts(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        n: int,
        seed: int,
        split: str = "test",
        prepend_bos: bool | None = None,
    ) -> TaskPrompts:
        check_split(split)
        if n < 1:
            raise InputError(f"The number of prompts must be at least 1, got {n}.")
        bos = resolve_bos(tokenizer, prepend_bos)
        generator = torch.Generator().manual_seed(stable_number("induction", split, str(seed)) >> 1)
        shortest, longest = self.block_length
        vocabulary = ordinary_tokens(tokenizer)
        if len(vocabulary) < 2 * longest + 2:
            raise InputError(
                f"Blocks of {longest} tokens need {2 * longest + 2} ordinary tokens, but the tokenizer has "
                f"{len(vocabulary)}; use shorter blocks."
            )
        distance = torch.randint(shortest, longest + 1, (n,), generator=generator)
        shown = 1 + (torch.rand(n, generator=generator) * (distance - 1)).long()  # tokens of the second copy
        tokens = torch.stack([vocabulary[_draw(len(vocabulary), 2 * longest + 1, generator)] for _ in range(n)])
        rows, wrong = tokens[:, :-1].clone(), tokens[:, -1]
        place = torch.arange(2 * longest).expand(n, -1)
        repeated = place >= 2 * longest - shown[:, None]
        clean = rows.gather(1, torch.where(repeated, place - distance[:, None], place))
        return self._assemble(clean, wrong, distance, tokenizer, bos)

    def documents(
        self, tokenizer: PreTrainedTokenizerBase, *, n: int, seed: int, split: str = "train"
    ) -> list[Document]:
        """Rows with their answers; determined is what repeats a token whose predecessor repeats one too."""
        prompts = self.prompts(tokenizer, n=n, seed=seed, split=split, prepend_bos=False)
        documents = []
        for tokens in torch.cat([prompts.clean, prompts.answer[:, None]], dim=1).tolist():
            seen = [token in tokens[:place] for place, token in enumerate(tokens)]
            determined = [False, *(before and own for before, own in pairwise(seen))]
            documents.append(Document(tokens=tokens, determined=determined))
        return documents

    def _assemble(
        self,
        clean: Int[Tensor, "prompt token"],
        wrong: Int[Tensor, " prompt"],
        distance: Int[Tensor, " prompt"],
        tokenizer: PreTrainedTokenizerBase,
        bos: bool,
    ) -> TaskPrompts:
        n, width = clean.shape
        first = width - 1 - distance
        answer = clean.gather(1, first[:, None] + 1).squeeze(1)
        replaced = first + (self.corruption == "successor")
        corrupted = clean.scatter(1, replaced[:, None], wrong[:, None])
        texts, corrupted_texts = (tuple(tokenizer.batch_decode(rows)) for rows in (clean, corrupted))
        if bos:
            lead = torch.tensor([[tokenizer.bos_token_id]]).expand(n, 1)
            clean, corrupted = torch.cat([lead, clean], dim=1), torch.cat([lead, corrupted], dim=1)
        shortest, longest = self.block_length
        span = str(longest) if shortest == longest else f"{shortest}-{longest}"
        return TaskPrompts(
            task=self.name,
            clean=clean,
            corrupted=corrupted,
            attention_mask=torch.ones_like(clean),
            answer=answer,
            wrong=wrong,
            positions={
                "A1": first + bos,
                "A1+1": first + 1 + bos,
                "END": torch.full((n,), width - 1 + bos),
            },
            template=torch.zeros(n, dtype=torch.long),
            template_names=(f"block {span}/0",),
            prepend_bos=bos,
            texts=texts,
            corrupted_texts=corrupted_texts,
        )


def _draw(n: int, k: int, generator: torch.Generator) -> Int[Tensor, " draw"]:
    """`k` different numbers below `n`."""
    return torch.randperm(n, generator=generator)[:k]
