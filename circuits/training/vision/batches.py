"""Training batches: pictures, and the exchanges about each of them packed into one row behind it.

A row is BOS, the patches, then several exchanges, each of which sees the picture and itself alone and counts its
positions from the end of the picture, as if it stood there alone. The picture is thus read once for all of them.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from circuits.training.vision.architecture import IMAGE_TOKEN, N_PATCHES
from circuits.training.vision.language import KINDS, Exchange, believed_shapes, caption, questions
from circuits.training.vision.recipe import SceneRecipe, SceneStage
from circuits.training.vision.scenes import (
    COLOURS,
    COLUMNS,
    PATCH_SIZE,
    ROWS,
    SHAPES,
    SIZES,
    Scene,
    blank_picture,
    sample_scene,
)

TARGETS: tuple[str, ...] = (*KINDS, "end")
"""What a token is predicted for: an answer, or the end of one."""
END = TARGETS.index("end")
IGNORED = -1
PREFIX = 1 + N_PATCHES
"""Tokens before the text: BOS and the picture."""
NAMES = {
    "shape": ("nothing", *SHAPES),
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "row": ROWS,
    "column": COLUMNS,
}
"""What a patch can be called, in each respect. Row and column are those of the thing, or of the patch itself where
there is nothing, which has neither colour nor size."""
FEWEST_PIXELS = 6
"""A patch shows a thing if so many of its 64 pixels do."""


@dataclass(frozen=True)
class PackedBatch:
    """Rows of exchanges behind pictures.

    Attributes:
        kinds: index in `TARGETS` of each token that is a target, `IGNORED` elsewhere.
        parts: which exchange of the row a token belongs to; 0 for BOS and picture, -1 for padding.
    """

    pictures: UInt8[Tensor, "row 64 64 3"]
    tokens: Int[Tensor, "row token"]
    kinds: Int[Tensor, "row token"]
    parts: Int[Tensor, "row token"]
    positions: Int[Tensor, "row token"]

    @property
    def mask(self) -> Bool[Tensor, "row 1 token token"]:
        """Who sees whom: earlier tokens of the same exchange, BOS and the picture before it."""
        n_tokens = self.tokens.shape[1]
        causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
        same = self.parts[:, :, None] == self.parts[:, None, :]
        return ((same | (self.parts == 0)[:, None, :]) & causal)[:, None]


def training_scenes(recipe: SceneRecipe, step: int) -> tuple[list[Scene], np.random.Generator]:
    """The scenes of a step, and the generator with which to go on; a function of seed and step."""
    random = np.random.default_rng([recipe.seed, step])
    stage, _ = recipe.stage_at(step)
    scenes = [
        sample_scene(random, things=stage.things, split="train", company=stage.company) for _ in range(recipe.batch)
    ]
    return scenes, random


def packed_batch(
    scenes: list[Scene], stage: SceneStage, random: np.random.Generator, tokenizer: PreTrainedTokenizerBase
) -> PackedBatch:
    """What the annotator says about the scenes in this stage; the first `stage.hidden` pictures are blank."""
    rows: list[list[Exchange]] = []
    for scene in scenes:
        believed = believed_shapes(scene, random)
        rounds = [questions(scene, believed, random) for _ in range(stage.rounds)]
        rows.append([*chain.from_iterable(rounds), *([caption(scene, believed)] if stage.captions else [])])
    pictures = np.stack([scene.draw()[0] for scene in scenes])
    pictures[: stage.hidden] = blank_picture()
    return pack(torch.tensor(pictures), rows, tokenizer)


def pack(
    pictures: UInt8[Tensor, "row 64 64 3"], rows: list[list[Exchange]], tokenizer: PreTrainedTokenizerBase
) -> PackedBatch:
    """The exchanges of each row behind its picture, padded on the right."""
    special: Any = tokenizer
    flat = [text for row in rows for exchange in row for text in (exchange.prompt, exchange.answer)]
    encoded = iter(tokenizer(flat, add_special_tokens=False)["input_ids"])
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    columns: dict[str, list[Tensor]] = {name: [] for name in ("tokens", "kinds", "parts", "positions")}
    for row in rows:
        tokens, kinds, parts = [special.bos_token_id] + [image] * N_PATCHES, [IGNORED] * PREFIX, [0] * PREFIX
        positions = list(range(PREFIX))
        for part, exchange in enumerate(row, start=1):
            prompt, answer = next(encoded), [*next(encoded), special.eos_token_id]
            tokens += prompt + answer
            kinds += [IGNORED] * len(prompt) + [TARGETS.index(exchange.kind)] * (len(answer) - 1) + [END]
            parts += [part] * len(prompt + answer)
            positions += range(PREFIX, PREFIX + len(prompt + answer))
        for name, values in (("tokens", tokens), ("kinds", kinds), ("parts", parts), ("positions", positions)):
            columns[name].append(torch.tensor(values))
    fill = {"tokens": special.pad_token_id, "kinds": IGNORED, "parts": -1, "positions": 0}
    padded = {
        name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill[name])
        for name, values in columns.items()
    }
    return PackedBatch(pictures, **padded)


def pixel_values(pictures: UInt8[Tensor, "row 64 64 3"]) -> Float[Tensor, "row 3 64 64"]:
    """What the processor makes of pictures of the right size: values in [0, 2], nothing being 0."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5


def packed_hidden(model: LlavaForConditionalGeneration, batch: PackedBatch) -> Float[Tensor, "row token d_model"]:
    """The last residual stream, after the final norm, of a packed batch."""
    inner: Any = model.model
    features = torch.stack(inner.get_image_features(pixel_values(batch.pictures)).pooler_output)
    embedded = model.get_input_embeddings()(batch.tokens)
    embedded = torch.cat([embedded[:, :1], features, embedded[:, PREFIX:]], dim=1)
    return inner.language_model(
        inputs_embeds=embedded, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state


def patch_names(scenes: list[Scene]) -> dict[str, Int[Tensor, "scene patch"]]:
    """Index in `NAMES` of what each patch shows, by respect; `IGNORED` where there is nothing to say."""
    names = {respect: torch.full((len(scenes), N_PATCHES), IGNORED) for respect in NAMES}
    side = int(N_PATCHES**0.5)
    for index, scene in enumerate(scenes):
        owner = scene.draw()[1]
        patches = owner.reshape(side, PATCH_SIZE, side, PATCH_SIZE).swapaxes(1, 2).reshape(N_PATCHES, -1)
        seen = np.stack([(patches == thing).sum(1) for thing in range(len(scene.things))])
        shown = np.where(seen.max(0) >= FEWEST_PIXELS, seen.argmax(0), -1)
        for patch, thing in enumerate(shown.tolist()):
            if thing < 0:
                names["shape"][index, patch] = 0
                names["row"][index, patch], names["column"][index, patch] = (
                    3 * place // side for place in divmod(patch, side)
                )
            else:
                for respect, words in NAMES.items():
                    names[respect][index, patch] = words.index(getattr(scene.things[thing], respect))
    return names
