"""What is said when TensorFlow's converter refuses a graph."""

from __future__ import annotations

import pytest

from trimtab.engine.lower import _reason


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "x: 'tf.Det' op is neither a custom op\ny: 'tf.Betainc' op is neither a custom op\n",
            "TFLite has no kernel for Betainc, Det",
        ),
        (
            "loc(x): error: 'tfl.concatenation' op operand #0\nmore\n",
            "TFLite's kernel of concatenation does not take what it gets here (operand #0)",
        ),
        ("something else", "something else"),
    ],
)
def test_reason_of_a_refusal_names_the_kernels(lines, said):
    assert _reason(RuntimeError(lines)) == said
