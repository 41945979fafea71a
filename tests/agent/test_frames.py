"""Frames between the agent and its children: what is sent comes, and rubbish is told as such."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_agent import frames
from trimtab_agent.errors import FormatError

KINDS = [frames.QUESTION, frames.ANSWER, frames.FAULT, frames.READ, frames.MORE, frames.PIECE]


@pytest.fixture(scope="module")
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.binary(max_size=3000)), max_size=20))
def test_what_is_sent_comes_in_order(pair, sent):
    ours, theirs = pair
    for kind, body in sent:
        frames.send(ours, kind, body)
    assert [frames.receive(theirs, timeout_s=5) for _ in sent] == sent


@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_rubbish_or_too_few(data):
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(data)
        try:
            frame = frames.receive(theirs, timeout_s=5)
        except (FormatError, EOFError):
            return
    assert data.startswith(frame.kind + len(frame.body).to_bytes(4, "big") + frame.body)


def test_a_claimed_length_is_not_believed():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frames.ANSWER + (frames.MAX_BODY_BYTES + 1).to_bytes(4, "big"))
        with pytest.raises(FormatError, match=f"at most {frames.MAX_BODY_BYTES} bytes"):
            frames.receive(theirs, timeout_s=5)


def test_a_frame_that_never_ends_is_waited_for_no_longer_than_the_limit():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frames.ANSWER + (9).to_bytes(4, "big") + b"half")
        with pytest.raises(TimeoutError):
            frames.receive(theirs, timeout_s=0.05)
