"""EfficientNet-Lite0 with trained weights in int8: whether it still names photos as float does.

    python benchmarks/int8_photos.py --model MODEL.onnx --stamps FOLDER --cache FOLDER \
        [--only tflite onnxruntime openvino] [--rounds 15] [--json RESULT.json]

`efficientnet_lite0.py` makes MODEL, `photos.py` says what FOLDER is. Crops of one half of the
photos calibrate; the other half is tested: 54 photos, and five views of each. The bar: the int8
file's most likely class is the float file's on at least 95 % of the views, on every runtime. Peers
start from the same graph in Trimtab's float files. Their files are kept in the cache folder.
Needs: trimtab, and what `int8_peers.py` and `photos.py` say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from int8_peers import INT8_PEERS, graph_sources
from int8_report import FASTEST, Limits, argument_parser, report
from int8_rows import (
    FLOAT,
    OURS,
    File,
    answers,
    compress,
    cosine,
    made_all,
    measure,
    written,
)
from photos import VIEWS, load_photos

from trimtab.evaluate.data import Dataset, Split
from trimtab.graph.load import load_model

SIZE = 224
LIMITS: Limits = {"agreement, views": ("at least", 0.95), **FASTEST}


def main() -> None:
    parser = argument_parser(str(__doc__))
    for name in ("model", "stamps"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    images, tests = (prepared(pixels) for pixels in load_photos(arguments.stamps, SIZE))
    model = load_model(arguments.model)
    data = Dataset(source="photos", train=Split(inputs=[images]), test=Split(inputs=[tests]))
    quantized = compress(model, {"steps": [{"quantize_int8": {}}]}, data)
    few = [tests[:16]]
    files = [
        file
        for name, graph in ((FLOAT, model), (OURS, quantized))
        for file in written(name, graph, arguments.cache, few, arguments.only)
    ]
    sources = graph_sources(model, arguments.cache / "sources", few)
    files += made_all(INT8_PEERS, sources, [images], arguments.cache / "peers", arguments.only)
    expected = answers(files[0], [tests])

    def figures(file: File) -> dict[str, float]:
        found = answers(file, [tests])
        same = found.argmax(axis=1) == expected.argmax(axis=1)
        return {
            "agreement, views": float(same.mean()),
            "agreement, photos": float(same[::VIEWS].mean()),
            "cosine": cosine(found, expected),
        }

    rows = measure(files, [tests[:1]], figures, arguments.rounds)
    report(rows, {OURS: LIMITS}, arguments.json)


def prepared(pixels: np.ndarray) -> np.ndarray:
    """Returns pictures as the network takes them, channels first."""
    scaled = (pixels.astype(np.float32) - 127) / 128
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


if __name__ == "__main__":
    main()
