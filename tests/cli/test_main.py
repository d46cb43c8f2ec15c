"""Help is light, errors are one sentence, exit codes are what they are said to be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import interp
from interp.cli import main as main_module
from interp.cli.options import Placement
from interp.errors import InputError, ModelNotSupported
from tests.cli.conftest import Command

COMMANDS = ("find-heads", "scan", "sinks", "retrieval", "importance", "compare", "evaluate", "models", "in-context",
            "distances", "topology", "syntactic", "emergence", "catalogue", "composition")  # fmt: skip


@pytest.mark.parametrize("arguments", [(), ("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_answers_and_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """How long that takes is measured by `python -m tests.benchmarks help`."""
    program = (
        "import sys; from interp.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'transformer_lens', 'numpy', 'pandas', 'plotly', 'jinja2'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: interp" in done.stdout


def test_help_lists_the_commands_and_their_options(command: Command) -> None:
    _, out, _ = command("--help")
    assert all(name in out for name in COMMANDS)
    _, out, _ = command("find-heads", "--help")
    for option in ("--task", "--model", "--n-prompts", "--seed", "--method", "--top", "--device", "--dtype", "--json",
                   "--csv", "--save", "--quiet", "--debug"):  # fmt: skip
        assert option in out


def test_version(command: Command) -> None:
    assert command("--version") == (0, f"interp {interp.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("find-haeds",), "No such command 'find-haeds'"),
        (("find-heads", "--taks", "ioi"), "No such option: --taks"),
        (("find-heads", "--top", "many"), "should be a valid integer"),
        (("scan", "--top", "0"), "greater than or equal to 1. See interp --help."),
        (("scan", "--task", "ioi", "--html", "nowhere/page.html"), "no such directory"),
        (("find-heads", "--task", "chess"), "Unknown task 'chess'"),
        (("find-heads", "--model", "./nowhere"), "There is no directory ./nowhere"),
        (("find-heads", "--json", "-", "--csv", "-"), "both want standard output"),
        (("evaluate", "--model", "./nowhere"), "There is no directory ./nowhere"),
    ],
)
def test_usage_errors_are_one_sentence_and_exit_with_2(command: Command, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    assert said in err and err.startswith("interp: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--n-prompts", "0"), "n_prompts=0"),
        (("--method", "guess"), "Unknown method 'guess'"),
        (("--task", "ioi"), "names are a single token"),
        (("--device", "cuda:7"), "'cuda:7' was asked for"),
        (("--dtype", "float7"), "'float7' is unknown"),
        (("--n-prompts", "4", "--json", "/nowhere/heads.json"), "/nowhere/heads.json cannot be written"),
    ],
)
@pytest.mark.usefixtures("unchecked_annotations")
def test_what_the_line_names_is_part_of_its_usage(
    command: Command, circuit_directory: Path, options: tuple[str, ...], said: str
) -> None:
    code, _, err = command("find-heads", "--task", "induction", "--model", circuit_directory, *options, "--quiet")
    assert code == 2
    assert said in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json", "{}"), "{} cannot be written (it is a directory). Choose another path."),
        (("--parquet", "{}"), "{} cannot be written (it is a directory)"),
        (("--html", "{}/nowhere/page.html"), "page.html cannot be written (there is no such directory)"),
        (("--csv", "{}/a", "--json", "{}/a"), "{}/a is to hold two results, and one would replace the other"),
        (("--parquet", "-"), "- is standard output, where --json, --csv or --html can go. Name a file instead."),
        (("--save", "{}/taken"), "Nothing can be saved to {}/taken ({}/taken is a file). Choose another directory."),
        (("--save", "{}/taken/deep/er"), "Nothing can be saved to {}/taken/deep/er ({}/taken is a file)"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str
) -> None:
    (tmp_path / "taken").touch()
    monkeypatch.setattr(Placement, "load", pytest.fail)
    code, out, err = command("scan", "--task", "ioi", *(option.format(tmp_path) for option in options))
    assert (code, out) == (2, "") and said.replace("{}", str(tmp_path)) in err


@pytest.mark.parametrize("option", ["--json", "--save"])
def test_what_may_not_be_written_is_said_before_the_work(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """Root may write everywhere, so the answer of the system is replaced."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(Placement, "load", pytest.fail)
    code, _, err = command("scan", "--task", "ioi", option, tmp_path / "new")
    assert code == 2 and "(permission denied). Choose another" in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no such thing."), 2, "interp: no such thing.\n"),
        (ModelNotSupported("it failed the row check."), 1, "interp: it failed the row check.\n"),
        (ValueError("odd"), 1, "interp: Unexpected ValueError: odd. Run again with --debug for the traceback.\n"),
        (KeyboardInterrupt(), 130, "interp: Interrupted.\n"),
    ],
)
def test_every_error_has_its_exit_code(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main_module, "app", fail)
    assert command("models") == (code, "", said)


def test_an_interrupt_within_a_command_is_said(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.model.embedded.embedded_names", interrupt)
    assert command("models") == (130, "", "interp: Interrupted.\n")


def test_debug_shows_the_traceback(command: Command) -> None:
    code, _, err = command("find-heads", "--task", "chess", "--debug")
    assert code == 2
    assert "Traceback" in err and err.endswith("passage, needle.\n")


def test_a_pipe_that_closes_early_is_no_traceback(circuit_directory: Path) -> None:
    line = f"{sys.executable} -m interp.cli evaluate --help | head -1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("scan --task ioi --length 30", "--length changes nothing beside --task"),
        ("scan --task ioi --column body", "--column changes nothing beside --task"),
        ("scan --text a.txt --split test", "--split changes nothing beside --text"),
        ("scan --dataset a/b --sample-by line", "--sample-by changes nothing beside --dataset"),
        ("scan --image a.png --batch-size 2", "--batch-size changes nothing beside --image"),
        ("scan --analyzers copying-weights --text a.txt", "--text changes nothing for scores from the weights alone"),
        ("scan --analyzers k-composition --set a.b=1", "--set changes nothing for scores from the weights alone"),
        ("sinks words --tau 3", "--tau changes nothing without --image"),
        ("importance --recompute", "--recompute changes nothing without --curve"),
        ("importance --n-random 10", "--n-random changes nothing without --curve"),
        ("importance --length 20", "--length changes nothing without --text"),
        ("importance --text a.txt --task ioi", "--task changes nothing beside --text"),
        ("emergence --device cpu", "--device changes nothing without --checkpoints"),
        ("emergence --checkpoints . --n 3", "--n changes nothing without --text"),
        ("compare mini mini --n 3", "--n changes nothing without --text"),
        ("catalogue --column body", "--column changes nothing without --text"),
        ("in-context --text a.txt --no-heads --ablation full", "--ablation changes nothing without heads"),
        ("distances --task ioi --apart", "--apart changes nothing beside --task"),
        ("topology --task ioi --config x", "--config changes nothing beside --task"),
        ("retrieval --method needle --steps 3", "--steps changes nothing without --method duo-gates"),
        ("retrieval --recent 3 --method needle", "--recent changes nothing without --method distant-mass or"),
    ],
)  # fmt: skip
def test_options_that_change_nothing_are_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    monkeypatch.setattr(Placement, "load", pytest.fail)
    code, out, err = command(*line.split())
    assert (code, out) == (2, "") and said in err and err.endswith("Leave it out.\n")
