"""Spoilt inputs to every parser: only typed errors, in bounded time and memory.

`scripts/fuzz --minutes N` does the same for longer, and keeps what does harm.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import support.fuzz
from support.fuzz import Target, hunt, save, try_input
from support.fuzz_inputs import change_json
from support.fuzz_targets import targets
from trimtab_agent.errors import FormatError


@pytest.fixture(scope="module")
def parsers(tmp_path_factory):
    return targets(tmp_path_factory.mktemp("fuzz"))


def hunted(parsers, tmp_path, *, seed, inputs, slow_inputs):
    """Returns what does harm, as lines; the inputs are in files of `tmp_path`."""
    harms = []
    for target in parsers:
        limit = slow_inputs if target.slow else inputs
        hunt(
            target,
            seed=seed,
            until=lambda count, limit=limit: count >= limit,
            found=lambda harm: harms.append(f"{harm.target}: {harm.what} - {save(harm, tmp_path)}"),
        )
    return harms


def test_spoilt_inputs_give_typed_errors(parsers, tmp_path):
    assert hunted(parsers, tmp_path, seed=1, inputs=60, slow_inputs=8) == []


@pytest.mark.slow
def test_many_spoilt_inputs_give_typed_errors(parsers, tmp_path):
    assert hunted(parsers, tmp_path, seed=2, inputs=2500, slow_inputs=250) == []


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_any_bytes_give_typed_errors(parsers, data):
    for target in parsers:
        if not target.slow:
            assert try_input(target, data) is None


NESTED = b'{"ids":' + b"[" * 100_000


@pytest.mark.parametrize("data", [NESTED, b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000])
def test_nesting_and_huge_numbers_are_typed_errors(parsers, data):
    # 100,000 brackets end msgspec in a RecursionError, and libyaml in a segmentation fault.
    for target in parsers:
        assert try_input(target, data) is None


def takes_all_memory(data):
    b"x" * (100 << 20)


def divides(data):
    return 1 / 0


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (divides, "ZeroDivisionError: division by zero"),
        (takes_all_memory, " MiB"),
    ],
)
def test_harm_is_seen(read, what, monkeypatch, tmp_path):
    monkeypatch.setattr("support.fuzz.MAX_SECONDS", 0.2)
    harm = try_input(Target("it", [b""], change_json, read), b"x")
    assert what in harm.what
    assert save(harm, tmp_path).read_bytes() == b"x"


HANG = """
from support import fuzz

def hang(data):
    while True:
        pass

fuzz.MAX_SECONDS = 0.1
target = fuzz.Target("it", [b""], None, hang)
print(fuzz.try_input(target, b"x").what)
"""


def test_a_hang_is_seen():
    # In a process of its own: pytest's faulthandler has signal handlers use a stack that is too
    # small for the registers of some processors, once a runtime has used them.
    done = subprocess.run(
        [sys.executable, "-c", HANG],
        env={**os.environ, "PYTHONPATH": str(Path(support.fuzz.__file__).parents[1])},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"took longer than" in done.stdout


def test_a_typed_error_is_no_harm():
    def refuse(data):
        raise FormatError("no")

    target = Target("it", [b"{}"], change_json, refuse)
    assert hunt(target, seed=1, until=lambda n: n > 10, found=pytest.fail)


def test_inputs_repeat_by_their_seed():
    example = b'{"a":[1,2,{"b":"c"}],"d":null}'
    made = [[change_json(random.Random(seed), example) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 20
