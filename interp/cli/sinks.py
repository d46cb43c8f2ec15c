"""`interp sinks`: the attention sinks of a model on a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import (
    CsvOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    HtmlOption,
    JsonOption,
    ModelOption,
    ParquetOption,
    QuietOption,
    load_model,
    reported_warnings,
)
from interp.cli.outputs import Outputs

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from interp.analyzers.analyzer import Analyzer
    from interp.analyzers.massive_activations import SinkLink
    from interp.model.model import Inputs, Model
    from interp.report import Page
    from interp.results import HeadScores, TokenMap

HEAD_COLUMNS = ("sink mass", "later sinks", "key norm", "value norm", "no-op", "learned sink")
LEGEND = (
    "alpha: mean attention to the first token; chance: that of uniform attention; sink mass: attention to all sinks "
    "of the head; later sinks: keys with alpha > 5 / tokens; key and value norm: at sinks over elsewhere; no-op: sink "
    "mass that writes nothing; learned sink: mass on a learned sink logit"
)


def sinks(
    text: Annotated[str, typer.Argument(help="Text to read; 32 tokens or more tell sinks from chance.")],
    model: ModelOption = "mini",
    epsilon: Annotated[float, typer.Option("--epsilon", help="Mean attention above which a token is a sink.")] = 0.3,
    image: Annotated[
        Path | None, typer.Option("--image", help="Picture, in place of the text's image token or in front of it.")
    ] = None,
    dim: Annotated[
        list[int] | None,
        typer.Option("--dim", help="Sink dimension for visual sinks; can be repeated; found at text tokens without."),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option("--tau", help="Sink value of visual sinks; 20, or its equal in a model too narrow for it."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Heads and tokens shown.")] = 5,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = None,
    csv: CsvOption = None,
    parquet: ParquetOption = None,
    html: HtmlOption = None,
    save: Annotated[Path | None, typer.Option("--save", help="Directory; one result per analyzer in it.")] = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Find a text's attention sinks, the heads that look at them, and massive activations.

    With --image, also the image tokens that are sinks of a model such as LLaVA. The CSV has a row for each head.

    Example: interp sinks "Then Mary gave a ring to John" --model mini --json sinks.json
    """
    from interp.analyzers.massive_activations import MassiveActivations, link_to_sinks
    from interp.analyzers.sinks import Sinks, SinkTokens
    from interp.analyzers.visual_sinks import VisualSinks, image_tokens, tau_of
    from interp.results import HeadScores, TokenMap
    from interp.scanning import scan

    outputs = Outputs(json=json, csv=csv, html=html, parquet=parquet)
    with reported_warnings(quiet=quiet, debug=debug):
        loaded = load_model(model, device, dtype)
        weights, reason = _weights(loaded)
        analyzers: list[Analyzer] = [
            Sinks(epsilon=epsilon, output_weights=weights), SinkTokens(epsilon=epsilon), MassiveActivations()
        ]  # fmt: skip
        data: Inputs = text
        images: dict[str, Any] = {}
        if image is not None:
            dims = None if dim is None else tuple(dim)
            threshold = tau_of(loaded) if tau is None else tau
            analyzers.append(VisualSinks(image_tokens=image_tokens(loaded), dims=dims, tau=threshold))
            data, images = _with_image(loaded, text, image)
        results = scan(loaded, data, analyzers, progress=False, images=images)
    scores, tokens, massive = (results[name] for name in ("sinks", "sink-tokens", "massive-activations"))
    visual = results.get("visual-sinks")
    assert isinstance(scores, HeadScores) and isinstance(tokens, TokenMap) and isinstance(massive, TokenMap)
    assert visual is None or isinstance(visual, TokenMap)
    if reason:
        scores = replace(scores, provenance=scores.provenance.with_warnings(reason))
    link = link_to_sinks(massive, tokens)
    if save is not None:
        for name, result in (results | {"sinks": scores}).items():
            result.save(save / name)
    outputs.write(
        page=lambda: _page(scores, tokens, massive, link, visual, top),
        document=lambda: _document(scores, tokens, massive, link, visual),
        frame=scores.to_frame,
    )


def _with_image(model: Model, text: str, path: Path) -> tuple[Inputs, dict[str, Any]]:
    """Token ids with the picture's tokens in their place, and the model's further inputs."""
    import torch
    from PIL import Image, UnidentifiedImageError

    from interp.errors import InputError
    from interp.model.tokens import TokenBatch

    token = getattr(model.processor, "image_token", None)
    if token is None:
        raise InputError(
            f"{model.name} has no processor with an image token. Use a model that takes images in its text."
        )
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} cannot be read as a picture ({error}). Give a file such as a PNG or JPEG.") from error
    prompt = text if token in text else f"{token} {text}"
    inputs = dict(model.processor(images=picture, text=prompt, return_tensors="pt").to(model.device))
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    starts = int(ids[0, 0]) == getattr(model.tokenizer, "bos_token_id", None)
    further = {
        name: value.to(model.dtype) if torch.is_floating_point(value) else value for name, value in inputs.items()
    }
    return TokenBatch(ids, mask, starts), further


def _weights(model: Model) -> tuple[Any, str]:
    """W_O of every head, or None and the reason."""
    from interp.analyzers.sinks import output_weights
    from interp.errors import ModelNotSupported

    try:
        return output_weights(model), ""
    except ModelNotSupported as error:
        return None, f"norms are taken before the output projection, because {error}"


def _document(
    scores: HeadScores, tokens: TokenMap, massive: TokenMap, link: SinkLink, visual: TokenMap | None
) -> dict[str, Any]:
    from interp.analyzers.massive_activations import massive_entries
    from interp.analyzers.sinks import sink_table
    from interp.cli.export import scores_document

    return {
        **scores_document(scores),
        "tokens": list(tokens.tokens),
        "sink tokens": sink_table(tokens).to_dict("records"),
        "massive activations": {
            "entries": massive_entries(massive).to_dict("records"),
            "medians": massive.notes["medians"],
            "largest": massive.values.amax(-1).tolist(),
        },
        "massive activations and sinks": link.to_dict(),
        **({} if visual is None else {"visual sinks": {"notes": visual.notes, "values": visual.values.tolist()}}),
    }


def _page(
    scores: HeadScores, tokens: TokenMap, massive: TokenMap, link: SinkLink, visual: TokenMap | None, top: int
) -> Page:
    from interp.analyzers.massive_activations import massive_entries
    from interp.analyzers.sinks import sink_table
    from interp.report import Page, head_grid, token_grid

    blocks: list[Any] = [*_summary(scores, tokens), _heads(scores, top), _sink_tokens(sink_table(tokens), top)]
    blocks += [*_massive(massive, massive_entries(massive), top), *_link(link)]
    blocks += [] if visual is None else [_visual(visual)]
    blocks += [LEGEND, head_grid(scores), token_grid(tokens), token_grid(massive)]
    return Page(title="Attention sinks", blocks=blocks, provenance=scores.provenance)


def _summary(scores: HeadScores, tokens: TokenMap) -> list[str]:
    from interp.tables import visible

    notes = scores.notes
    first = f"'{visible(tokens.tokens[0])}'"
    layers = ", ".join(f"L{layer} {_percent(rate)}" for layer, rate in enumerate(notes["layer sink rates"]))
    return [
        f"Attention sinks on {len(tokens.tokens)} tokens (epsilon {notes['epsilon']:g})",
        f"sink rate of the first token {first}: {_percent(notes['sink rate'])} of heads "
        f"(chance {_percent(notes['uniform attention']['sink rate'])})",
        f"by layer: {layers}",
    ]


def _heads(scores: HeadScores, top: int) -> Table:
    columns = [name for name in HEAD_COLUMNS if name in scores.columns]
    records = {record["label"]: record for record in scores.to_frame().to_dict("records")}
    rows: list[list[str]] = []
    for head in scores.top(top):
        values = [records[head.label][name] for name in ("score", "chance", *columns)]
        rows.append([head.label, *(f"{value:.2f}" if value == value else "–" for value in values)])
    return _table("strongest heads", ("head", "alpha", "chance", *columns), rows)


def _sink_tokens(found: pd.DataFrame, top: int) -> Table | str:
    from interp.tables import visible

    if found.empty:
        return "sink tokens: none\n"
    rows = [
        [str(row["key"]), f"'{visible(row['token'])}'", row["kind"], _percent(row["rate"]), _listed(row["layers"])]
        for row in found.head(top).to_dict("records")
    ]
    shown = "" if len(found) <= top else f" ({top} of {len(found)})"
    return _table(f"sink tokens{shown}", ("position", "token", "kind", "share of heads", "layers"), rows)


def _massive(massive: TokenMap, found: pd.DataFrame, top: int) -> list[str]:
    from interp.analyzers.massive_activations import ratio_to_median
    from interp.tables import visible

    if found.empty:
        largest = massive.top(1)[0]
        ratio = ratio_to_median(largest.value, massive.notes["medians"][largest.layer])
        return [
            f"massive activations: none (the largest, {largest.value:.3g} at '{visible(str(largest.key_token))}', is "
            f"{ratio:.3g} times the median of layer {largest.layer}; thresholds {massive.notes['min_magnitude']:g} and "
            f"{massive.notes['min_ratio']:g} times)"
        ]
    lines = [
        f"  '{visible(row['token'])}' (position {row['key']}), dimension {row['dim']}: {row['value']:.0f}, "
        f"{row['ratio']:.0f} times the median, entering layers {row['first_layer']} to {row['last_layer']}"
        for row in found.head(top).to_dict("records")
    ]
    return [f"massive activations: {len(found)} (token, dimension) pairs", *lines]


def _link(link: SinkLink) -> list[str]:
    if link.sinks == 0 or link.massive == 0:
        return []
    return [
        f"tokens: sinks {link.sinks}, with massive activations {link.massive}, both {link.both} "
        f"({link.expected:.2g} expected by chance, p = {link.p_value:.2g}; rank correlation {link.correlation:.2f})"
    ]


def _visual(visual: TokenMap) -> Table:
    """By layer, how many image tokens are sinks, where in the prompt, and by which dimensions."""
    notes = visual.notes
    n_image = len(notes["image"])
    rows: list[list[str]] = []
    for layer, found in enumerate(notes["visual_sinks"]):
        values = visual.values[layer, list(notes["image"])].nan_to_num(0)
        largest = (
            f"{float(values.max()):.1f} at {notes['image'][int(values.argmax())]}" if notes["dims"][layer] else "–"
        )
        share = f"{len(found)} ({_percent(len(found) / n_image)})"
        rows.append([f"L{layer}", share, str(len(notes["text_sinks"][layer])), largest, _listed(notes["dims"][layer])])
    title = f"visual sinks among {n_image} image tokens (tau {notes['tau']:.3g})"
    return _table(title, ("layer", "image sinks", "text sinks", "largest image token", "dimensions"), rows)


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from interp.report import titled_table

    table = titled_table(title)
    for name in headers:
        words = name in ("head", "token", "kind", "layers", "layer", "dimensions")
        table.add_column(name, justify="left" if words else "right", no_wrap=name not in ("layers", "dimensions"))
    for row in rows:
        table.add_row(*row)
    return table


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(str(layer) for layer in layers)


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.1f} %"
