"""The mailbox: one slot a camera, in turn, and an end."""

from __future__ import annotations

import threading

from semanom_ros.ros.mailbox import Mailbox


def test_a_newer_item_replaces_the_older_of_its_own_camera() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert not mailbox.put('a', 1)
    assert mailbox.put('a', 2)
    assert not mailbox.put('b', 3)
    assert mailbox.take() == [2]
    assert mailbox.take() == [3]
    assert not mailbox.put('a', 4)


def test_a_fast_camera_does_not_push_itself_forward() -> None:
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put('slow', 's1')
    order: list[str] = []
    for number in range(3):
        mailbox.put('fast', f'f{number}')
        mailbox.put('fast', f'f{number}!')
        order += mailbox.take() or []
        mailbox.put('slow', f's{number + 2}')
    assert order == ['s1', 'f1!', 's3']


def test_what_waits_together_is_taken_together_and_in_turn_where_it_is_too_much() -> None:
    mailbox: Mailbox[str] = Mailbox()
    for camera in 'abc':
        mailbox.put(camera, f'{camera}0')
    mailbox.put('a', 'a1')
    assert mailbox.take(5) == ['a1', 'b0', 'c0']
    mailbox.put('a', 'a2')
    assert mailbox.take(5) == ['a2']
    taken = []
    for number in range(3):
        for camera in 'abc':  # all send all the time
            mailbox.put(camera, f'{camera}{number}')
        taken.append(mailbox.take(2))
    assert taken == [['b0', 'c0'], ['a1', 'b1'], ['c2', 'a2']]


def test_close_wakes_the_reader_and_refuses_more() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[list[int] | None] = []
    reader = threading.Thread(target=lambda: taken.append(mailbox.take()))
    reader.start()
    mailbox.close()
    reader.join(10)
    assert taken == [None]
    assert not mailbox.put('a', 1)
    assert mailbox.take() is None


def test_every_item_reaches_a_reader_that_keeps_up() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int] = []
    both = threading.Semaphore(0)

    def read() -> None:
        while (item := mailbox.take()) is not None:
            taken.extend(item)
            both.release()

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(500):
        mailbox.put(f'camera{number % 3}', number)
        assert both.acquire(timeout=10)
    mailbox.close()
    reader.join(10)
    assert taken == list(range(500))


def test_what_waits_can_be_looked_at_without_being_taken() -> None:
    mailbox = Mailbox[int]()
    mailbox.put('front', 1)
    mailbox.put('rear', 2)
    mailbox.put('front', 3)
    assert mailbox.waiting() == [3, 2]
    assert mailbox.take() == [3]
    assert mailbox.waiting() == [2]
    mailbox.close()
    assert mailbox.waiting() == []
