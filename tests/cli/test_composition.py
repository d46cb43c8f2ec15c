"""`interp composition`: the circuit set by hand, TransformerLens' numbers in every format, and what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

import interp
from interp.results import HeadPairs
from tests.cli.conftest import Command
from tests.hand_weighted import letters_tokenizer
from tests.report.test_page import Reader
from tests.tiny_models import tiny_llama

KINDS = ["q-composition", "k-composition", "v-composition"]


@pytest.fixture(scope="module")
def three_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose norms have no gain, so that TransformerLens' scores are those of folded weights."""
    directory = tmp_path_factory.mktemp("models") / "three"
    tiny_llama(tokenizer=letters_tokenizer(directory), n_layers=3).hf.save_pretrained(directory)
    return directory


def test_the_circuit_composes_through_keys(command: Command, circuit_directory: Path) -> None:
    code, out, err = command("composition", "--model", circuit_directory, "--kind", "K", "--top", "1")
    assert (code, err) == (0, "")
    row = next(line.split() for line in out.splitlines() if "K-composition" in line)
    assert row[1:3] == ["L0H0", "L1H1"] and float(row[3]) > 1.9 * float(row[4]) and float(row[5]) > 100
    assert "Q-composition" not in out and "source: the head that writes" in out
    assert max(map(len, out.splitlines())) <= 100


def test_every_pair_and_every_format_has_the_scores_of_transformer_lens(
    command: Command, three_layers: Path, tmp_path: Path
) -> None:
    csv, parquet, saved = tmp_path / "p.csv", tmp_path / "p.parquet", tmp_path / "saved"
    targets = ("--json", "-", "--csv", csv, "--parquet", parquet, "--save", saved)
    code, out, err = command("composition", "--model", three_layers, *targets)
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    assert list(document) == KINDS
    frames = [pd.read_csv(csv), pd.read_parquet(parquet)]
    bridge = interp.load(three_layers).bridge
    for kind in KINDS:
        theirs = bridge.all_composition_scores(kind[0].upper()).scores.detach()
        pairs = document[kind]["pairs"]
        assert len(pairs) == 3 * 4 * 4  # of two of three layers; the others are not there, rather than 0
        for pair in pairs:
            source, destination = (interp.HeadRef.parse(pair[end]) for end in ("source", "destination"))
            assert source.layer < destination.layer
            assert pair["score"] == pytest.approx(float(theirs[*source[:2], *destination[:2]]), abs=1e-5)
        scores = [pair["score"] for pair in pairs]
        for frame in frames:
            assert frame.loc[frame["kind"] == kind, "score"].tolist() == pytest.approx(scores)
        loaded = HeadPairs.load(saved / kind)
        assert loaded.to_frame()["score"].tolist() == pytest.approx(scores)
        assert loaded.chance == pytest.approx(32**-0.5) == pytest.approx(document[kind]["chance"])


def test_the_pairs_of_one_head_and_the_order(command: Command, three_layers: Path) -> None:
    def rows(*options: str) -> list[list[str]]:
        code, out, err = command("composition", "--model", three_layers, "--kind", "v", "--top", "48", *options)
        assert code == 0, err
        cells = [line.replace("V-composition", "").split() for line in out.splitlines()]
        return [row for row in cells if len(row) == 5 and row[0].startswith("L")]

    of_one = rows("--head", "1.2")
    assert len(of_one) == 8 and all("L1H2" in row[:2] for row in of_one)
    for name, column in (("score", 2), ("z", 4)):
        found = [float(row[column]) for row in rows("--by", name)]
        assert len(found) == 48 and found == sorted(found, reverse=True)


def test_the_page_has_a_grid_of_pairs_and_one_of_heads(command: Command, circuit_directory: Path) -> None:
    code, page, err = command("composition", "--model", circuit_directory, "--html", "-", "--quiet")
    assert (code, err) == (0, "")
    found = Reader(page)
    words = " ".join(found.text.split())
    for mode in "QKV":
        assert f"{mode}-composition of every two heads" in words
        assert f"{mode}-composition with the strongest source" in words
    assert "L0H0 to L1H1: 0.12" in words and "L1H1 to L0H0" not in words
    assert "source: L0H0" in words  # the tip of a head
    assert '{"mode": "Q, K, V"}' in words


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--kind", "o"), 2, "There is no kind of composition 'o'. Choose from q, k, v and all."),
        (("--head", "L9H9"), 2, "There is no head L9H9 among these pairs: expected one from L0H0 to L1H1."),
        (("--head", "first"), 2, "'first' does not name an attention head"),
        (("--by", "rank"), 2, "top(k=5, by='rank'): expected a positive number of pairs, by 'score' or 'z'."),
        (("--model", "mini-sinks"), 1, "mini-sinks has attention in one layer only"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    command: Command, circuit_directory: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    found = command("composition", "--model", circuit_directory, *options)
    assert found[:2] == (code, "") and said in found[2] and found[2].count("\n") == 1
