"""Everything in `interp.analyzers` can be reached from the command line."""

import inspect
import json
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest

import interp.analyzers
import interp.cli
import interp.model_scores
from interp.analyzers import known_names
from tests.cli.conftest import Command

# Analyzers that a scan of text cannot run, and what they are given beside a picture.
OF_PICTURES: dict[str, tuple[str, ...]] = {"visual-sinks": ("--kind", "self"), "patch-distance": ()}
RESULTS = ("HeadScores", "TokenMap", "HeadPairs", "HeadDistances", "HeadFeatures", "LossCurve")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "story.txt"
    path.write_text("Tom and Sam saw a dog. The dog was big, and Tom was happy. Lily had a red ball.\n" * 3)
    return path


@pytest.mark.parametrize("name", known_names())
def test_every_registered_analyzer_is_reached_by_name(
    command: Command, stories260k: Path, vision_directory: Path, text: Path, name: str
) -> None:
    model, source, least = stories260k, ("--text", text, "--n", "1", "--length", "40"), 40
    if name in OF_PICTURES:
        model, source, least = vision_directory, ("--image", vision_directory / "red.png", *OF_PICTURES[name]), 4
    code, out, err = command("scan", "--model", model, *source, "--analyzers", name, "--json", "-", "--quiet")
    assert code == 0, err
    assert len(json.loads(out, parse_constant=pytest.fail)[name]["rows"]) >= least


def functions_of_a_model() -> list[str]:
    """Names of the public functions that make a result of a model."""
    modules = [
        import_module(f"interp.analyzers.{found.name}") for found in pkgutil.iter_modules(interp.analyzers.__path__)
    ]
    return sorted(
        name
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
        and next(iter(inspect.signature(function).parameters), "") == "model"
        and str(inspect.signature(function).return_annotation) in RESULTS
    )  # fmt: skip


def test_the_functions_are_found() -> None:
    assert {"syntactic_heads", "head_distances", "topological_features", "composition"} <= set(functions_of_a_model())


@pytest.mark.parametrize("name", functions_of_a_model())
def test_every_function_of_a_model_is_called_by_a_command(name: str) -> None:
    """By the command itself, or by a score that `interp scan` knows by name."""
    files = [*Path(interp.cli.__path__[0]).glob("*.py"), Path(str(interp.model_scores.__file__))]
    assert any(re.search(rf"\b{name}\(", file.read_text()) for file in files)


def test_scores_of_the_model_itself_need_no_text(command: Command, circuit_directory: Path, text: Path) -> None:
    line = ("scan", "--model", circuit_directory, "--json", "-", "--quiet", "--analyzers")
    code, out, err = command(*line, "copying-weights")
    assert code == 0, err
    assert list(json.loads(out)) == ["copying-weights"]
    code, _, err = command(*line, "copying-weights,entropy")
    assert code == 2 and "A scan reads one source" in err
    found = json.loads(command(*line, "v-composition,entropy", "--text", text, "--length", "16")[1])
    assert set(found) == {"entropy", "v-composition"} and len(found["v-composition"]["rows"]) == 4
