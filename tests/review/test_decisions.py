"""decisions.csv: rows are added whole and come back; nothing wrong is read silently."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from exreid.errors import ReviewError
from exreid.review.decisions import (
    COLUMNS,
    HEADER,
    Decision,
    append_decision,
    merge_decisions,
    read_decisions,
    standing,
)

ROW = Decision("v1", "v2", "same", "", "Ann", "2026-05-01T12:00:00+00:00", 2.5, 0.75, "queue", None)


def _at(second: int, **changes: object) -> Decision:
    return replace(ROW, when=f"2026-05-01T12:00:{second:02d}+00:00", **changes)


def test_rows_come_back_as_they_were(tmp_path):
    rows = [
        ROW,
        replace(ROW, first='a,"b"', second="ä", verdict="can't tell", who="Bo, junior"),
        replace(ROW, purpose="audit", drawn=1e-7, probability=None),
        replace(ROW, first="=1+1", second="@x", who="'=Bo"),
        replace(ROW, second="", verdict="name", name="Old Nick", purpose="", probability=None),
    ]
    for row in rows:
        append_decision(tmp_path / "decisions.csv", row)
    assert read_decisions(tmp_path / "decisions.csv").decisions == tuple(rows)
    text = (tmp_path / "decisions.csv").read_text()
    assert text.startswith(HEADER)
    assert "\n'=1+1,'@x," in text, "a spreadsheet would run this as a formula"


def test_files_put_together_are_one_also_with_one_of_an_earlier_version(tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    header = ",".join(COLUMNS[:-1])
    old.write_text(f"{header}\nv1,v2,same,,Ann,2026-05-01T12:00:00+00:00,2.5,0.75,queue,\n")
    append_decision(new, _at(1, who="Bo"))
    both = tmp_path / "both.csv"
    for one, other, rows in ((old, new, (ROW, _at(1, who="Bo"))), (new, old, None)):
        both.write_bytes(one.read_bytes() + b"\xef\xbb\xbf" + other.read_bytes())
        assert read_decisions(both).decisions == (rows or (_at(1, who="Bo"), ROW))
    append_decision(old, _at(2))
    assert read_decisions(old).decisions == (ROW, _at(2))
    assert old.read_text().startswith(f"{header}\n")


def test_a_question_without_an_answer_does_not_count():
    asked = replace(ROW, verdict="", name="Zita")
    assert standing([asked, _at(1), replace(asked, second="", name="")]) == (_at(1),)


def test_no_file_has_no_decisions(tmp_path):
    assert read_decisions(tmp_path / "none.csv").decisions == ()


@pytest.mark.parametrize("left", [1, 20, 56])
def test_a_torn_last_line_is_told_and_set_aside_by_the_next_row(tmp_path, left):
    path = tmp_path / "decisions.csv"
    append_decision(path, ROW)
    whole = path.read_bytes()
    append_decision(path, _at(1))
    torn = path.read_bytes()[len(whole) : -1][:left]
    path.write_bytes(whole + torn)
    assert read_decisions(path).decisions == (ROW,)
    assert read_decisions(path).torn == torn.decode()
    append_decision(path, _at(2))
    assert read_decisions(path).decisions == (ROW, _at(2))
    assert (tmp_path / "decisions.csv.torn").read_text() == torn.decode() + "\n"


def test_a_last_row_without_the_end_of_its_line_counts(tmp_path):
    path = tmp_path / "decisions.csv"  # as online spreadsheets write it
    append_decision(path, ROW)
    append_decision(path, _at(1))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    assert read_decisions(path).decisions == (ROW, _at(1))
    append_decision(path, _at(2))
    assert read_decisions(path).decisions == (ROW, _at(1), _at(2))


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_what_unicode_takes_for_the_end_of_a_line_may_stand_in_a_name(tmp_path, mark):
    row = replace(ROW, second=f"v2{mark}x")
    append_decision(tmp_path / "decisions.csv", row)
    assert read_decisions(tmp_path / "decisions.csv").decisions == (row,)


def test_files_that_are_no_such_table_are_told_apart(tmp_path):
    path = tmp_path / "decisions.csv"
    for content, told in (
        (HEADER.replace(",", ";"), "Save it with commas"),
        (HEADER + "v0\rv1,v2\n", "not a table as CSV"),
        ("photo,animal\n", "no column first"),
    ):
        path.write_text(content)
        with pytest.raises(ReviewError, match=told):
            read_decisions(path)


def test_a_torn_header_is_written_again(tmp_path):
    path = tmp_path / "decisions.csv"
    path.write_text(HEADER[:9])
    assert read_decisions(path).decisions == ()
    append_decision(path, ROW)
    assert read_decisions(path).decisions == (ROW,)


def test_a_killed_writer_loses_no_row_that_it_reported(tmp_path):
    path = tmp_path / "decisions.csv"
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from exreid.review.decisions import *\n"
        f"row = {ROW!r}\n"
        "for i in range(100_000):\n"
        "    append_decision(Path(sys.argv[1]), replace(row, seconds=float(i)))\n"
        "    print(i, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(20):
        last = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().splitlines()
    writer.wait()
    reported = int(rest[-1]) if rest else last
    seconds = [row.seconds for row in read_decisions(path).decisions]
    assert seconds == [float(i) for i in range(len(seconds))]
    assert len(seconds) >= reported + 1


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("verdict", "yes", "verdict is 'yes'"),
        ("purpose", "fun", "purpose is 'fun'"),
        ("first", "v3", "not two visits in the order"),
        ("first", "", "no first visit"),
        ("who", "", "nobody is named"),
        ("when", "yesterday", "when is 'yesterday'"),
        ("when", "2026-05-01T12:00:00", "not a time"),
        ("seconds", "-1", "seconds are missing or below 0"),
        ("seconds", "quick", "seconds is 'quick'"),
        ("probability", "1.5", "probability is 1.5"),
        ("drawn", "0.5", "an audit pair, and no other"),
        ("verdict", "name", "has no second visit, and has a name"),
    ],
)
def test_a_wrong_cell_is_an_error_that_names_file_and_row(tmp_path, column, value, told):
    path = tmp_path / "decisions.csv"
    append_decision(path, ROW)
    append_decision(path, ROW)
    lines = path.read_text().splitlines()
    cells = lines[2].split(",")
    cells[COLUMNS.index(column)] = value
    path.write_text("\n".join([*lines[:2], ",".join(cells)]) + "\n")
    with pytest.raises(ReviewError, match=r"decisions\.csv, row 3: ") as error:
        read_decisions(path)
    assert told in str(error.value)


def test_a_row_too_short_and_a_lost_column_are_errors(tmp_path):
    path = tmp_path / "decisions.csv"
    path.write_text(HEADER + "v1,v2,same\n")
    with pytest.raises(ReviewError, match="row 2: 3 cells, and 11 columns"):
        read_decisions(path)
    path.write_text("first,second\nv1,v2\n")
    with pytest.raises(ReviewError, match="no column verdict"):
        read_decisions(path)


def test_a_row_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(ReviewError, match="line break"):
        append_decision(tmp_path / "d.csv", replace(ROW, who="Ann\nBo"))
    assert not (tmp_path / "d.csv").exists()


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "decisions.csv"
    append_decision(path, ROW)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_decisions(path).decisions == (ROW,)


def test_two_files_are_merged_in_the_order_of_their_times_each_row_once():
    ann, bo = [_at(1), _at(3)], [_at(2, who="Bo"), _at(1)]
    assert merge_decisions([ann, bo]) == (_at(1), _at(2, who="Bo"), _at(3))
    assert merge_decisions([bo, ann]) == merge_decisions([ann, bo])


def test_an_undo_takes_back_the_latest_row_of_that_person_about_that_pair():
    rows = [
        _at(1),
        _at(2, verdict="different"),
        _at(3, who="Bo"),
        _at(4, first="v0"),
        _at(5, verdict="undo"),
    ]
    assert standing(rows) == (_at(1), _at(3, who="Bo"), _at(4, first="v0"))
    assert standing([*rows, _at(6, verdict="undo")]) == (_at(3, who="Bo"), _at(4, first="v0"))
    assert standing(rows[::-1]) == standing(rows)
    assert standing([_at(1, verdict="undo")]) == ()


def test_two_writers_at_once_lose_nothing(tmp_path):
    path = Path(tmp_path / "decisions.csv")
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from exreid.review.decisions import *\n"
        f"row = {ROW!r}\n"
        "for i in range(30):\n"
        "    append_decision(Path(sys.argv[1]), replace(row, who=sys.argv[2], seconds=float(i)))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in ("Ann", "Bo")
    ]
    deadline = time.time() + 300
    assert [writer.wait(deadline - time.time()) for writer in writers] == [0, 0]
    rows = read_decisions(path).decisions
    for who in ("Ann", "Bo"):
        assert [row.seconds for row in rows if row.who == who] == [float(i) for i in range(30)]
