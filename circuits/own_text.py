"""Text that a model writes itself, for scores on ordinary text when the user has none at hand."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from circuits.forward import accepts
from interp.data import sequence_length
from interp.errors import InputError
from interp.model.model import Model
from interp.model.tokens import TokenBatch
from interp.stimuli import first_tokens


@torch.inference_mode()
def own_text(model: Model, *, n: int, length: int, seed: int, progress: bool | None = None) -> TokenBatch:
    """Sequences drawn from the model's own next-token probabilities, at temperature 1 and without any cut.

    What a language model writes is distributed as it believes text to be, whatever its language and tokenizer. A
    document that ends is followed by what the model puts behind it. Where the tokenizer begins no text with a token of
    its own, the first draw follows its BOS or EOS (a random token where it has neither), which is then left out.

    All sequences are drawn in one batch, so the result depends on nothing but the model and the seed.

    Raises:
        InputError: the model does not generate text, or not so much.
    """
    if not model.capabilities.generates:
        raise InputError(f"{model.name} writes no text of its own. Give a text.")
    length = sequence_length(model, n, length)
    generator = torch.Generator().manual_seed(seed)
    lead = torch.tensor(first_tokens(model), dtype=torch.long).expand(n, -1)
    start = lead if lead.shape[1] else _start(model, n, generator)
    tokens = new = start
    cached, cache = accepts(model, "past_key_values"), None
    options: dict[str, Any] = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
    n_words = None if model.tokenizer is None else len(model.tokenizer)
    hidden = None if progress is None else not progress
    for _ in tqdm(range(length - lead.shape[1]), desc="own text", unit="token", disable=hidden):
        ids = (new if cached else tokens).to(model.device)
        output: Any = model.hf(
            input_ids=ids, **options, **({"past_key_values": cache, "use_cache": True} if cached else {})
        )
        cache = output.past_key_values if cached else None
        probabilities = output.logits[:, -1, :n_words].double().softmax(-1).cpu()
        new = torch.multinomial(probabilities, 1, generator=generator)
        tokens = torch.cat([tokens, new], 1)
    return model.batch(tokens[:, start.shape[1] - lead.shape[1] :])


def _start(model: Model, n: int, generator: torch.Generator) -> Int[Tensor, "example 1"]:
    """What the first draw follows where the tokenizer puts nothing in front."""
    names = ("bos_token_id", "eos_token_id")
    known = [value for name in names if isinstance(value := getattr(model.tokenizer, name, None), int)]
    if known:
        return torch.full((n, 1), known[0])
    return torch.randint(model.d_vocab, (n, 1), generator=generator)
