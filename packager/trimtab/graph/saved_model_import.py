"""The folder of a TensorFlow SavedModel, of TensorFlow 1 or 2, to an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from trimtab.errors import ModelError
from trimtab.graph.tensorflow_import import clean_name, convert_function, one_line, unique
from trimtab.tensorflow_setup import import_tensorflow

_DEFAULT = "serving_default"
_SERVE = "serve"

_FAILURES = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    AssertionError,
)
"""What TensorFlow raises for a folder that it does not understand; its own errors come on top."""


def read_saved_model(folder: Path) -> ir.Model:
    """Reads the signature `serving_default`, or the only one that takes tensors of numbers.

    Raises:
        ModelError: The folder holds no SavedModel, or several signatures and none of that name,
            or one that takes serialized examples, or it cannot be converted.
        UnsupportedOperatorError: It has operators that ONNX lacks.
    """
    tf = import_tensorflow()
    chosen = _load(tf, folder)
    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for spec, name in zip(
            chosen.inputs.values(), unique(map(clean_name, chosen.inputs)), strict=True
        )
    ]

    def run(*inputs: Any) -> list[Any]:
        results = chosen.function(*inputs)
        return [tf.identity(results[name]) for name in chosen.outputs]

    names = [clean_name(name) for name in chosen.outputs]
    return convert_function(tf.function(run), specs, names, str(folder))


@dataclass(frozen=True)
class _Signature:
    """A signature to deploy.

    Attributes:
        inputs: Name to a spec or tensor with shape and data type.
        outputs: Names.
        function: Takes the inputs by position, returns the outputs by name.
        owner: What holds the variables; they live no longer than it does.
    """

    inputs: dict[str, Any]
    outputs: list[str]
    function: Callable[..., Any]
    owner: Any


def _load(tf: Any, folder: Path) -> _Signature:
    try:
        loaded = tf.saved_model.load(str(folder))
    except (*_FAILURES, tf.errors.OpError) as error:
        return _load_frozen(tf, folder, error)
    signatures = dict(loaded.signatures)
    specs = {
        name: list(function.structured_input_signature[1].values())
        for name, function in signatures.items()
    }
    function = signatures[_choose({name: _takes_text(specs[name]) for name in specs}, folder)]
    inputs = function.structured_input_signature[1]

    def run(*values: Any) -> Any:
        return function(**dict(zip(inputs, values, strict=True)))

    return _Signature(inputs, list(function.structured_outputs), run, loaded)


def _load_frozen(tf: Any, folder: Path, reason: Exception) -> _Signature:
    """Returns the signature with its variables as constants, as TensorFlow 1 loads it.

    That needs the graph and the variables only, not the Python objects of a newer or older Keras,
    over which the loader of TensorFlow 2 stumbles.
    """
    v1 = tf.compat.v1
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            definition = v1.saved_model.load(session, [_SERVE], str(folder))
            signatures = {
                name: signature
                for name, signature in definition.signature_def.items()
                if not name.startswith("__saved_model")
            }
            texts = {name: _takes_text(s.inputs.values()) for name, s in signatures.items()}
            chosen = signatures[_choose(texts, folder)]
            outputs = [_node(info.name) for info in chosen.outputs.values()]
            frozen = v1.graph_util.convert_variables_to_constants(
                session, session.graph.as_graph_def(), outputs
            )
    except ModelError:
        raise
    except (*_FAILURES, tf.errors.OpError) as error:
        raise ModelError(
            f"{folder} cannot be read as a SavedModel: {one_line(reason)}; nor as TensorFlow 1 "
            f"reads it: {one_line(error)}"
        ) from error
    wrapped = v1.wrap_function(lambda: tf.import_graph_def(frozen, name=""), [])
    graph = wrapped.graph
    inputs = {name: graph.as_graph_element(info.name) for name, info in chosen.inputs.items()}
    results = {name: graph.as_graph_element(info.name) for name, info in chosen.outputs.items()}
    function = wrapped.prune(list(inputs.values()), results)
    return _Signature(inputs, list(results), function, wrapped)


def _node(tensor: str) -> str:
    return tensor.partition(":")[0]


def _takes_text(specs: Any) -> bool:
    """Says whether an input is of strings, such as the serialized examples of an estimator."""
    import tensorflow as tf

    return any(tf.as_dtype(spec.dtype) == tf.string for spec in specs)


def _choose(signatures: dict[str, bool], folder: Path) -> str:
    """Returns the name of the signature to deploy.

    Args:
        signatures: For each signature, whether it takes strings.
        folder: For messages.
    """
    if not signatures:
        raise ModelError(
            f"{folder} has no signature, so that its inputs are unknown; save it with "
            "tf.saved_model.save(model, folder, signatures=function), or with Keras' model.export"
        )
    numeric = [name for name, takes_text in signatures.items() if not takes_text]
    if not numeric:
        raise ModelError(
            f"{folder} takes strings, such as serialized tf.train.Example, which no device "
            "runtime parses; export it with a signature of plain tensors (of an estimator: "
            "tf.estimator.export.build_raw_serving_input_receiver_fn)"
        )
    if _DEFAULT in numeric:
        return _DEFAULT
    if len(numeric) == 1:
        return numeric[0]
    raise ModelError(
        f"{folder} has the signatures {', '.join(sorted(signatures))} and none called {_DEFAULT} "
        f"that takes tensors; save it with the one to deploy as {_DEFAULT}"
    )
