"""`interp models`: what can be loaded without a network."""

from __future__ import annotations


def models() -> None:
    """List the embedded models, and those in the local Hugging Face cache."""
    import typer

    from interp.model.embedded import cached_names, embedded_names

    for heading, names in (("embedded", embedded_names()), ("in the Hugging Face cache", cached_names())):
        typer.echo(f"{heading}:")
        for name in names or ["(none)"]:
            typer.echo(f"  {name}")
