"""The runtimes' own quantization tools, each as a function from a float file to a quantized one.

ONNX Runtime's `quantize_static` (after its own `quant_pre_process`) and `quantize_dynamic`, NNCF on
ONNX and on OpenVINO, TensorFlow's converter, and ai-edge-quantizer. Each is used as its documents
show it, with the samples that calibrate all of them. `source` is the float file of the same model
in the tool's own format; `samples` has one array for each input, samples along the first axis.
Needs: nncf, sympy, and for ai-edge-quantizer

    uv pip install --no-deps --target FOLDER ai-edge-quantizer==0.10.0 immutabledict
    export PYTHONPATH=FOLDER

A folder of its own, because ai-edge-quantizer's dependencies would replace TensorFlow's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.targets import export
from trimtab_agent.contract.manifest import RuntimeName

Array = NDArray[Any]
Samples = Sequence[Array]
SUFFIXES = {"tflite": ".tflite", "onnxruntime": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True)
class Peer:
    """One tool in one setting.

    Attributes:
        name: In tables.
        runtime: That its files are for.
        source: The kind of float file it starts from, a key of `keras_sources`.
        make: Takes that file, the samples, and the path to write to.
    """

    name: str
    runtime: RuntimeName
    source: str
    make: Callable[[Path, Samples, Path], None]


def single(samples: Samples) -> Iterator[list[Array]]:
    """Yields the samples one by one, each with a batch of one."""
    for index in range(len(samples[0])):
        yield [array[index : index + 1] for array in samples]


def onnxruntime_static(source: Path, samples: Samples, path: Path) -> None:
    """Static int8: uint8 activations, int8 weights, one scale for each channel."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    prepared = path.with_suffix(".prepared.onnx")
    shape_inference.quant_pre_process(source, prepared)
    names = [value.name for value in onnx.load(prepared).graph.input]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            self.samples = single(samples)

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self.samples, None)
            return None if sample is None else dict(zip(names, sample, strict=True))

    quantization.quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def onnxruntime_dynamic(source: Path, _: Samples, path: Path) -> None:
    """Int8 weights, activations rounded as they come; reads no samples."""
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    prepared = path.with_suffix(".prepared.onnx")
    # Its symbolic shape inference fails on MiniLM, and dynamic quantization needs no shapes.
    shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantization.quantize_dynamic(prepared, path, weight_type=quantization.QuantType.QInt8)


def nncf_onnx(source: Path, samples: Samples, path: Path) -> None:
    """Static int8 of the graph after `quant_pre_process`, which folds batch norms.

    Without that, NNCF's graph is 2.3 times as slow as float in ONNX Runtime.
    """
    import nncf
    import onnx
    from onnxruntime.quantization import shape_inference

    prepared = path.with_suffix(".prepared.onnx")
    shape_inference.quant_pre_process(source, prepared)
    model = onnx.load(prepared)
    names = [value.name for value in model.graph.input]
    dataset = nncf.Dataset(
        list(single(samples)), lambda sample: dict(zip(names, sample, strict=True))
    )
    onnx.save(nncf.quantize(model, dataset, subset_size=len(samples[0])), path)


def nncf_openvino(source: Path, samples: Samples, path: Path, **options: Any) -> None:
    """Static int8 of an OpenVINO IR; `options` are `nncf.quantize`'s."""
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    dataset = nncf.Dataset(
        list(single(samples)), lambda sample: sample if len(sample) > 1 else sample[0]
    )
    quantized = nncf.quantize(model, dataset, subset_size=len(samples[0]), **options)
    openvino.save_model(quantized, path, compress_to_fp16=False)


def nncf_openvino_transformer(source: Path, samples: Samples, path: Path) -> None:
    """The same with NNCF's scheme for transformers."""
    import nncf

    nncf_openvino(source, samples, path, model_type=nncf.ModelType.TRANSFORMER)


def tflite_static(source: Path, samples: Samples, path: Path, *, integer_io: bool = False) -> None:
    """TensorFlow's converter on a SavedModel, int8 throughout.

    Args:
        source: The folder of the SavedModel, with a signature of one batch.
        samples: As above.
        path: Where to.
        integer_io: Whether the caller hands over and receives codes in place of floats.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(source))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: single(samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if integer_io:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def ai_edge(source: Path, samples: Samples, path: Path, *, recipe: str) -> None:
    """ai-edge-quantizer on a float TFLite file that has a signature.

    Args:
        source: The float file.
        samples: As above; only `static` recipes read them.
        path: Where to.
        recipe: One of `ai_edge_quantizer.recipe`, such as `static_wi8_ai8`.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    tool = quantizer.Quantizer(str(source))
    tool.load_quantization_recipe(getattr(recipes, recipe)())
    calibration = None
    if recipe.startswith("static"):
        interpreter = Interpreter(str(source))
        key = next(iter(interpreter.get_signature_list()))
        details = interpreter.get_signature_runner(key).get_input_details()
        order = {d["index"]: n for n, d in details.items()}
        names = [order[d["index"]] for d in interpreter.get_input_details()]
        rows = [dict(zip(names, sample, strict=True)) for sample in single(samples)]
        calibration = tool.calibrate({key: rows})
    path.unlink(missing_ok=True)
    tool.quantize(calibration).export_model(str(path))


def keras_sources(path: Path, folder: Path) -> dict[str, Path]:
    """Exports a Keras model by its own exporters: `saved_model`, `tflite`, `onnx`, `openvino`.

    What is in `folder` already is left as it is.
    """
    import keras
    import openvino
    import tensorflow as tf

    made = {
        "saved_model": folder / "saved_model",
        "tflite": folder / "keras.tflite",
        "onnx": folder / "keras.onnx",
        "openvino": folder / "keras.xml",
    }
    if made["openvino"].exists():
        return made
    model = keras.models.load_model(path, compile=False)
    signature = [tf.TensorSpec((1, *value.shape[1:]), tf.float32) for value in model.inputs]
    model.export(
        made["saved_model"], format="tf_saved_model", input_signature=signature, verbose=False
    )
    converter = tf.lite.TFLiteConverter.from_saved_model(str(made["saved_model"]))
    made["tflite"].write_bytes(converter.convert())
    model.export(made["onnx"], format="onnx", input_signature=signature, verbose=False)
    openvino.save_model(
        openvino.convert_model(made["onnx"]), made["openvino"], compress_to_fp16=False
    )
    return made


def graph_sources(model: ir.Model, folder: Path, samples: Samples) -> dict[str, Path]:
    """Writes a float graph as the kinds of file that peers without Keras start from.

    The TFLite and OpenVINO files are Trimtab's float ones: for a model from PyTorch these tools
    have no converter of their own.
    """
    files = {"onnx": folder / "graph.onnx"}
    folder.mkdir(parents=True, exist_ok=True)
    ir.save(model, files["onnx"])
    for target in ("tflite", "openvino"):
        place = folder / target
        files[target] = export(model, target, place, samples=tuple(samples), sized=True).path
    return files


def quantized_input(detail: dict[str, Any], array: Array) -> Array:
    """Returns floats as the codes that a TFLite input wants; other inputs as they are."""
    scale, zero = detail["quantization"]
    if scale == 0:
        return array
    bounds = np.iinfo(detail["dtype"])
    return np.clip(np.round(array / scale + zero), bounds.min, bounds.max).astype(detail["dtype"])


def _ai_edge_peer(recipe: str) -> Peer:
    name = f"ai-edge-quantizer {recipe}"
    return Peer(name, "tflite", "tflite", partial(ai_edge, recipe=recipe))


INT8_PEERS = (
    Peer("converter", "tflite", "saved_model", tflite_static),
    Peer(
        "converter, integers in and out",
        "tflite",
        "saved_model",
        partial(tflite_static, integer_io=True),
    ),
    _ai_edge_peer("static_wi8_ai8"),
    _ai_edge_peer("dynamic_wi8_afp32"),
    Peer("quantize_static", "onnxruntime", "onnx", onnxruntime_static),
    Peer("quantize_dynamic", "onnxruntime", "onnx", onnxruntime_dynamic),
    Peer("NNCF", "onnxruntime", "onnx", nncf_onnx),
    Peer("NNCF", "openvino", "openvino", nncf_openvino),
)
INT4_PEERS = (_ai_edge_peer("dynamic_wi4_afp32"),)
