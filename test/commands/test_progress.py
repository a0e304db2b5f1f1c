from __future__ import annotations

import io
import sys

import pytest

from semanom_ros.commands import progress_bars as progress


def look_at(frames: int) -> None:
    bars = progress.Bars()
    bars.begin('drive', frames, 'frame')
    for _ in range(frames):
        bars.advance(1)
    bars.end()


def test_a_log_gets_whole_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, 'LOG_INTERVAL_S', 0.0)
    look_at(3)
    lines = capsys.readouterr().err.split('\n')
    assert lines[-1] == ''
    assert lines[-2] == 'drive: 3 of 3, 00:00 left'
    assert all(line.startswith('drive: ') for line in lines[:-1])
    assert '\r' not in ''.join(lines)


def test_what_is_done_soon_leaves_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    look_at(3)
    assert capsys.readouterr().err == ''


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    look_at(3)
    assert '\rdrive: 100%' in terminal.getvalue()
