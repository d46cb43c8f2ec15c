"""`interp syntactic`: the table of relations, the formats, causal models and encoders."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertModel

from circuits.training.tokenizer import build_tokenizer
from interp.results import load_result
from tests.cli.conftest import Command

# The governor of the object is always two words to the left, that of the article the next word.
ARCS = [("Mary", 2, "nsubj"), ("gave", 0, "root"), ("the", 4, "det"), ("ring", 2, "obj"), ("to", 6, "case"),
        ("John", 2, "obl"), (".", 2, "punct")]  # fmt: skip


@pytest.fixture
def treebank(tmp_path: Path) -> Path:
    rows = [
        "\t".join(map(str, (i, form, *"____", head, name, "_", "_"))) for i, (form, head, name) in enumerate(ARCS, 1)
    ]
    path = tmp_path / "gold.conllu"
    path.write_text(("\n".join(rows) + "\n\n") * 3)
    return path


@pytest.fixture(scope="module")
def encoder_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "encoder"
    tokenizer = build_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_causal_model_shows_the_arcs_it_sees(command: Command, words_directory: Path, treebank: Path) -> None:
    line = ("syntactic", "--model", words_directory, "--conllu", treebank, "--min-arcs", "1", "--quiet")
    code, out, err = command(*line)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    # The first part of the table, whose second part holds what was found on other sentences.
    found = {(row[0], row[1]): row for row in rows if row[1:2] in (["dep->gov"], ["gov->dep"]) and len(row) > 5}
    assert set(found) == {
        ("all", "dep->gov"), ("all", "gov->dep"), ("nsubj", "gov->dep"), ("det", "gov->dep"), ("obj", "dep->gov"),
        ("case", "gov->dep"), ("obl", "dep->gov"), ("punct", "dep->gov"),
    }  # fmt: skip
    assert found["obj", "dep->gov"][2] == "3"
    assert found["obj", "dep->gov"][6:] == ["-2", "1.00", "0.44-1.00", "too", "few"]
    assert "of 8 relations and directions, the best head is better than the best offset in 0" in " ".join(out.split())
    assert found["all", "gov->dep"][2] == "9" and found["all", "dep->gov"][2] == "6"
    assert "causal attention: arcs to the left are scored dep->gov" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100
    assert "nsubj" not in command(*line, "--min-arcs", "4")[1]


def test_an_encoder_shows_every_arc_in_both_directions_and_the_formats_agree(
    command: Command, encoder_directory: Path, treebank: Path, tmp_path: Path
) -> None:
    csv, saved = tmp_path / "relations.csv", tmp_path / "saved"
    code, out, err = command(
        "syntactic", "--model", encoder_directory, "--conllu", treebank, "--n", "2", "--exclude", "det", "--json", "-",
        "--csv", csv, "--save", saved, "--quiet",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out, parse_constant=pytest.fail)
    frame = pd.read_csv(csv)
    known = [{k: v for k, v in row.items() if not k.startswith("difference")} for row in frame.to_dict("records")]
    assert [row | dict.fromkeys(("difference", "difference_low", "difference_high")) for row in known] == [
        {name: row[name] for name in (*known[0], "difference", "difference_low", "difference_high")}
        for row in document["relations"]
    ]  # two sentences say nothing of others: null in JSON, empty in CSV
    assert (frame.groupby("relation").size() == 2).all() and not document["notes"]["causal"]
    arcs = frame.set_index(["relation", "direction"])["arcs"]
    assert arcs["obj", "governor->dependent"] == 2 and arcs["all", "dependent->governor"] == 10  # two articles left out
    assert len(document["heads"]) == 8 and load_result(saved).notes["sentences"] == 2


def test_mistakes_are_one_sentence(command: Command, words_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.conllu").write_text("1 Mary\n")
    for path, said in ((tmp_path / "none", "cannot be read"), (tmp_path / "odd.conllu", "line 1 has 1 columns")):
        code, out, err = command("syntactic", "--model", words_directory, "--conllu", path, "--quiet")
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
