"""The page of the engine's operators says what the engine does today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_page_is_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "operator_page.py"))
    committed = script["PAGE"].read_text(encoding="utf-8")
    assert committed == script["generate"](), "run: python scripts/operator_page.py"
