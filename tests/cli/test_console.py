"""Tables on terminals of any width."""

import pytest

from interp.cli.console import console, print_table
from interp.report import titled_table


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, wraps: bool) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    table = titled_table("a title that is longer than the table")
    table.add_column("", justify="right")
    table.add_column("head", no_wrap=True)
    for name in ("first", "second", "third"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("words", no_wrap=not wraps)
    table.add_row("1", "L0H0", "0.1", "0.2", "0.3", "a few words that need room")
    table.add_section()
    table.add_row("2", "L0H1", "0.4", "0.5", "0.6", "")
    print_table(console(), table)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_what_fits_stays_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(capsys, monkeypatch, 80, wraps=False)
    assert lines[0] == "a title that is longer than the table"
    assert [line.split() for line in lines if "L0H1" in line] == [["2", "L0H1", "0.4", "0.5", "0.6"]]


def test_columns_that_may_wrap_do_so_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(capsys, monkeypatch, 50, wraps=True)
    assert sum("L0H1" in line for line in lines) == 1 and max(map(len, lines)) <= 50
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("width", [30, 40])
def test_what_is_too_wide_is_cut_between_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = printed(capsys, monkeypatch, width, wraps=True)
    rows = [line.split() for line in lines if "L0H1" in line]
    assert len(rows) > 1 and all(row[:2] == ["2", "L0H1"] for row in rows)  # rank and head say whose row it is
    assert [cell for row in rows for cell in row[2:]] == ["0.4", "0.5", "0.6"]
    assert not any("…" in line for line in lines)


def test_words_in_front_are_not_repeated_where_no_column_fits_beside_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank, a head and its role need 24 of 36 characters, an interval 16 more."""
    monkeypatch.setenv("COLUMNS", "36")
    table = titled_table("")
    table.add_column("", justify="right")
    for name in ("head", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("effect", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("1", "L0H3", "a head of a role", "+0.97", "+0.94 to +0.98")
    print_table(console(), table)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "L0H3" in line]
    assert all(row[:2] == ["1", "L0H3"] for row in rows)
    assert " ".join(cell for row in rows for cell in row[2:]) == "a head of a role +0.97 +0.94 to +0.98"
