"""Logs that stay under a bound while a process writes to them."""

from __future__ import annotations

from pathlib import Path

from service.processes.log_file import LogFile


def test_what_is_too_much_moves_aside_and_the_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "policy.log"
    log = LogFile(path, limit=100)
    with log.open() as stream:
        stream.write(b"x" * 90 + b"\n")
        stream.flush()
        log.trim()
        assert path.stat().st_size == 91, "not too much yet"
        stream.write(b"y" * 20 + b"\n")
        stream.flush()
        log.trim()
        assert path.stat().st_size == 0
        stream.write(b"after\n")
        stream.flush()
    assert path.read_bytes() == b"after\n", "no gap of zero bytes: the writer appends"
    assert path.with_name("policy.log.1").read_bytes() == b"x" * 90 + b"\n" + b"y" * 20 + b"\n"
    assert log.tail(5) == ["after"]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["policy.log", "policy.log.1"]


def test_the_tail_is_of_the_process_that_wrote_last(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "policy.log")
    assert log.tail(3) == []
    with log.open() as stream:
        stream.write(b"of the first\n")
    with log.open() as stream:
        assert log.tail(3) == []
        stream.write(b"one\ntwo\n\nthree\nfour\n")
    assert log.tail(3) == ["two", "three", "four"]


def test_colours_and_progress_bars_are_left_out(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "policy.log")
    with log.open() as stream:
        stream.write(b"\x1b[32mINFO\x1b[0m ready\nLoading:  0%\rLoading: 50%\rLoading: 100%\n\xff\xfe bad bytes\n")
    assert log.tail(3) == ["INFO ready", "Loading: 100%", "\ufffd\ufffd bad bytes"]
