"""CoNLL-U: what is read from good lines, and what is said about bad ones."""

from pathlib import Path

import pytest

from interp.analyzers.conllu import Sentence, parse_conllu, read_conllu
from interp.errors import InputError


def conllu(*rows: str) -> str:
    """Rows of ID FORM HEAD DEPREL [MISC], divided by spaces, as full lines."""
    lines: list[str] = []
    for row in rows:
        number, form, head, relation, *misc = row.split(" ")
        lines.append("\t".join([number, form, "_", "_", "_", "_", head, relation, "_", *(misc or ["_"])]))
    return "\n".join(lines) + "\n"


def one(*rows: str) -> Sentence:
    (sentence,) = parse_conllu(conllu(*rows))
    return sentence


def written(sentence: Sentence) -> list[str]:
    return [sentence.text[word.start : word.end] for word in sentence.words]


def test_words_arcs_and_spaces() -> None:
    sentence = one("1 Birds 2 nsubj", "2 sing 0 root SpaceAfter=No", "3 . 2 punct Translit=x|SpaceAfter=No")
    assert sentence.text == "Birds sing."
    assert written(sentence) == ["Birds", "sing", "."]
    assert [(word.head, word.relation) for word in sentence.words] == [(1, "nsubj"), (None, "root"), (1, "punct")]


def test_contractions_share_their_characters() -> None:
    divided = one("1 I 3 nsubj", "2-3 cannot _ _ SpaceAfter=No", "2 can 3 aux", "3 not 0 root", "4 ! 3 punct")
    assert divided.text == "I cannot!" and written(divided) == ["I", "can", "not", "!"]
    fused = one("1-2 du _ _", "1 de 3 case", "2 le 3 det", "3 pain 0 root")
    assert fused.text == "du pain" and written(fused) == ["du", "", "pain"]


def test_comments_empty_nodes_and_several_sentences(tmp_path: Path) -> None:
    text = "# sent_id = a\n" + conllu("1 Go 0 root", "1.1 away _ _") + "\n\n" + conllu("1 Stay 0 root") + "\n"
    path = tmp_path / "two.conllu"
    path.write_text(text.replace("\n", "\r\n"), encoding="utf-8", newline="")
    first, second = read_conllu(path)
    assert [first.text, second.text] == ["Go", "Stay"]
    assert second.place == f"{path}, line 6"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1 a 0 root", "3 b 1 dep"], "line 2 has the ID 3: expected 2"),
        (["x a 0 root"], "line 1 has the ID 'x': expected a number"),
        (["1 a 4 dep", "2 b 0 root"], "line 1 has the HEAD '4': expected the number of another word up to 2"),
        (["1 a 0 root", "2 b 2 dep"], "line 2 has the HEAD '2'"),
        (["1 a _ dep"], "line 1 has the HEAD '_'"),
        (["1 a 0 _"], "line 1 has no DEPREL"),
        (["1  0 root"], "line 1 has no FORM"),
        (["1 a 0 root", "2-3 bc _ _", "2 b 1 dep"], "line 2 has the ID 2-3: expected the words of a contraction"),
    ],
)
def test_bad_lines_are_named(rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        parse_conllu(conllu(*rows), source="treebank")


def test_bad_files_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1 has 3 columns: expected 10, divided by tabs"):
        parse_conllu("1\tBirds\tbird\n")
    with pytest.raises(InputError, match="holds no sentence"):
        parse_conllu("# only a comment\n\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_conllu(tmp_path / "missing.conllu")
    (tmp_path / "latin.conllu").write_bytes(b"1\t\xe9\t_")
    with pytest.raises(InputError, match="UTF-8"):
        read_conllu(tmp_path / "latin.conllu")
