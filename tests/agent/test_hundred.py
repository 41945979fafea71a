"""Bad packages of every kind, none of which may ever be active, and good ones, none refused.

`scripts/prove-packages` does the same with any seed and any number; docs/proofs.md says what for.
"""

from __future__ import annotations

import pytest

from support.hundred import BAD, Campaign, table
from support.hundred_good import KINDS as GOOD


@pytest.fixture
def campaign(tmp_path):
    made = Campaign(tmp_path, seed=1)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_bad_package_becomes_active_and_no_good_one_is_refused(campaign):
    lines = campaign.run(bad=len(BAD), good=len(GOOD))
    assert not [line for line in lines if line.fault], table(lines)
    assert {line.kind for line in lines} == {*GOOD, *(kind.name for kind in BAD)}


def test_bad_packages_are_of_many_kinds():
    names = [kind.name for kind in BAD]
    assert 30 <= len(names) == len(set(names))
