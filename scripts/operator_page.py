#!/usr/bin/env python3
"""Writes docs/engine-operators.md: what the engine computes of ONNX's own test cases.

    python scripts/operator_page.py

Every case of a single node with an operator that the engine knows is run through the engine and
compared with the answer that ONNX gives; up to two a operator are also made into TFLite files and
run in LiteRT. It takes about two minutes.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.onnx_cases import (  # noqa: E402  (after the path is set)
    REFUSED,
    cases,
    cases_of,
    check_case,
    check_file,
    is_float,
    lowerable,
    reason_to_refuse,
)
from trimtab.engine.registry import REGISTRY  # noqa: E402
from trimtab.engine.supported import supported_operators  # noqa: E402
from trimtab.errors import ExportError  # noqa: E402

PAGE = ROOT / "docs" / "engine-operators.md"
FILES_EACH = 2

HEAD = """# Operators of the training engine

`scripts/operator_page.py` writes this page; a test keeps it up to date.

The engine runs {operators} ONNX operators. ONNX has {cases} test cases of a single node with one
of them (`onnx.backend.test`): in {passed} the engine computes what the standard says, within the
case's tolerance, with the same shapes and types; {refused} it refuses by name, for the reasons
below. No case gives a wrong answer.

**TFLite** says what became of up to two of the passing cases with plain types as a file in
LiteRT: *yes* if they compute the same, else what there is no kernel for. **Trained** names the
inputs that become variables where they are initializers.

If, Loop and Scan are not among them. A condition that is constant is resolved while the model is
cleaned; what remains is refused by name.

| operator | passed | refused | trained | TFLite |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One operator's results."""

    operator: str
    passed: int
    refused: int
    tflite: str


def measure(operator: str) -> Row:
    """Runs an operator's cases; one that fails ends the script."""
    names = cases_of(operator)
    passing = [name for name in names if not reason_to_refuse(name)]
    for name in passing:
        check_case(name)
    return Row(operator, len(passing), len(names) - len(passing), as_file(passing))


def as_file(names: list[str]) -> str:
    """Says what becomes of the first few cases in TFLite."""
    possible = [name for name in names if lowerable(name)]
    chosen = sorted(possible, key=is_float, reverse=True)[:FILES_EACH]
    for name in chosen:
        try:
            check_file(name)
        except ExportError as error:
            return "no: " + str(error).rpartition(": ")[2].splitlines()[0]
        except AssertionError:
            return f"no: another answer in `{name}`"
    return "yes" if chosen else "not tried"


def page(rows: list[Row]) -> str:
    """Renders the page."""
    passed, refused = sum(row.passed for row in rows), sum(row.refused for row in rows)
    lines = [
        HEAD.format(operators=len(rows), cases=passed + refused, passed=passed, refused=refused)
    ]
    for row in rows:
        trained = ", ".join(map(str, sorted(REGISTRY[row.operator].trainable))) or "-"
        cells = (row.operator, row.passed, row.refused or "-", trained, row.tflite)
        lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    reasons = Counter(reason_to_refuse(name) for name in cases())
    lines.append("\n## Refused\n\n| what | cases |\n|---|---|\n")
    lines += [f"| {reason} | {reasons[reason]} |\n" for reason in REFUSED]
    return "".join(lines)


def generate() -> str:
    """Runs everything and returns the page."""
    return page([measure(operator) for operator in supported_operators()])


if __name__ == "__main__":
    PAGE.write_text(generate(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
