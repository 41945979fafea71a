"""What PyTorch exports, in each of its ways; a clear word where torch is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from support.extras import extra
from trimtab.errors import ModelError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph


def test_missing_torch_is_said_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("trimtab.graph.torch_import.find_spec", lambda _: None)
    (tmp_path / "a.pt2").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"needs the package torch.*pip install trimtab\[torch\]"):
        load_model(tmp_path / "a.pt2")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestWithTorch:
    @pytest.fixture(scope="class")
    def torch(self):
        return extra("torch")

    @pytest.fixture(scope="class")
    def nets(self, torch):
        from support import torch_nets

        return torch_nets

    def pt2(self, torch, net, example, path):
        batch = ({0: torch.export.Dim("n")},)
        program = torch.export.export(net, (example,), dynamic_shapes=batch)
        torch.export.save(program, path / "a.pt2")
        return path / "a.pt2"

    def traced(self, torch, net, example, path):
        """As most `.onnx` files from PyTorch were made, before 2.9."""
        options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
        torch.onnx.export(net, (example,), path / "a.onnx", dynamo=False, **options)
        return path / "a.onnx"

    def captured(self, torch, net, example, path):
        options = {"dynamic_shapes": ({0: torch.export.Dim("n")},), "verbose": False}
        torch.onnx.export(net, (example,), path / "a.onnx", dynamo=True, **options)
        return path / "a.onnx"

    NAMES = (
        *("resnet", "mobile", "segmenter", "time_series"),
        *("gru", "lstm_both_ways", "attention", "text"),
    )

    @pytest.mark.parametrize("way", ["pt2", "traced", "captured"])
    @pytest.mark.parametrize("name", NAMES)
    def test_export_computes_what_torch_does(self, torch, nets, name, way, tmp_path):
        net, example = nets.build(name)
        graph = load_model(getattr(self, way)(torch, net, example, tmp_path))
        assert not isinstance(graph.graph.inputs[0].shape[0], int)
        with torch.no_grad():
            wanted = net(example).numpy()
        found = run_graph(graph, [example.numpy()])[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())

    def test_every_net_is_tried(self, nets):
        assert set(self.NAMES) == set(nets.NETS)

    def test_file_that_is_none_is_refused(self, torch, tmp_path):
        (tmp_path / "a.pt2").write_bytes(b"nothing at all")
        with pytest.raises(ModelError, match=r"a\.pt2 cannot be exported by torch: "):
            load_model(tmp_path / "a.pt2")

    def test_script_and_weights_are_refused_with_the_way_out(self, torch, nets, tmp_path):
        net, example = nets.build("time_series")
        torch.jit.trace(net, example).save(tmp_path / "script.pt")
        torch.save(net.state_dict(), tmp_path / "weights.pth")
        for file in ("script.pt", "weights.pth"):
            with pytest.raises(ModelError, match=rf"{file} is a TorchScript .*torch\.onnx\.export"):
                load_model(tmp_path / file)
