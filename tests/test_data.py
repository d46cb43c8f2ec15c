"""Text from files, and its packing into sequences."""

import gc
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

import interp
from interp.data import sequences, texts_of_dataset, texts_of_file
from interp.errors import InputError

BOM = b"\xef\xbb\xbf"
CUT_OFF = gzip.compress(b"a text that is cut off", mtime=0)[:-9]
TEXTS = ["Lily had a ball.", "Tom saw a big dog. The dog ran.", "The end."]


@pytest.fixture(scope="module")
def model(stories260k: Path) -> interp.Model:
    return interp.load(stories260k)


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)))


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": _jsonl,
    "a.json": lambda path: path.write_text(json.dumps([{"text": text} for text in TEXTS])),
    "a.csv": lambda path: pd.DataFrame({"id": range(3), "text": TEXTS}).to_csv(path, index=False),
    "a.parquet": lambda path: pd.DataFrame({"story": TEXTS}).to_parquet(path),
    "a.txt": lambda path: path.write_text("\n".join(TEXTS)),
    "a.tsv": lambda path: pd.DataFrame({"id": range(3), "text": TEXTS}).to_csv(path, index=False, sep="\t"),
    "windows.txt": lambda path: path.write_bytes(BOM + "\r\n".join(TEXTS).encode()),
    "windows.csv": lambda path: path.write_bytes(BOM + pd.DataFrame({"text": TEXTS}).to_csv(index=False).encode()),
    "a.txt.gz": lambda path: path.write_bytes(gzip.compress("\n".join(TEXTS).encode())),
    "a.jsonl.gz": lambda path: pd.DataFrame({"text": TEXTS}).to_json(path, orient="records", lines=True),
    "a.csv.xz": lambda path: pd.DataFrame({"text": TEXTS}).to_csv(path, index=False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_its_documents(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(texts_of_file(tmp_path / name, sample_by="line")) == TEXTS


def test_what_is_one_document_of_a_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    found = {how: list(texts_of_file(tmp_path / "a.txt", sample_by=how)) for how in ("document", "paragraph", "line")}
    assert found["document"] == ["one\ntwo\n\nthree\n"]
    assert [text.strip() for text in found["paragraph"]] == ["one\ntwo", "three"]
    assert [text for text in found["line"] if text] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        ("none.txt", None, None, "There is no file .*none.txt"),
        ("", None, None, "is a directory. Give a file in it, or the directory as a dataset"),
        ("bytes.txt", b"\xff\xfe\x00", None, "bytes.txt is not UTF-8 text .*Save it as UTF-8"),
        ("cut.txt.gz", CUT_OFF, None, "cut.txt.gz cannot be read: Compressed"),
        ("plain.txt.gz", b"not compressed", None, "plain.txt.gz cannot be read: Not a gzipped file"),
        ("empty.jsonl", b"", None, "empty.jsonl cannot be read"),
        ("empty.csv", b"", None, "empty.csv cannot be read: No columns"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": oops\n', None, "broken.jsonl cannot be read: JSON parse error"),
        ("surrogate.jsonl", b'{"text": "\\ud800"}\n', None, "surrogate.jsonl cannot be read: JSON parse error"),
        ("fake.parquet", b"hello", None, "fake.parquet cannot be read: Parquet"),
        ("a.csv", b"text,id\na,1\n", "story", "a.csv has no column 'story'. Choose one of text, id"),
        ("a.csv", b"title,story\na,b\n", None, "has no column 'text'. Choose one of title, story"),
        ("a.csv", b"text,id\na,1\n", "id", "Row 1 of .*a.csv holds int in place of text"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # pandas closes a CSV file only at its end
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, column: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        list(texts_of_file(tmp_path / name, column=column))
    gc.collect()


def test_a_directory_is_a_dataset_and_a_file_is_not(tmp_path: Path) -> None:
    _jsonl(tmp_path / "train.jsonl")
    assert list(texts_of_dataset(str(tmp_path))) == TEXTS
    with pytest.raises(InputError, match="train.jsonl is a file, not a dataset"):
        texts_of_dataset(str(tmp_path / "train.jsonl"))


CARD = """\
---
configs:
- config_name: stories
  default: true
  data_files:
  - {split: train, path: data/train-*.parquet}
  - {split: validation, path: data/validation.parquet}
- config_name: letters
  data_files: letters/*.parquet
---
# Stories and letters
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A directory as the hub keeps a dataset: two configurations, splits, shards, other columns."""
    for name, column, texts in (
        ("data/train-00000-of-00002", "text", TEXTS[:2]),
        ("data/train-00001-of-00002", "text", TEXTS[2:]),
        ("data/validation", "text", ["Held out."]),
        ("letters/one", "letter", ["Dear Tom,"]),
    ):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pd.DataFrame({"id": range(len(texts)), column: texts, "tags": [["a"]] * len(texts)}).to_parquet(path)
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({}, TEXTS),
        ({"config": "stories"}, TEXTS),
        ({"split": "validation"}, ["Held out."]),
        ({"split": "train+validation"}, [*TEXTS, "Held out."]),
        ({"config": "letters", "column": "letter"}, ["Dear Tom,"]),
    ],
)
def test_configurations_and_splits_of_a_directory(repository: Path, options: dict[str, str], texts: list[str]) -> None:
    assert list(texts_of_dataset(str(repository), **options)) == texts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"config": "poems"}, "has no configuration 'poems'. Choose one of stories, letters"),
        ({"split": "test"}, "has no split 'test'. Choose one of train, validation"),
        ({"split": "train[:1]"}, r"has no split 'train\[:1\]'. Choose one of train, validation"),
        ({"config": "letters", "split": "validation"}, "has no split 'validation'. Choose one of train"),
        ({"config": "letters"}, "has no column 'text'. Choose one of id, letter, tags"),
        ({"column": "title"}, "has no column 'title'. Choose one of id, text, tags"),
        ({"column": "tags"}, "Row 1 of .* holds list in place of text. Choose another column"),
    ],
)
def test_what_a_directory_does_not_hold_is_said_with_the_choice(
    repository: Path, options: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        list(texts_of_dataset(str(repository), **options))  # type: ignore[arg-type]


def test_several_configurations_without_a_default_must_be_chosen_from(repository: Path) -> None:
    (repository / "README.md").write_text(CARD.replace("  default: true\n", ""))
    with pytest.raises(InputError, match="has several configurations. Choose one of stories, letters"):
        list(texts_of_dataset(str(repository)))
    (repository / "README.md").unlink()
    with pytest.raises(InputError, match="no configuration 'stories'. Choose one of default"):
        list(texts_of_dataset(str(repository), config="stories"))


def test_a_directory_is_streamed(repository: Path) -> None:
    """The second shard is not opened before the first has been read."""
    (repository / "data" / "train-00001-of-00002.parquet").write_bytes(b"nonsense")
    texts = texts_of_dataset(str(repository))
    assert [next(texts), next(texts)] == TEXTS[:2]
    with pytest.raises(InputError, match="cannot be read: .*not a parquet file"):
        next(texts)


def test_a_directory_can_have_the_name_of_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json").mkdir()
    _jsonl(tmp_path / "json" / "train.jsonl")
    monkeypatch.chdir(tmp_path)
    assert list(texts_of_dataset("json")) == TEXTS


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody/nothing", "Couldn't reach 'nobody/nothing' on the hub: HF_HUB_OFFLINE is set.*use a local file"),
        ("", "There is no directory ''. Check the path, or give a dataset of the hub"),
        ("./nowhere", "There is no directory ./nowhere. Check the path"),
        ("some/where/else", "There is no directory some/where/else. Check the path"),
        ("parquet", "parquet is a format, not a dataset. Give a file"),
    ],
)
def test_datasets_that_are_not_there(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(texts_of_dataset(name))


def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: The directory at .* doesn't contain any data files. Check"):
        list(texts_of_dataset(str(tmp_path)))
    (tmp_path / f"{tmp_path.name}.py").touch()
    with pytest.raises(InputError, match="needs code of its own to be read, which is not run .*Use a copy of it"):
        list(texts_of_dataset(str(tmp_path)))


def test_packed_sequences_are_the_documents_with_separators_between(model: interp.Model) -> None:
    tokenizer = model.tokenizer
    stream: list[int] = []
    for text in TEXTS:
        stream += [*([tokenizer.eos_token_id] if stream else []), *tokenizer(text, add_special_tokens=False).input_ids]
    batch = sequences(model, [TEXTS[0], " ", TEXTS[1], "", TEXTS[2]], n=100, length=8)
    assert batch.prepend_bos and batch.padding_side is None
    assert (batch.tokens[:, 0] == tokenizer.bos_token_id).all()
    assert batch.tokens[:, 1:].flatten().tolist() == stream[: len(stream) // 7 * 7]
    without = sequences(model, TEXTS, n=2, length=8, prepend_bos=False)
    assert not without.prepend_bos and without.tokens.flatten().tolist() == stream[:16]


def test_a_short_text_is_one_short_sequence(model: interp.Model) -> None:
    assert sequences(model, TEXTS[:1], n=5).tokens.equal(model.to_tokens(TEXTS[0]))


def test_documents_apart_are_padded_and_cut_off(model: interp.Model) -> None:
    batch = sequences(model, ["", *TEXTS], n=2, length=12, packed=False)
    whole = model.batch(TEXTS[:2])
    n_first = int(whole.mask[0].sum())
    assert n_first < 12 and batch.mask.sum(1).tolist() == [n_first, 12]
    assert batch.tokens[1].equal(whole.tokens[1, :12])
    forced = sequences(model, TEXTS, n=2, length=12, packed=False, prepend_bos=False)
    assert forced.tokens[1].equal(whole.tokens[1, 1:13]) and not forced.prepend_bos


def test_no_more_is_read_than_is_asked_for(model: interp.Model) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "Lily had a ball. \n" * 20_000

    assert sequences(model, endless(), n=3, length=64).tokens.shape == (3, 64)
    assert len(sequences(model, endless(), n=2, length=64, packed=False)) == 2


def test_a_document_in_pieces_has_the_tokens_of_its_lines(model: interp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.data.PIECE_CHARACTERS", 10)
    lines = ["Lily had a ball.\n", "Tom ran.\n", "The end."]
    expected = [i for line in ("".join(lines[:1]), "".join(lines[1:])) for i in model.to_tokens(line)[0, 1:].tolist()]
    assert sequences(model, ["".join(lines)], n=1, length=200).tokens[0, 1:].tolist() == expected


@pytest.mark.parametrize(("n", "length"), [(0, 8), (1, 1), (1, 513)])
def test_sequences_that_cannot_be(model: interp.Model, n: int, length: int) -> None:
    with pytest.raises(InputError, match="of 2 to 512 tokens"):
        sequences(model, TEXTS, n=n, length=length)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("content", ["", "\n\n", '{"text": null}\n{"text": ""}\n'])
def test_nothing_but_empty_documents(model: interp.Model, tmp_path: Path, content: str, packed: bool) -> None:
    path = tmp_path / ("a.jsonl" if content else "a.txt")
    path.write_text(content)
    with pytest.raises(InputError, match="There is no text"):
        sequences(model, texts_of_file(path), n=1, packed=packed)


def test_the_scan_takes_what_the_loader_gives(model: interp.Model) -> None:
    apart = interp.scan(model, sequences(model, TEXTS, n=3, packed=False), ["previous-token"])["previous-token"]
    texts = interp.scan(model, TEXTS, ["previous-token"], batch_size=1)["previous-token"]
    assert isinstance(apart, interp.HeadScores) and isinstance(texts, interp.HeadScores)
    torch.testing.assert_close(apart.scores, texts.scores, atol=1e-6, rtol=0)
    assert apart.provenance.prompt_hash == texts.provenance.prompt_hash
