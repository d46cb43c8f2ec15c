"""`interp scan --image`: attention over patches, attention over text and picture, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

import interp
from interp.pictures import picture_prompts
from interp.results import HeadScores
from tests.cli.conftest import Command

PATCHES = 64


@pytest.fixture
def line(vision_directory: Path) -> tuple[object, ...]:
    return ("scan", "--model", vision_directory, "--image", vision_directory / "red.png", "--quiet")


def test_pictures_alone_are_read_by_the_tower(
    command: Command, line: tuple[object, ...], vision_directory: Path
) -> None:
    code, out, err = command(*line, "--image", vision_directory / "blue.png", "--top", "2")
    assert (code, err) == (0, "")
    rows = {row[0]: row for line in out.splitlines() if (row := line.split())}
    assert {"patch-distance", "first-token", "entropy"} <= set(rows) and rows["patch-distance"][1].startswith("L0H")
    assert "read: 2 pictures; positions count patches row by row" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100


def test_every_format_has_the_numbers_of_the_library(
    command: Command, line: tuple[object, ...], vision_directory: Path, tmp_path: Path
) -> None:
    names = ["patch-distance", "mean-distance"]
    code, out, err = command(
        *line, "--image", vision_directory / "blue.png", "--analyzers", ",".join(names), "--json", "-",
        "--html", tmp_path / "page.html", "--save", tmp_path / "saved",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    model = interp.load(vision_directory)
    data, images = picture_prompts(model, [vision_directory / f"{name}.png" for name in ("red", "blue")])
    expected = interp.scan(model, data, names, kind="vision", batch_size=1, images=images)
    for name in names:
        scores, saved = expected[name], interp.load_result(tmp_path / "saved" / name)
        assert isinstance(scores, HeadScores) and isinstance(saved, HeadScores)
        assert [row["score"] for row in document[name]["rows"]] == pytest.approx(scores.scores.flatten().tolist())
        torch.testing.assert_close(saved.scores, scores.scores, equal_nan=True)
        assert document[name]["provenance"]["parameters"]["images"] == scores.provenance.parameters["images"]
    assert document["patch-distance"]["notes"]["grid"] == [8, 8]
    assert "patch-distance (patches)" in (tmp_path / "page.html").read_text()


def test_a_prompt_or_a_kind_asks_for_the_language_model(command: Command, line: tuple[object, ...]) -> None:
    for further, length in ((("--prompt", "red circle"), PATCHES + 3), (("--kind", "self"), PATCHES + 1)):
        code, out, err = command(*line, *further, "--analyzers", "received-mass", "--top", "1")
        assert code == 0, err
        assert f"read: 1 picture in 1 sequence of at most {length} tokens" in " ".join(out.split())
    code, out, _ = command(*line, "--prompt", "red circle", "--kind", "vision", "--json", "-")
    assert code == 0 and json.loads(out)["entropy"]["provenance"]["parameters"]["kind"] == "vision"


def test_no_more_pictures_than_asked_for(command: Command, line: tuple[object, ...]) -> None:
    code, out, err = command(*line, "--image", "nowhere.png", "--n", "1", "--analyzers", "entropy")
    assert code == 0 and "read: 1 picture;" in out, err


def test_another_grid(command: Command, line: tuple[object, ...]) -> None:
    grid = ("--analyzers", "patch-distance", "--set", "patch-distance.grid=4,16", "--json", "-")
    code, out, err = command(*line, *grid)
    assert code == 0, err
    assert json.loads(out)["patch-distance"]["notes"]["grid"] == [4, 16]


@pytest.mark.parametrize(
    ("further", "said"),
    [
        (("--analyzers", "induction"), "induction reads encoder, self attention, not vision attention. Choose "
         "another kind, or from first-token, previous-token, entropy"),
        (("--analyzers", "patch-distance", "--prompt", "red"), "patch-distance reads vision attention, not self"),
        (("--task", "ioi"), "Give one of --text FILE, --dataset NAME, --task NAME and --image FILE."),
        (("--image", __file__), "cannot be read as a picture (cannot identify image file"),
        (("--image", "nowhere.png"), "nowhere.png cannot be read as a picture (No such file or directory)"),
        (("--kind", "cross"), "has no cross attention; it has self, vision."),
        (("--set", "patch-distance.grid=8"), "patch-distance was given grid=(8,): expected rows and columns"),
        (("--set", "patch-distance.grid=9,9"), "A grid of 9 x 9 patches does not fit into 65 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(
    command: Command, line: tuple[object, ...], further: tuple[str, ...], said: str
) -> None:
    code, out, err = command(*line, *further)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1


def test_pictures_need_a_model_that_takes_them_and_prompts_need_pictures(
    command: Command, circuit_directory: Path, vision_directory: Path
) -> None:
    picture = vision_directory / "red.png"
    for line, said in (
        (("--model", circuit_directory, "--image", picture), "takes no pictures. Use a model that does"),
        (("--model", circuit_directory, "--prompt", "w1"), "--prompt is the text around a picture. Give --image FILE"),
        (("--model", circuit_directory, "--task", "induction", "--kind", "vision"), "has no vision attention"),
        (("--model", vision_directory, "--text", __file__, "--kind", "vision", "--analyzers", "entropy"),
         "Vision attention is attention to pictures, and there is none. Give some (--image, images=)."),
        (("--model", vision_directory, "--text", __file__, "--analyzers", "visual-sinks"),
         "visual-sinks reads a prompt with a picture. Give one (--image, or images=)."),
    ):  # fmt: skip
        code, out, err = command("scan", *line, "--quiet")
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
