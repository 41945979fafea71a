"""Broadcast, retained messages and want-lists over a broker that fails in every way."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.flaky_broker import Faults, FlakyBroker
from support.manifests import small_package
from trimtab_agent.contract.chunks import distinct_chunks, sha256_hex
from trimtab_agent.errors import InterruptedUpdateError, TransferTimeoutError
from trimtab_agent.pull import pull
from trimtab_agent.retained import Retained
from trimtab_agent.transfer import mqtt_ways

PACKAGE = small_package(model=os.urandom(200_000))  # 50 chunks
CHUNKS = distinct_chunks(PACKAGE.manifest.files)
TIMEOUT_S = 0.004


class Kept:
    """A cache that knows what it must never see again."""

    def __init__(self, broker):
        self.wire = {}
        self._broker = broker

    def has(self, chunk):
        return chunk.sha256 in self.wire

    def put(self, chunk, wire):
        assert sha256_hex(wire) == chunk.sha256
        assert chunk.sha256 not in self.wire
        self.wire[chunk.sha256] = wire
        self._broker.requested.append(f"kept {chunk.sha256}")

    def check(self):
        """No chunk was asked for once it was kept."""
        kept = set()
        for name in self._broker.requested:
            if name.startswith("kept "):
                kept.add(name.removeprefix("kept "))
            assert name not in kept


def transfer(faults, *, seed=0, group=None, stop=lambda: False, timeout_s=TIMEOUT_S):
    broker = FlakyBroker(PACKAGE.wire, faults, seed)
    cache = Kept(broker)
    ways = mqtt_ways(broker, device="dev-1", timeout_s=timeout_s)(group)
    try:
        return pull(ways, CHUNKS, cache, stop=stop), broker, cache
    finally:
        cache.check()
        assert broker.open == set()
        assert broker.most_open <= 24  # the window, and what is closed with the next request


def test_a_good_broker_brings_all_from_what_it_retains():
    found, broker, cache = transfer(Faults())
    assert cache.wire == PACKAGE.wire
    assert found.by_way == {"retained": len(CHUNKS)}
    assert len(broker.requested) == 2 * len(CHUNKS)  # each asked for once, each kept


@pytest.mark.parametrize(
    "faults",
    [
        Faults(lost=0.3),
        Faults(forged=0.3),
        Faults(doubled=1.0),
        Faults(delayed=0.4),
        Faults(cut=0.05),
        Faults(wiped_after=20),
        Faults(wiped_after=1, host="denies"),
        Faults(wiped_after=20, host="lies"),
        Faults(lost=0.1, forged=0.1, doubled=0.1, delayed=0.1, cut=0.05, wiped_after=30),
    ],
    ids=str,
)
def test_it_heals(faults):
    found, _, cache = transfer(faults)
    assert cache.wire == PACKAGE.wire
    assert sum(found.by_way.values()) == len(CHUNKS)


def test_poisoned_messages_are_replaced_by_the_host_and_counted():
    found, _, cache = transfer(Faults(forged=0.2), seed=3)
    assert cache.wire == PACKAGE.wire
    assert found.rejected > 0
    assert found.by_way["asked"] >= found.rejected


@pytest.mark.parametrize(
    ("host", "message"),
    [("silent", "is `trimtab serve` running"), ("absent", "it says that it lacks them")],
)
def test_a_host_that_cannot_help_ends_it_with_what_came(host, message):
    with pytest.raises(TransferTimeoutError, match=message):
        transfer(Faults(wiped_after=20, host=host))


def test_a_broker_that_retains_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(FlakyBroker, "retains", False)
    found, broker, _ = transfer(Faults())
    assert found.by_way == {"asked": len(CHUNKS)}
    assert broker.most_open == 0


def test_want_lists_fit_what_the_broker_takes(monkeypatch):
    monkeypatch.setattr(FlakyBroker, "max_payload_bytes", 70)
    monkeypatch.setattr(FlakyBroker, "retains", False)
    found, _, _ = transfer(Faults())
    assert found.by_way == {"asked": len(CHUNKS)}


def test_what_is_overtaken_is_not_waited_for():
    lost = CHUNKS[3]
    broker = FlakyBroker({k: v for k, v in PACKAGE.wire.items() if k != lost.sha256}, Faults(), 0)
    cache = Kept(broker)
    with pytest.raises(TransferTimeoutError, match=f"nothing came at .*/{lost.sha256}"):
        pull({"retained": Retained(broker, timeout_s=60)}, CHUNKS, cache, stop=lambda: False)
    assert cache.wire.keys() == PACKAGE.wire.keys() - {lost.sha256}


@pytest.mark.parametrize("way", ["retained", "asked"])
def test_what_a_cap_lets_through_one_by_one_is_asked_for_one_by_one(way):
    class Grouped(FlakyBroker):
        def subscribe_many(self, names, handler):
            requests.append(len(names))
            super().subscribe_many(names, handler)

        def publish(self, topic, payload, **properties):
            requests.append(len(payload) // 32)
            super().publish(topic, payload, **properties)

    def held_back():
        for chunk in CHUNKS[:5]:
            time.sleep(0.03)
            yield chunk

    requests = []
    source = mqtt_ways(Grouped(PACKAGE.wire, Faults(), 0), device="d", timeout_s=5)(None)[way]
    found = [chunk for chunk, _ in source.fetch(held_back(), stop=lambda: False)]
    assert found == CHUNKS[:5]
    assert set(requests) == {1}


class Broadcasting(FlakyBroker):
    """Broadcasts when somebody listens."""

    def subscribe_many(self, names, handler):
        super().subscribe_many(names, handler)
        if "/group/" in names[0]:
            handler(names[0], b"rubbish", {})
            handler(names[0], os.urandom(4096), {})
            for wire in list(self._wire.values())[:10]:
                handler(names[0], wire, {})


def test_a_broadcast_is_kept_and_the_rest_repaired():
    broker = Broadcasting(PACKAGE.wire, Faults(), 0)
    cache = Kept(broker)
    ways = mqtt_ways(broker, device="dev-1", timeout_s=TIMEOUT_S)("line-3")
    found = pull(ways, CHUNKS, cache, stop=lambda: False)
    assert found.by_way == {"broadcast": 10, "retained": len(CHUNKS) - 10}
    assert (cache.wire, broker.open) == (PACKAGE.wire, set())


def test_stop_ends_every_way_within_a_second():
    for faults in (
        Faults(),
        Faults(lost=1.0),
        Faults(cut=1.0),
        Faults(wiped_after=1, host="silent"),
    ):
        start = time.monotonic()
        end = start + 0.05

        def stop(end=end):
            return time.monotonic() > end

        try:
            transfer(faults, stop=stop, timeout_s=60, group="line-3")
        except InterruptedUpdateError:
            assert time.monotonic() - start < 1.0


SHARE = st.sampled_from([0.0, 0.02, 0.2])
SCHEDULES = st.builds(
    Faults,
    lost=SHARE,
    doubled=SHARE,
    delayed=SHARE,
    forged=SHARE,
    cut=SHARE,
    wiped_after=st.none() | st.integers(1, 60),
    host=st.sampled_from(["honest", "silent", "denies", "lies", "absent"]),
)


@settings(max_examples=15)
@given(SCHEDULES, st.integers(0, 10**6))
def test_whatever_happens_it_ends_right_or_with_an_error(faults, seed):
    try:
        found, _, cache = transfer(faults, seed=seed)
    except TransferTimeoutError:
        return
    assert cache.wire == PACKAGE.wire
    assert found.wire_bytes == sum(map(len, PACKAGE.wire.values()))
