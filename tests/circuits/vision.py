"""A tiny model over drawn scenes, and scenes made by hand."""

from pathlib import Path

from transformers import LlavaForConditionalGeneration, LlavaProcessor

from circuits.training.vision.architecture import build_model, build_processor
from circuits.training.vision.card import save
from circuits.training.vision.recipe import SceneRecipe, SceneStage
from circuits.training.vision.scenes import COLOURS, SIZES, Scene, Thing

STAGE = SceneStage(steps=2, warmup_steps=1, decay_steps=1, peak_rate=1e-2)
TINY = SceneRecipe(
    d_vision=16,
    n_vision_layers=1,
    d_model=32,
    n_layers=2,
    d_mlp=16,
    batch=2,
    stages=(SceneStage(steps=2, warmup_steps=1, decay_steps=1, peak_rate=1e-2, naming=True), STAGE),
    log_every=1,
    save_every=1,
)


def tiny_vision_model() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Random weights, drawn wide enough for patterns far from uniform."""
    processor = build_processor()
    model = build_model(TINY, processor.tokenizer).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(10)
    return model, processor


def save_tiny_vision_model(folder: Path) -> None:
    """The same as a Hugging Face directory."""
    save(folder, *tiny_vision_model())


def thing(
    shape: str, colour: str, row: str = "top", column: str = "left", *, x: int = 16, y: int = 16, size: str = "large"
) -> Thing:
    """A shape whose place in pixels is chosen apart from the words for it."""
    return Thing(
        shape=shape,
        colour=colour,
        size=size,
        row=row,
        column=column,
        x=x,
        y=y,
        radius=SIZES[size],
        paint=COLOURS[colour],
    )


CIRCLE = thing("circle", "red", "top", "left", x=16, y=16)
STAR = thing("star", "blue", "top", "right", x=48, y=8, size="small")
SECOND_STAR = thing("star", "red", "bottom", "centre", x=32, y=56)
SCENE = Scene((SECOND_STAR, CIRCLE, STAR))
