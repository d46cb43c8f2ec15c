"""`interp scan --dataset`: a hub on this machine, its copy in the local cache, and hubs that do not answer."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.hub import dataset_hub

CARD = """\
---
configs:
- config_name: stories
  data_files:
  - {split: train, path: data/train-*.jsonl}
  - {split: validation, path: data/validation.jsonl}
- config_name: letters
  data_files:
  - {split: test, path: old/*.jsonl}
---
"""
# Client libraries read where the hub is when they are imported, so that commands run in a process of their own.
PROGRAM = """\
import contextlib, io, json, sys
import datasets
from interp.cli.main import main
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
with contextlib.redirect_stdout(io.StringIO()):
    datasets.load_dataset("people/tales", "stories")
"""
Said = dict[str, tuple[int, str, str]]


def _rows(path: Path, *texts: str, column: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({column: text, "id": index}) + "\n" for index, text in enumerate(texts)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets with configurations, without, closed ones, and one that wants its code to be run."""
    root = tmp_path_factory.mktemp("hub")
    tales = root / "people" / "tales"
    _rows(tales / "data" / "train-0.jsonl", "w1 w2 w3", "w4 w5")
    _rows(tales / "data" / "train-1.jsonl", "w6 w7 w8 w9")
    _rows(tales / "data" / "validation.jsonl", "w20 w21")
    _rows(tales / "old" / "post.jsonl", "w30 w31 w32", column="letter")
    (tales / "README.md").write_text(CARD)
    _rows(root / "people" / "plain" / "train.jsonl", "w1 w2 w3")
    _rows(root / "closed" / "plain" / "train.jsonl", "w1 w2 w3")
    _rows(root / "people" / "coded" / "coded.py", "w1")
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that client libraries keep their cache in."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def said(root: Path, home: Path, circuit_directory: Path) -> Said:
    """What the command answers to every line; one dataset is kept in the cache."""
    online = {name: "0" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")}
    lines = [["scan", "--model", str(circuit_directory), *OPTIONS, *line] for line in LINES.values()]
    with dataset_hub(root) as hub:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], input=json.dumps(lines), capture_output=True, text=True, check=True,
            env=os.environ | online | {"HF_ENDPOINT": hub, "HF_HOME": str(home)},
        )  # fmt: skip
    answers = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    return dict(zip(LINES, answers, strict=True))  # type: ignore[arg-type]


OPTIONS = ("--analyzers", "entropy", "--apart", "--quiet", "--json", "-")
TALES = ("--dataset", "people/tales")
LINES = {
    "plain": ("--dataset", "people/plain"),
    "split": (*TALES, "--config", "stories"),
    "other split": (*TALES, "--config", "stories", "--split", "validation"),
    "both splits": (*TALES, "--config", "stories", "--split", "train+validation"),
    "column": (*TALES, "--config", "letters", "--split", "test", "--column", "letter"),
    "no config": TALES,
    "wrong config": (*TALES, "--config", "poems"),
    "wrong split": (*TALES, "--config", "stories", "--split", "test"),
    "wrong column": (*TALES, "--config", "stories", "--column", "title"),
    "closed": ("--dataset", "closed/plain"),
    "coded": ("--dataset", "people/coded"),
    "unknown": ("--dataset", "nobody/nothing"),
    "impossible": ("--dataset", "no body"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "examples"), [("plain", 1), ("split", 3), ("other split", 1), ("both splits", 4), ("column", 1)]
)
def test_datasets_of_the_hub_are_read(said: Said, name: str, examples: int) -> None:
    code, out, err = said[name]
    assert (code, err) == (0, ""), err
    assert json.loads(out)["entropy"]["notes"]["examples"] == examples


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no config", "people/tales has several configurations. Choose one of stories, letters."),
        ("wrong config", "people/tales has no configuration 'poems'. Choose one of stories, letters."),
        ("wrong split", "people/tales has no split 'test'. Choose one of train, validation."),
        ("wrong column", "people/tales has no column 'title'. Choose one of text, id."),
        ("closed", "Dataset 'closed/plain' is a gated dataset on the Hub. You must be authenticated to access it. "
         "Log in with `hf auth login`, or use a local file."),
        ("coded", "people/coded needs code of its own to be read, which is not run (Dataset scripts are no longer "
         "supported, but found coded.py). Use a copy of it in files such as Parquet or JSONL."),
        ("unknown", "There is no dataset 'nobody/nothing' on the hub, or it is private. Check the spelling, or log in "
         "with `hf auth login`."),
        ("impossible", "no body cannot be read: Repo id must use alphanumeric chars, '-', '_' or '.'. The name cannot "
         "start or end with '-' or '.' and the maximum length is 96: 'no body'. Check what it holds."),
    ],
)  # fmt: skip
def test_what_the_hub_does_not_give_is_one_sentence(said: Said, name: str, sentence: str) -> None:
    assert said[name] == (2, "", f"interp: {sentence}\n")


@pytest.fixture
def line(circuit_directory: Path) -> tuple[str, ...]:
    return ("scan", "--model", str(circuit_directory), *OPTIONS)


@pytest.mark.usefixtures("said")
def test_offline_the_cache_is_read(
    command: Command, line: tuple[str, ...], home: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", home / "datasets")
    code, out, err = command(*line, *LINES["split"])
    assert code == 0, err
    directory = command(*line, "--dataset", root / "people" / "tales", *LINES["split"][2:])[1]
    assert json.loads(out)["entropy"]["rows"] == json.loads(directory)["entropy"]["rows"]
    for name, sentence in (
        ("wrong split", "people/tales has no split 'test'. Choose one of train, validation."),
        ("wrong config", "Couldn't find cache for people/tales for config 'poems' Available configs in the cache: "
         "['stories']. Choose one of these (--config), or unset HF_HUB_OFFLINE."),
        ("unknown", "Couldn't reach 'nobody/nothing' on the hub: HF_HUB_OFFLINE is set, and the local cache has no "
         "copy. Check the name, unset HF_HUB_OFFLINE, or use a local file."),
    ):  # fmt: skip
        assert command(*line, *LINES[name]) == (2, "", f"interp: {sentence}\n")


@pytest.mark.parametrize(("listens", "reason"), [(True, "timed out"), (False, "Connection refused")])
def test_a_hub_that_does_not_answer_is_asked_once(
    command: Command, line: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, listens: bool, reason: str
) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        if listens:
            place.listen()
        for name in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
            monkeypatch.setattr(name, False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{place.getsockname()[1]}")
        monkeypatch.setattr("interp.dataset_rows.SECONDS", 0.5)
        code, out, err = command(*line, *LINES["unknown"])
        asked = _waiting(place) if listens else None
    assert (code, out) == (2, "") and asked in (1, None)
    assert err.startswith("interp: Couldn't reach 'nobody/nothing' on the hub (")
    assert reason in err and "set HF_HUB_OFFLINE=1" in err and err.count("\n") == 1


def _waiting(place: socket.socket) -> int:
    """How many connections have come in that nobody answered."""
    place.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            place.accept()[0].close()
            count += 1
    return count
