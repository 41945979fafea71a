"""PyTorch exported programs, where torch is; a clear word where it is not."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from trimtab.errors import ModelError
from trimtab.graph.load import load_model
from trimtab.graph.run import run_graph


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_missing_torch_is_said_with_the_way_out(tmp_path):
    (tmp_path / "a.pt2").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"needs the package torch.*pip install trimtab\[torch\]"):
        load_model(tmp_path / "a.pt2")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestWithTorch:
    def test_exported_program_computes_what_torch_does(self, tmp_path):
        torch = pytest.importorskip("torch")

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
                self.norm = torch.nn.BatchNorm2d(8)
                self.dense = torch.nn.Linear(8, 5)
                self.steps = torch.nn.GRU(4, 6, batch_first=True)

            def forward(self, picture, motion):
                x = torch.relu(self.norm(self.conv(picture))).mean((2, 3))
                return self.dense(x), torch.nn.functional.gelu(self.steps(motion)[0])

        torch.manual_seed(0)
        net = Net().eval()
        net.norm.running_mean.normal_()
        data = torch.randn(2, 3, 8, 8), torch.randn(2, 7, 4)
        batch = {0: torch.export.Dim("n")}
        program = torch.export.export(net, data, dynamic_shapes={"picture": batch, "motion": batch})
        torch.export.save(program, tmp_path / "a.pt2")
        graph = load_model(tmp_path / "a.pt2")
        actual = run_graph(graph, [array.numpy() for array in data])
        expected = [tensor.detach().numpy() for tensor in net(*data)]
        for found, wanted in zip(actual, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())

    def test_file_that_is_none_is_refused(self, tmp_path):
        pytest.importorskip("torch")
        (tmp_path / "a.pt2").write_bytes(b"nothing at all")
        with pytest.raises(ModelError, match=r"a\.pt2 cannot be exported by torch: "):
            load_model(tmp_path / "a.pt2")
