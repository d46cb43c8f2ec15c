"""The command run in this process, and a model directory for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from circuits.training.tokenizer import build_tokenizer
from interp.cli.main import main
from tests.circuits.vision import save_tiny_vision_model
from tests.hand_weighted import induction_model, letters_tokenizer
from tests.tiny_models import tiny_llama

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def circuit_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the induction circuit set by hand: `induction` is the one task that its words allow."""
    directory = tmp_path_factory.mktemp("models") / "circuit"
    letters_tokenizer(directory)
    induction_model().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def words_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random Llama that has the words of every task."""
    directory = tmp_path_factory.mktemp("models") / "words"
    tokenizer = build_tokenizer()
    tiny_llama(tokenizer=tokenizer).hf.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def vision_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random LLaVA, and two pictures in it."""
    directory = tmp_path_factory.mktemp("models") / "vision"
    save_tiny_vision_model(directory)
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        picture = Image.new("RGB", (50, 40), colour)
        picture.paste((90, 200, 40), (5, 10, 30, 25))  # something to look at
        picture.save(directory / f"{name}.png")
    return directory


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `interp ARGUMENTS`; gives exit code, standard output and standard error."""
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
