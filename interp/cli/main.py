"""The command line: one file per command, errors as one sentence, exit codes that scripts can rely on.

    0    success
    1    the analysis failed (`ModelNotSupported`, `HookNotLive`, ..., or an unexpected error)
    2    the command line, or something that it names, cannot be used (`InputError`: unknown task, missing directory,
         absent device, too few usable words)
    130  interrupted by Ctrl-C

Standard output carries results only; progress, warnings and errors go to standard error. Nothing heavy is imported
before a command runs, so that help answers at once.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from interp import __version__
from interp.cli.catalogue import catalogue
from interp.cli.compare import compare
from interp.cli.composition import composition
from interp.cli.distances import distances
from interp.cli.emergence import emergence
from interp.cli.evaluate import evaluate
from interp.cli.find_heads import find_heads
from interp.cli.importance import importance
from interp.cli.in_context import in_context
from interp.cli.models import models
from interp.cli.retrieval import retrieval
from interp.cli.scan import scan
from interp.cli.sinks import sinks
from interp.cli.syntactic import syntactic
from interp.cli.topology import topology
from interp.errors import InputError, InterpError

app = typer.Typer(
    name="interp",
    help="Mechanistic interpretability of attention: every head watched in one pass of the model.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("find-heads", short_help="Rank the heads that do a task, by causal effect.")(find_heads)
app.command("importance", short_help="Rank heads by what a task or a text's loss loses without them.")(importance)
app.command("catalogue", short_help="Say of every head of a model what it is.")(catalogue)
app.command("scan", short_help="Score every head with several analyzers in one pass.")(scan)
app.command("compare", short_help="Say which heads differ between two models of one shape.")(compare)
app.command("emergence", short_help="Draw how a property of the heads emerges during training.")(emergence)
app.command("evaluate", short_help="Measure a model on held-out prompts of the tasks.")(evaluate)
app.command("sinks", short_help="Find a text's attention sinks and massive activations.")(sinks)
app.command("in-context", short_help="Measure in-context learning, and the heads that carry it.")(in_context)
app.command("distances", short_help="Group the heads that attend alike.")(distances)
app.command("topology", short_help="Describe the attention graphs of every head.")(topology)
app.command("composition", short_help="Find the heads that read what earlier heads write.")(composition)
app.command("syntactic", short_help="Find heads that point from words to their governors.")(syntactic)
app.command("models", short_help="List the models that are here.")(models)
app.command("retrieval", short_help="Score heads by how much they fetch from far away.")(retrieval)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"interp {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; `arguments` default to those of the process."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    try:
        result = app(args=given, prog_name="interp", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        return code if code != 130 else _failed("Interrupted.", 130)  # some versions of Typer return it, without a word
    except KeyboardInterrupt:
        return _failed("Interrupted.", 130)
    except BrokenPipeError:
        # The reader of a pipe has gone; without this, Python complains again when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        return _failed(str(error), 2, debug)
    except InterpError as error:
        return _failed(str(error), 1, debug)
    except typer.Abort:
        return _failed("Interrupted.", 130)
    except Exception as error:
        # Typer's usage errors come from click, or from its own copy of click, depending on its version.
        said = getattr(error, "format_message", None)
        if callable(said):
            return _failed(f"{str(said()).rstrip('.')}. See interp --help.", 2)
        hint = "" if debug else " Run again with --debug for the traceback."
        return _failed(f"Unexpected {type(error).__name__}: {error}.{hint}", 1, debug)


def _failed(sentence: str, code: int, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"interp: {sentence}\n")
    return code
