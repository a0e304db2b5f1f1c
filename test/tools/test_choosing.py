"""The tables of docs/choosing.md are those of the measured files."""

from __future__ import annotations

from tools import choosing


def test_the_tables_are_those_that_were_measured() -> None:
    text = choosing.PAGE.read_text()
    assert choosing.page(text) == text, 'run python -m tools.choosing'
    assert '| NVIDIA H200 | `open_clip:ViT-B-16`, bf16 | 448x768 | 28x48 | 3.53 | 8.6 |' in text
