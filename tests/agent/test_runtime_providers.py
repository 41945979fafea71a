"""Accelerators that are wished: what is passed on to them, and that nothing falls back unasked."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from support.fake_onnxruntime import CPU, FakeOnnxRuntime
from support.models import write_model
from trimtab_agent import runtimes
from trimtab_agent.contract import session_options
from trimtab_agent.contract.session_options import option_faults, wishes_accelerator
from trimtab_agent.errors import CallerError, DeviceError, FormatError, RuntimeUnavailableError
from trimtab_agent.runtimes import onnxruntime, onnxruntime_providers, openvino, tflite
from trimtab_agent.runtimes.onnxruntime_profile import read_profile
from trimtab_agent.runtimes.tflite_delegates import running

CUDA, TRT, QNN = "CUDAExecutionProvider", "TensorrtExecutionProvider", "QNNExecutionProvider"
BOTH = {"Conv", "Relu"}
SAMPLE = [np.ones((1, 3), np.float32)]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a graph of Conv and Relu")
    return path


@pytest.fixture
def open_with(model):
    def open_session(module, cache_dir=None, **options):
        named = {name.replace("__", "."): value for name, value in options.items()}
        return onnxruntime.open_session(
            module, "1.23.0", model, threads=1, options=named, cache_dir=cache_dir
        )

    return open_session


def test_the_cpu_alone_needs_no_proof(open_with):
    module = FakeOnnxRuntime({CUDA: BOTH})
    session = open_with(module)
    assert (session.provider, module.sessions[0].providers) == (CPU, {CPU: {}})
    assert module.sessions[0].options["session.disable_cpu_ep_fallback"] == "0"


def test_a_wish_that_comes_true(open_with):
    module = FakeOnnxRuntime({CUDA: BOTH})
    session = open_with(module, provider=CUDA)
    session.run(SAMPLE)
    session.run(SAMPLE)
    assert session.provider == CUDA
    assert not module.sessions[0].falls_back
    assert list(module.sessions[0].providers) == [CUDA]
    assert [each.kernel for each in session.profile(SAMPLE, 4)] == [CUDA, CUDA]


REFUSED = {
    "a provider that the build lacks": (
        FakeOnnxRuntime({}),
        {"provider": CUDA},
        r"onnxruntime 1.23.0 here has no provider 'CUDAExecutionProvider': take one of CPU",
    ),
    "a second provider that the build lacks": (
        FakeOnnxRuntime({TRT: BOTH}),
        {"provider": f"{TRT},{CUDA}"},
        "has no provider 'CUDAExecutionProvider'",
    ),
    "libraries that are missing": (
        FakeOnnxRuntime({CUDA: BOTH}, broken=(CUDA,), graph=()),
        {"provider": CUDA},
        f"could not start {CUDA} and took {CPU}: check the provider's drivers",
    ),
    "libraries that are missing, the CPU being allowed": (
        FakeOnnxRuntime({CUDA: BOTH}, broken=(CUDA,)),
        {"provider": f"{CUDA},{CPU}"},
        f"could not start {CUDA}",
    ),
    "nodes that are left to the CPU": (
        FakeOnnxRuntime({CUDA: {"Conv"}}),
        {"provider": CUDA},
        rf"cannot run .*model\.onnx on {CUDA}: .* the default CPU EP.* provider: {CUDA},{CPU}",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wish_that_cannot_be_met(open_with, name):
    module, options, message = REFUSED[name]
    with pytest.raises(RuntimeUnavailableError, match=message):
        open_with(module, **options)


@pytest.mark.parametrize(
    "options",
    [{"provider": f"{CUDA},{CPU}"}, {"provider": CUDA, "session__disable_cpu_ep_fallback": 0}],
    ids=["by name", "by ONNX Runtime's option"],
)
def test_the_cpu_may_be_allowed(open_with, options):
    session = open_with(FakeOnnxRuntime({CUDA: {"Conv"}}), **options)
    session.run(SAMPLE)
    assert session.provider == f"{CUDA},{CPU}"


def test_a_provider_that_takes_nothing_although_the_cpu_is_allowed(open_with):
    session = open_with(FakeOnnxRuntime({CUDA: set()}), provider=f"{CUDA},{CPU}")
    with pytest.raises(RuntimeUnavailableError, match=f"{CUDA} of onnxruntime 1.23.0 took no node"):
        session.run(SAMPLE)


def test_the_first_provider_must_take_something_and_the_next_may_help(open_with):
    help_needed = FakeOnnxRuntime({TRT: {"Conv"}, CUDA: BOTH})
    session = open_with(help_needed, provider=f"{TRT},{CUDA}")
    session.run(SAMPLE)
    assert session.provider == f"{TRT},{CUDA}"
    session = open_with(FakeOnnxRuntime({TRT: set(), CUDA: BOTH}), provider=f"{TRT},{CUDA}")
    with pytest.raises(RuntimeUnavailableError, match=f"{TRT} .* took no node"):
        session.run(SAMPLE)


def test_a_build_without_a_profiler_proves_nothing(open_with):
    session = open_with(FakeOnnxRuntime({CUDA: BOTH}, profiler=False), provider=CUDA)
    session.run(SAMPLE)
    assert session.provider == CUDA


def test_a_broken_file_is_not_the_providers_fault(open_with, model):
    model.write_bytes(b"broken")
    with pytest.raises(FormatError, match="is no model that onnxruntime"):
        open_with(FakeOnnxRuntime({CUDA: BOTH}), provider=CUDA)


def test_the_proof_leaves_nothing_behind(open_with, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    open_with(FakeOnnxRuntime({CUDA: BOTH}), provider=CUDA).run(SAMPLE)
    never_run = open_with(FakeOnnxRuntime({CUDA: BOTH}), provider=CUDA)
    del never_run
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_options_go_to_the_providers_that_know_them(open_with):
    module = FakeOnnxRuntime({TRT: BOTH, CUDA: BOTH})
    open_with(
        module,
        provider=f"{TRT},{CUDA}",
        provider__device_id=1,
        provider__trt_fp16_enable=True,
        provider__use_tf32=False,
    )
    assert module.sessions[0].providers == {
        TRT: {"device_id": "1", "trt_fp16_enable": "1"},
        CUDA: {"device_id": "1", "use_tf32": "0"},
    }


def test_tensorrt_keeps_its_engine_on_the_device(open_with, tmp_path):
    module = FakeOnnxRuntime({TRT: BOTH})
    open_with(module, cache_dir=tmp_path / "compiled", provider=TRT)
    folder = tmp_path / "compiled" / "onnxruntime-1.23.0"
    assert folder.is_dir()
    assert module.sessions[0].providers[TRT] == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


@pytest.mark.parametrize(
    ("content", "flag"),
    [(b"..QuantizeLinear..", {"trt_int8_enable": "1"}), (b"..DequantizeLinear..", {})],
    ids=["activations", "weights alone"],
)
def test_tensorrt_is_told_of_a_quantized_graph(open_with, model, content, flag):
    model.write_bytes(content)
    module = FakeOnnxRuntime({TRT: BOTH})
    open_with(module, provider=TRT)
    assert module.sessions[0].providers[TRT] == flag


def test_qnn_compiles_once(open_with, tmp_path, model):
    module = FakeOnnxRuntime({QNN: BOTH})
    context = tmp_path / "onnxruntime-1.23.0" / "context.onnx"
    open_with(module, cache_dir=tmp_path, provider=QNN)
    assert context.read_bytes() == b"compiled"
    open_with(module, cache_dir=tmp_path, provider=QNN)
    assert [session.path for session in module.sessions] == [str(model), str(context)]
    context.write_bytes(b"of another driver")
    open_with(module, cache_dir=tmp_path, provider=QNN)
    assert module.sessions[-1].path == str(model)
    assert context.read_bytes() == b"compiled"


def test_a_cpu_compiles_nothing(open_with, tmp_path):
    open_with(FakeOnnxRuntime({}), cache_dir=tmp_path / "compiled")
    runtimes.load("openvino", write_model("openvino", tmp_path), cache_dir=tmp_path / "compiled")
    assert not (tmp_path / "compiled").exists()


FAULTS = {
    "unknown": ("onnxruntime", {"provider.warp": 9}, "does not know the option 'provider.warp'"),
    "of another provider": (
        "onnxruntime",
        {"provider": CUDA, "provider.trt_fp16_enable": True},
        "does not know the option 'provider.trt_fp16_enable'",
    ),
    "unknown provider": ("onnxruntime", {"provider": "Cuda"}, "provider 'Cuda' is none of CPU"),
    "flag": (
        "onnxruntime",
        {"provider": TRT, "provider.trt_fp16_enable": "yes"},
        "option 'provider.trt_fp16_enable' takes one flag, got 'yes'",
    ),
    "integer": (
        "onnxruntime",
        {"session.qdq_matmulnbits_accuracy_level": True},
        "takes one integer, got True",
    ),
    "a path of the device": (
        "onnxruntime",
        {"provider": TRT, "provider.trt_engine_cache_path": "/x"},
        "does not know",
    ),
    "text": ("tflite", {"delegate": 1}, "option 'delegate' takes one text, got 1"),
    "a delegate's without a delegate": ("tflite", {"delegate.cores": "2"}, "does not know"),
    "number": ("openvino", {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": "much"}, "takes one number"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_options_that_are_refused(name):
    runtime, options, message = FAULTS[name]
    (fault,) = option_faults(runtime, options)
    assert message in fault


@pytest.mark.parametrize(
    ("runtime", "options"),
    [
        ("onnxruntime", {"session.qdq_matmulnbits_accuracy_level": 4}),
        ("onnxruntime", {"session.qdq_matmulnbits_accuracy_level": "4"}),
        ("onnxruntime", {"provider": f"{TRT}, {CUDA}", "provider.trt_int8_enable": 1}),
        ("onnxruntime", {"provider": QNN, "provider.htp_performance_mode": "burst"}),
        ("tflite", {"delegate": "libethosu_delegate.so,builtin", "delegate.power": "low"}),
        ("openvino", {"device": "NPU", "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.5}),
    ],
)
def test_options_that_are_taken(runtime, options):
    assert option_faults(runtime, options) == []


@pytest.mark.parametrize(
    ("runtime", "options", "expected"),
    [
        ("onnxruntime", {}, False),
        ("onnxruntime", {"provider": f"{TRT},{CPU}"}, True),
        ("tflite", {"delegate": "XNNPACK,builtin"}, False),
        ("tflite", {"delegate": "libethosu_delegate.so"}, True),
        ("openvino", {"device": "CPU"}, False),
        ("openvino", {"device": "GPU.1"}, True),
    ],
)
def test_what_may_have_to_compile_first(runtime, options, expected):
    assert wishes_accelerator(runtime, options) is expected


@pytest.mark.parametrize("device", ["NPU", "GPU.1", "AUTO", "HETERO:GPU,CPU"])
def test_an_openvino_device_that_is_not_here(tmp_path, device):
    with pytest.raises(RuntimeUnavailableError, match=f"has no device '{device}' here: take one"):
        runtimes.load("openvino", write_model("openvino", tmp_path), options={"device": device})


class FakeOpenVino:
    """A module like `openvino` on a machine with a GPU that runs no model of its own accord."""

    Type = SimpleNamespace(bf16="bf16")

    def __init__(self, takes=("GPU.0",), fails=False):
        self.takes, self.fails, self.properties = takes, fails, {}
        self.available_devices = ["CPU", "GPU"]

    def Core(self):
        return self

    def get_property(self, device, name):
        return ["PERFORMANCE_HINT", "INFERENCE_PRECISION_HINT"]

    def set_property(self, device, properties):
        self.properties[device] = properties

    def read_model(self, path):
        return SimpleNamespace(inputs=[], outputs=[])

    def compile_model(self, model, device, extra):
        if self.fails:
            raise RuntimeError("somewhere in a source file\nno memory on the GPU")
        return SimpleNamespace(
            get_property=lambda name: self.takes,
            create_infer_request=lambda: None,
            inputs=[],
            outputs=[],
        )


def open_on_gpu(module, folder, **options):
    return openvino.open_session(
        module,
        "2026.4",
        folder / "model.xml",
        threads=2,
        options={"device": "GPU", **options},
        cache_dir=folder,
    )


def test_openvino_on_a_gpu(tmp_path):
    module = FakeOpenVino()
    assert open_on_gpu(module, tmp_path, ENABLE_CPU_PINNING=0).provider == "GPU.0"
    assert module.properties["GPU"] == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "CACHE_DIR": str(tmp_path / "openvino-2026.4"),
    }


def test_openvino_takes_another_device_or_fails(tmp_path):
    with pytest.raises(RuntimeUnavailableError, match="took CPU in place of GPU"):
        open_on_gpu(FakeOpenVino(takes=("CPU",)), tmp_path)
    with pytest.raises(RuntimeUnavailableError, match="on GPU: no memory on the GPU"):
        open_on_gpu(FakeOpenVino(fails=True), tmp_path)


class FakeInterpreter:
    """A TFLite interpreter whose delegate library takes the operators in `TAKES`."""

    TAKES: frozenset[str] = frozenset({"ADD"})
    OpResolverType = SimpleNamespace(BUILTIN_WITHOUT_DEFAULT_DELEGATES="without")

    def __init__(self, **arguments):
        self.arguments = arguments

    @classmethod
    def Interpreter(cls, **arguments):
        return cls(**arguments)

    @staticmethod
    def load_delegate(library, options):
        return (library, options)

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return []

    def get_output_details(self):
        quantization = {"scales": [], "zero_points": [], "quantized_dimension": 0}
        detail = {"index": 3, "name": "y", "shape": [1], "shape_signature": [1]}
        return [{**detail, "dtype": np.float32, "quantization_parameters": quantization}]

    def get_signature_list(self):
        return {}

    def _get_ops_details(self):
        file = [
            {"op_name": "ADD", "inputs": [0, 1], "outputs": [2]},
            {"op_name": "MUL", "inputs": [2, 1], "outputs": [3]},
        ]
        taken = [{**node, "op_name": "DELEGATE"} for node in file if node["op_name"] in self.TAKES]
        return [*file, *taken]


class Whole(FakeInterpreter):
    TAKES = frozenset({"ADD", "MUL"})


class Nothing(FakeInterpreter):
    TAKES = frozenset()


def open_delegate(module, folder, delegate):
    options = {"delegate": delegate, "delegate.cores": "2"}
    return tflite.open_session(
        module, "2.14", folder / "m.tflite", threads=1, options=options, cache_dir=None
    )


def test_a_delegate_library_runs_all_or_what_is_allowed(tmp_path):
    session = open_delegate(Whole, tmp_path, "libnpu.so")
    assert session.provider == "libnpu.so"
    arguments = session._interpreter.arguments
    assert arguments["experimental_delegates"] == [("libnpu.so", {"cores": "2"})]
    assert arguments["experimental_op_resolver_type"] == "without"
    session = open_delegate(FakeInterpreter, tmp_path, "libnpu.so,builtin")
    assert session.provider == "libnpu.so,builtin"


@pytest.mark.parametrize(
    ("module", "delegate", "message"),
    [
        (FakeInterpreter, "libnpu.so", r"libnpu\.so left MUL to the CPU"),
        (Nothing, "libnpu.so,builtin", r"libnpu\.so took no node of the model"),
    ],
)
def test_a_delegate_library_that_does_not_do_it(tmp_path, module, delegate, message):
    with pytest.raises(RuntimeUnavailableError, match=message):
        open_delegate(module, tmp_path, delegate)


def test_nodes_that_a_delegate_replaced_do_not_run():
    nodes = [
        {"op_name": "ADD", "inputs": [0], "outputs": [1]},
        {"op_name": "MUL", "inputs": [1], "outputs": [2]},
        {"op_name": "CUSTOM", "inputs": [2], "outputs": [3]},
        {"op_name": "DELEGATE", "inputs": [0], "outputs": [2]},
    ]
    assert sorted(running(nodes, [3])) == ["CUSTOM", "DELEGATE"]
    assert sorted(running(nodes[:3], [3])) == ["ADD", "CUSTOM", "MUL"]


@pytest.mark.parametrize("content", [None, b"{", b'{"cat": "Node"}'], ids=["none", "cut", "other"])
def test_a_profile_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DeviceError, match=r"profile\.json of onnxruntime cannot be read"):
        read_profile(path)


def test_an_option_that_no_runtime_would_miss_is_an_error(tmp_path):
    with pytest.raises(CallerError, match=r"trt_fp16_enable.*options it takes: provider \("):
        runtimes.load(
            "onnxruntime",
            write_model("onnxruntime", tmp_path),
            options={"provider.trt_fp16_enable": True},
        )


@pytest.fixture
def azure(monkeypatch):
    """A provider of the real wheel that runs no node of a common graph."""
    name = "AzureExecutionProvider"
    known = {**session_options.PROVIDERS, name: {}}
    monkeypatch.setattr(session_options, "PROVIDERS", known)
    monkeypatch.setattr(onnxruntime_providers, "PROVIDERS", known)
    return name


def test_the_real_runtime_refuses_to_leave_nodes_to_the_cpu(tmp_path, azure):
    path = write_model("onnxruntime", tmp_path)
    with pytest.raises(RuntimeUnavailableError, match=r"fallback to CPU EP has been.* disabled"):
        runtimes.load("onnxruntime", path, options={"provider": azure})


def test_the_real_runtime_shows_that_a_provider_took_nothing(tmp_path, azure):
    path = write_model("onnxruntime", tmp_path)
    session = runtimes.load("onnxruntime", path, options={"provider": f"{azure},{CPU}"})
    with pytest.raises(RuntimeUnavailableError, match=f"{azure} .* took no node.* ran on {CPU}"):
        session.run([*SAMPLE, *SAMPLE])


def test_the_page_of_session_options_has_them_all():
    page = (Path(__file__).parents[2] / "docs" / "formats" / "session-options.md").read_text()
    known = {
        **{name: what for own in session_options.OPTIONS.values() for name, what in own.items()},
        **{
            f"provider.{name}": what
            for own in session_options.PROVIDERS.values()
            for name, what in own.items()
        },
    }
    for name, what in known.items():
        assert f"| `{name}` | {what.kind} | {what.meaning} |" in page
