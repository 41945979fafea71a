"""Large models are written without copies, and read back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from support.graphs import GRAPHS
from support.techniques import samples
from trimtab.graph import save
from trimtab.graph.clean import clean
from trimtab.graph.run import run_graph


@pytest.mark.parametrize("name", ["plain", "perceptron", "residual"])
def test_large_models_come_back_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = clean(GRAPHS[name]())
    given = samples(model)
    wanted = run_graph(model, given)
    monkeypatch.setattr(save, "LARGE_BYTES", 0)
    save.save_whole(model, tmp_path / "whole.onnx")
    files = save.save_beside(model, tmp_path / "beside.onnx")
    assert [file.name for file in files] == ["beside.onnx", "beside.onnx.data"]
    for path in (tmp_path / "whole.onnx", files[0]):
        onnx.checker.check_model(str(path), full_check=True)
        back = ir.load(path)
        assert set(back.graph.initializers) == set(model.graph.initializers)
        for one, other in zip(run_graph(back, given), wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_model_itself_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = clean(GRAPHS["plain"]())
    before = ir.to_proto(model).SerializeToString()
    monkeypatch.setattr(save, "LARGE_BYTES", 0)
    save.save_whole(model, tmp_path / "whole.onnx")
    save.save_beside(model, tmp_path / "beside.onnx")
    assert ir.to_proto(model).SerializeToString() == before
