"""Want-lists to bytes and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_agent.contract.wants import decode_want, encode_want
from trimtab_agent.errors import CallerError, FormatError

DIGESTS = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=64, unique=True)


@given(DIGESTS)
def test_digests_come_back_in_their_order(digests):
    names = [digest.hex() for digest in digests]
    payload = encode_want(names)
    assert payload == b"".join(digests)
    assert decode_want(payload, what="a test") == tuple(names)


@given(st.binary(max_size=2100))
def test_any_bytes_are_a_want_list_or_a_format_error(payload):
    try:
        found = decode_want(payload, what="a test")
    except FormatError:
        return
    assert encode_want(found) == payload


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "this has 0 bytes"),
        (bytes(31), "this has 31 bytes"),
        (bytes(33), "this has 33 bytes"),
        (bytes(32 * 65), "this has 2080 bytes"),
        (bytes(64), "names a chunk more than once"),
    ],
)
def test_bad_want_lists_are_refused(payload, message):
    with pytest.raises(FormatError, match=f"^dev-1/want: a want-list .*{message}"):
        decode_want(payload, what="dev-1/want")


@pytest.mark.parametrize(
    ("digests", "message"),
    [
        ([], "not 0 of which"),
        (["00" * 32] * 2, "not 2 of which 1 are distinct"),
        ([f"{number:064x}" for number in range(65)], "not 65 of which"),
        (["xyz"], "takes SHA-256 in hexadecimal"),
        (["ab"], "'ab' is no SHA-256: it has 1 bytes"),
    ],
)
def test_what_cannot_be_wanted_is_refused(digests, message):
    with pytest.raises(CallerError, match=message):
        encode_want(digests)
