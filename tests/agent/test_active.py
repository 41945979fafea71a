"""`load_active`: what an application sees while the agent switches versions under it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import TensorProto, helper

import trimtab_agent
from support.manifests import small_package
from trimtab_agent.errors import CallerError, DamagedError
from trimtab_agent.store import Store
from trimtab_agent.version import Version


def times(factor: float) -> bytes:
    """A model that multiplies by `factor`."""
    value = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])], "times", ends[:1], ends[1:], [value]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


class Device:
    """A device's folder of packages, without the agent that fills it."""

    def __init__(self, state_dir):
        self.state_dir = state_dir
        self.store = Store(state_dir / "packages")

    def activate(self, version: str, model: bytes) -> Version:
        package = small_package(version, model=model, runtime="onnxruntime")
        directory = self.state_dir / "packages" / "versions" / package.sha256
        (directory / "model").mkdir(parents=True)
        (directory / "model" / "weights.bin").write_bytes(model)
        (directory / "manifest.json").write_bytes(package.manifest_bytes)
        found = self.store.find(package.sha256)
        self.store.switch(found)
        return found


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


ONES = [np.ones((1, 2), np.float32)]


def test_the_active_model_runs_in_its_own_runtime(device):
    version = device.activate("1", times(3))
    model = trimtab_agent.load_active(device.state_dir)
    np.testing.assert_array_equal(model.run(ONES)[0], [[3, 3]])
    assert model.manifest.target_name == "model-1.json"
    assert model.path == version.path.resolve()


def test_a_switch_is_taken_up_by_the_next_run(device):
    device.activate("1", times(3))
    model = trimtab_agent.load_active(device.state_dir)
    device.activate("2", times(5))
    np.testing.assert_array_equal(model.run(ONES)[0], [[5, 5]])
    assert model.manifest.version == "2"
    assert not model.reload()


def test_a_rollback_is_taken_up_as_well(device):
    device.activate("1", times(3))
    second = device.activate("2", times(5))
    model = trimtab_agent.load_active(device.state_dir)
    device.store.rollback(second.sha256)
    np.testing.assert_array_equal(model.run(ONES)[0], [[3, 3]])


def test_where_the_new_model_does_not_load_the_old_one_goes_on(device, caplog):
    device.activate("1", times(3))
    model = trimtab_agent.load_active(device.state_dir)
    device.activate("2", b"no model")
    for _ in range(2):
        np.testing.assert_array_equal(model.run(ONES)[0], [[3, 3]])
    assert caplog.text.count("the old one goes on") == 1
    device.activate("3", times(7))
    np.testing.assert_array_equal(model.run(ONES)[0], [[7, 7]])


def test_an_inference_is_never_mixed_with_a_switch(device):
    device.activate("1", times(1))
    model = trimtab_agent.load_active(device.state_dir)
    seen, stop = [], threading.Event()

    def application():
        while not stop.is_set():
            seen.append(tuple(model.run(ONES)[0][0]))

    threads = [threading.Thread(target=application) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(2, 12):
        device.activate(str(number), times(number))
    stop.set()
    for thread in threads:
        thread.join()
    assert all(left == right for left, right in seen)
    assert model.run(ONES)[0][0][0] == 11


def test_without_a_package_the_way_out_is_named(tmp_path):
    with pytest.raises(CallerError, match=r"nothing is active: .* assign a package"):
        trimtab_agent.load_active(tmp_path)


def test_when_the_only_version_is_taken_back_the_application_is_told(device):
    version = device.activate("1", times(3))
    model = trimtab_agent.load_active(device.state_dir)
    device.store.rollback(version.sha256)
    with pytest.raises(CallerError, match="nothing is active"):
        model.run(ONES)


def test_a_damaged_manifest_is_named(device):
    version = device.activate("1", times(3))
    (version.path / "manifest.json").write_bytes(b"{")
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        trimtab_agent.load_active(device.state_dir)
