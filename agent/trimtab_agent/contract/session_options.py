"""The session options that a manifest or a profile may hold, by runtime: names, types, meanings.

Runtimes accept keys that they do not know without a word, so a mistyped wish would change nothing
and nobody would hear of it. Only what is listed here is passed on. Names are the runtimes' own;
those of an ONNX Runtime provider stand behind `provider.`, those of a TFLite delegate library
behind `delegate.`. Where a compiled model is kept is the device's business and no option.

Sources: onnxruntime_session_options_config_keys.h; the pages of ONNX Runtime's execution
providers; OpenVINO's supported properties; tf.lite.experimental.load_delegate.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from trimtab_agent.contract.manifest import Option, RuntimeName

PROVIDER = "provider"
DEVICE = "device"
DELEGATE = "delegate"

CPU_PROVIDER = "CPUExecutionProvider"
XNNPACK = "XNNPACK"
BUILTIN = "builtin"

Kind = Literal["text", "integer", "number", "flag"]


class Known(NamedTuple):
    """An option that is understood: the type of its value, and what it does in a few words."""

    kind: Kind
    meaning: str


_ONNXRUNTIME = {
    PROVIDER: Known("text", f"execution providers by falling rank, {CPU_PROVIDER} when absent"),
    "session.disable_cpu_ep_fallback": Known("flag", "0 allows the CPU, as naming it does"),
    "session.intra_op.allow_spinning": Known("flag", "0 lets idle threads sleep: saves energy"),
    "session.qdq_matmulnbits_accuracy_level": Known(
        "integer", "4: activations in 8 bits; 1, or absent: float"
    ),
}

_CUDA = {
    "device_id": Known("integer", "which GPU"),
    "gpu_mem_limit": Known("integer", "bytes that the arena may take"),
    "arena_extend_strategy": Known("text", "kNextPowerOfTwo or kSameAsRequested"),
    "cudnn_conv_algo_search": Known("text", "EXHAUSTIVE, HEURISTIC or DEFAULT"),
    "cudnn_conv_use_max_workspace": Known("flag", "0 limits cuDNN's workspace"),
    "use_tf32": Known("flag", "0 forbids TensorFloat-32"),
    "prefer_nhwc": Known("flag", "1 runs convolutions channels-last"),
}

_TENSORRT = {
    "device_id": Known("integer", "which GPU"),
    "trt_max_workspace_size": Known("integer", "bytes for building the engine"),
    "trt_max_partition_iterations": Known("integer", "tries to split the graph"),
    "trt_min_subgraph_size": Known("integer", "smaller parts go to the next provider"),
    "trt_fp16_enable": Known("flag", "1 allows float16 kernels"),
    "trt_bf16_enable": Known("flag", "1 allows bfloat16 kernels"),
    "trt_int8_enable": Known("flag", "1 allows int8 kernels"),
    "trt_dla_enable": Known("flag", "1 uses the deep learning accelerator"),
    "trt_dla_core": Known("integer", "which accelerator core"),
    "trt_engine_cache_enable": Known("flag", "0 builds the engine at every start"),
    "trt_timing_cache_enable": Known("flag", "0 times kernels at every build"),
    "trt_force_sequential_engine_build": Known("flag", "1 builds engines one by one"),
    "trt_builder_optimization_level": Known("integer", "0 to 5: build time against run time"),
    "trt_layer_norm_fp32_fallback": Known("flag", "1 keeps layer norms in float32"),
    "trt_sparsity_enable": Known("flag", "1 allows kernels for 2:4 sparse weights"),
    "trt_context_memory_sharing_enable": Known("flag", "1 shares memory between subgraphs"),
    "trt_auxiliary_streams": Known("integer", "streams for parallel branches"),
    "trt_profile_min_shapes": Known("text", "smallest shapes, as input:1x3x8x8"),
    "trt_profile_opt_shapes": Known("text", "usual shapes, likewise"),
    "trt_profile_max_shapes": Known("text", "largest shapes, likewise"),
}

_QNN = {
    "backend_path": Known("text", "backend library, such as libQnnHtp.so"),
    "backend_type": Known("text", "htp, gpu or cpu; in place of backend_path"),
    "htp_performance_mode": Known("text", "such as burst, balanced, sustained_high_performance"),
    "htp_graph_finalization_optimization_mode": Known("integer", "0 to 3: build against run time"),
    "htp_arch": Known("integer", "Hexagon version, such as 73"),
    "soc_model": Known("integer", "Qualcomm's number of the chip"),
    "device_id": Known("integer", "which accelerator"),
    "vtcm_mb": Known("integer", "MiB of the accelerator's memory"),
    "enable_htp_fp16_precision": Known("flag", "1 runs float32 models in float16"),
    "offload_graph_io_quantization": Known("flag", "1 quantizes inputs on the CPU"),
    "rpc_control_latency": Known("integer", "microseconds"),
    "qnn_context_priority": Known("text", "low, normal, normal_high or high"),
}

_COREML = {
    "ModelFormat": Known("text", "MLProgram or NeuralNetwork"),
    "MLComputeUnits": Known("text", "ALL, CPUAndNeuralEngine, CPUAndGPU or CPUOnly"),
    "RequireStaticInputShapes": Known("flag", "1 leaves free shapes to the next provider"),
    "EnableOnSubgraphs": Known("flag", "1 runs the bodies of If and Loop too"),
    "SpecializationStrategy": Known("text", "Default or FastPrediction"),
    "AllowLowPrecisionAccumulationOnGPU": Known("flag", "1 sums in float16 on the GPU"),
}

PROVIDERS: Mapping[str, Mapping[str, Known]] = MappingProxyType(
    {
        CPU_PROVIDER: {},
        "CUDAExecutionProvider": _CUDA,
        "TensorrtExecutionProvider": _TENSORRT,
        "QNNExecutionProvider": _QNN,
        "CoreMLExecutionProvider": _COREML,
        "XnnpackExecutionProvider": {"intra_op_num_threads": Known("integer", "its own threads")},
        # Python's binding gives these no options (onnxruntime_pybind_state.cc).
        "NnapiExecutionProvider": {},
        "ACLExecutionProvider": {},
    }
)
"""ONNX Runtime's execution providers that are known here, with their options."""

_TFLITE = {
    DELEGATE: Known("text", f"{XNNPACK}, {BUILTIN} or a delegate library, by falling rank"),
}

_OPENVINO = {
    DEVICE: Known("text", "CPU, GPU, GPU.1 or NPU; CPU when absent"),
    "PERFORMANCE_HINT": Known("text", "LATENCY, THROUGHPUT or CUMULATIVE_THROUGHPUT"),
    "EXECUTION_MODE_HINT": Known("text", "PERFORMANCE or ACCURACY"),
    "INFERENCE_PRECISION_HINT": Known("text", "f32, f16 or bf16; f32 when absent"),
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": Known("integer", "values that share a scale; 0: none"),
    "NUM_STREAMS": Known("integer", "inferences at once"),
    "ENABLE_CPU_PINNING": Known("flag", "false lets threads move between cores"),
    "ENABLE_HYPER_THREADING": Known("flag", "false leaves every core's second thread alone"),
    "SCHEDULING_CORE_TYPE": Known("text", "ANY_CORE, PCORE_ONLY or ECORE_ONLY"),
    "CPU_DENORMALS_OPTIMIZATION": Known("flag", "true takes denormal floats as zero"),
    "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": Known("number", "share of zeros that pays"),
}

OPTIONS: Mapping[RuntimeName, Mapping[str, Known]] = MappingProxyType(
    {"onnxruntime": _ONNXRUNTIME, "tflite": _TFLITE, "openvino": _OPENVINO}
)
"""The options of each runtime, without those of its providers and delegates."""


def listed(value: Option) -> tuple[str, ...]:
    """Returns the names in a comma-separated option, such as `provider`."""
    return tuple(name.strip() for name in str(value).split(","))


def wishes_accelerator(runtime: RuntimeName, options: Mapping[str, Option]) -> bool:
    """Says whether options ask for something else than the CPU, which may have to compile first."""
    asked = {
        "onnxruntime": listed(options.get(PROVIDER, CPU_PROVIDER)),
        "tflite": listed(options.get(DELEGATE, BUILTIN)),
        "openvino": (str(options.get(DEVICE, "CPU")),),
    }[runtime]
    return not {CPU_PROVIDER, XNNPACK, BUILTIN, "CPU"}.issuperset(asked)


def option_faults(runtime: RuntimeName, options: Mapping[str, Option]) -> list[str]:
    """Returns what is wrong with session options: every unknown name, every value of another type.

    Args:
        runtime: The runtime that they are for.
        options: The options, as a manifest or a profile holds them.
    """
    known = known_options(runtime, options)
    faults = []
    if runtime == "onnxruntime" and PROVIDER in options:
        unknown = [name for name in listed(options[PROVIDER]) if name not in PROVIDERS]
        faults += [f"provider {name!r} is none of {', '.join(PROVIDERS)}" for name in unknown]
    for name, value in options.items():
        if name not in known:
            takes = "; ".join(f"{each} ({what.meaning})" for each, what in known.items())
            faults.append(
                f"{runtime} does not know the option {name!r} here; options it takes: {takes}"
            )
        elif not _fits(known[name].kind, value):
            faults.append(f"{runtime} option {name!r} takes one {known[name].kind}, got {value!r}")
    return faults


def known_options(runtime: RuntimeName, options: Mapping[str, Option]) -> dict[str, Known]:
    """Returns the options that a runtime takes with the providers or the delegate in `options`."""
    known = dict(OPTIONS[runtime])
    if runtime == "onnxruntime":
        for provider in listed(options.get(PROVIDER, CPU_PROVIDER)):
            own = PROVIDERS.get(provider, {})
            known.update({f"{PROVIDER}.{name}": what for name, what in own.items()})
    if runtime == "tflite" and DELEGATE in options:
        # A library's options are its own: it is asked by name, and so are they.
        prefix = f"{DELEGATE}."
        own_names = [name for name in options if name.startswith(prefix) and name != prefix]
        known.update({name: Known("text", "the library's own") for name in own_names})
    return known


def _fits(kind: Kind, value: Option) -> bool:
    """Says whether a value is of a kind; ONNX Runtime writes flags and numbers as text too."""
    if kind == "text":
        return isinstance(value, str) and bool(value)
    if kind == "flag":
        return value in (True, False, "0", "1")
    if isinstance(value, bool):
        return False
    if kind == "number":
        return isinstance(value, int | float)
    return isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
