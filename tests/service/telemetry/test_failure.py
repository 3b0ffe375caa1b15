"""What the log says of an error: what it is and where it was raised, never what somebody wrote."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import IntegrityError

from service.telemetry.failure import failure, frames


def test_class_and_code() -> None:
    assert failure(ValueError("private")) == "ValueError"
    assert failure(FileNotFoundError(2, "private")) == "FileNotFoundError (2)"
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table t (a primary key)")
        connection.execute("insert into t values ('private')")
        try:
            connection.execute("insert into t values ('private')")
        except sqlite3.IntegrityError as error:
            wrapped = IntegrityError("insert into t values (:a)", {"a": "private"}, error)
    assert failure(wrapped) == "IntegrityError (SQLITE_CONSTRAINT_PRIMARYKEY)"


def test_frames_show_the_way_and_no_message() -> None:
    try:
        try:
            raise KeyError("private")
        except KeyError as inner:
            raise RuntimeError("private too") from inner
    except RuntimeError as error:
        shown = frames(error)
    assert "private" not in shown.replace('raise KeyError("private")', "").replace(
        'raise RuntimeError("private too")', ""
    )
    assert shown.startswith("RuntimeError\n")
    assert "caused by KeyError\n" in shown
    assert "test_failure.py" in shown
