"""`interp sinks`: the attention sinks of a model on a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.options import Line, ModelOption, Notices, Placement, save_option, with_option_groups
from interp.cli.outputs import Outputs

if TYPE_CHECKING:
    from interp.analyzers.analyzer import Analyzer
    from interp.analyzers.massive_activations import SinkLink
    from interp.model.model import Inputs
    from interp.results import HeadScores, TokenMap


@with_option_groups
def sinks(
    *,
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
    placement: Placement,
    outputs: Outputs,
    save: Annotated[Path | None, save_option("Directory; one result per analyzer in it.")] = None,
    notices: Notices,
    line: Line,
) -> None:
    """Find a text's attention sinks, the heads that look at them, and massive activations.

    With --image, also the image tokens that are sinks of a model such as LLaVA. The CSV has a row for each head.

    Example: interp sinks "Then Mary gave a ring to John" --model mini --json sinks.json
    """
    from interp.analyzers.massive_activations import MassiveActivations, link_to_sinks
    from interp.analyzers.sinks import Sinks, SinkTokens
    from interp.analyzers.visual_sinks import VisualSinks, image_tokens, tau_of
    from interp.cli.sink_tables import sinks_page
    from interp.pictures import picture_prompts
    from interp.results import HeadScores, TokenMap
    from interp.scanning import scan

    if image is None:
        line.refuse("without --image", "dim", "tau")
    with notices.shown():
        loaded = placement.load(model)
        analyzers: list[Analyzer] = [Sinks(epsilon=epsilon), SinkTokens(epsilon=epsilon), MassiveActivations()]
        data: Inputs | None = text
        images: list[dict[str, Any]] | None = None
        if image is not None:
            dims = None if dim is None else tuple(dim)
            threshold = tau_of(loaded) if tau is None else tau
            analyzers.append(VisualSinks(image_tokens=image_tokens(loaded), dims=dims, tau=threshold))
            data, images = picture_prompts(loaded, [image], text)
        results = scan(loaded, data, analyzers, progress=False, images=images)
    scores, tokens, massive = (results[name] for name in ("sinks", "sink-tokens", "massive-activations"))
    visual = results.get("visual-sinks")
    assert isinstance(scores, HeadScores) and isinstance(tokens, TokenMap) and isinstance(massive, TokenMap)
    assert visual is None or isinstance(visual, TokenMap)
    link = link_to_sinks(massive, tokens)
    if save is not None:
        for name, result in results.items():
            result.save(save / name)
    outputs.write(
        page=lambda: sinks_page(scores, tokens, massive, link, visual, top),
        document=lambda: _document(scores, tokens, massive, link, visual),
        frame=scores.to_frame,
    )


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
