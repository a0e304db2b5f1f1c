"""What every error's message is, whatever it quotes."""

from __future__ import annotations

from semanom_ros.errors import LONGEST_LINE, BagError


def test_message_is_one_line_that_a_terminal_can_show() -> None:
    said = str(BagError('/drive.db3: found no image topic among /a\nuint8[] data\r (\x1b[2J), expected one'))
    assert said == '/drive.db3: found no image topic among /a uint8[] data  (\\x1b[2J), expected one'


def test_long_message_keeps_its_ends() -> None:
    said = str(BagError('/drive.db3: found ' + 143_360 * 'x' + ', expected less; record it again'))
    assert len(said) == LONGEST_LINE
    assert said.startswith('/drive.db3: found x')
    assert said.endswith('x, expected less; record it again')


def test_no_part_of_a_secret_is_left_where_a_message_is_cut() -> None:
    secret = 'https://me:Pa55word@host/v1 '
    for shift in range(0, 60, 7):
        said = str(BagError(shift * 'x' + 10_000 * secret))
        assert len(said) <= LONGEST_LINE
        assert 'Pa5' not in said
        assert '55word' not in said
