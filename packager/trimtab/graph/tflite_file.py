"""A `.tflite` file as one that tf2onnx understands: one graph, dense weights, no variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trimtab.errors import ModelError
from trimtab.graph.tflite_states import free_states
from trimtab.graph.tflite_tensors import expand_weights

_IDENTIFIER = b"TFL3"
_DEFAULT_SIGNATURE = "serving_default"


def plain_tflite(content: bytes, source: str) -> bytes:
    """Rewrites a `.tflite` file.

    Sparse and 4-bit weights are written out. Of several signatures `serving_default` stays, with
    the graphs that it calls. A variable, such as the state of a streaming model, becomes an input
    and an output.

    Args:
        content: The file.
        source: What is read, for messages.

    Raises:
        ModelError: It is no TFLite model, is cut off, or has several signatures and none of that
            name.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    if content[4:8] != _IDENTIFIER:
        raise ModelError(f"{source} is no TFLite model: the identifier TFL3 is missing")
    # The reader trusts every offset: in a file that is cut off it raises what comes of them.
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        _inline_buffers(model, content)
        expand_weights(model)
        _complete_scales(model)
        _round_nothing(model)
        main = _main_graph(model, source)
        free_states(model, model.subgraphs[main])
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{source} is cut off or damaged: its flatbuffer cannot be read "
            f"({type(error).__name__}: {error})"
        ) from error
    _keep_called(model, main)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _inline_buffers(model: Any, content: bytes) -> None:
    """Fetches weights that lie behind the flatbuffer, as those of files above 2 GB do."""
    for buffer in model.buffers:
        if buffer.offset > 1:
            end = buffer.offset + buffer.size
            buffer.data = np.frombuffer(content[buffer.offset : end], np.uint8)
            buffer.offset = buffer.size = 0


def _complete_scales(model: Any) -> None:
    """Gives a symmetric weight its zero points, which the format lets a writer leave out.

    tf2onnx takes a tensor without them for one that is not quantized.
    """
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors or []):
        grid = tensor.quantization
        if grid is not None and _length(grid.scale) and not _length(grid.zeroPoint):
            grid.zeroPoint = np.zeros(len(grid.scale), np.int64)


def _length(values: Any) -> int:
    return 0 if values is None else len(values)


def _round_nothing(model: Any) -> None:
    """Lets layers of int8 weights take float activations as they are.

    TFLite rounds them at run time, by each batch's range. The graph would compute with integers
    then, and could be neither trained nor quantized otherwise.
    """
    for operator in (item for graph in model.subgraphs for item in graph.operators or []):
        if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):
            operator.builtinOptions.asymmetricQuantizeInputs = False


def _main_graph(model: Any, source: str) -> int:
    """Returns the number of the graph to deploy."""
    names = {_text(entry.signatureKey): entry.subgraphIndex for entry in model.signatureDefs or []}
    if len(set(names.values())) > 1 and _DEFAULT_SIGNATURE not in names:
        raise ModelError(
            f"{source} has the signatures {', '.join(sorted(names))} and none called "
            f"{_DEFAULT_SIGNATURE}; convert it again with the one to deploy as {_DEFAULT_SIGNATURE}"
        )
    return int(names.get(_DEFAULT_SIGNATURE, next(iter(names.values()), 0)))


def _keep_called(model: Any, main: int) -> None:
    """Puts a graph first, and drops those that it does not call."""
    kept = [main]
    for index in kept:
        called = (getattr(*call) for call in _calls(model.subgraphs[index]))
        kept += [other for other in dict.fromkeys(called) if other not in kept]
    model.subgraphs = [model.subgraphs[index] for index in kept]
    for options, field in [call for graph in model.subgraphs for call in _calls(graph)]:
        setattr(options, field, kept.index(getattr(options, field)))
    model.signatureDefs = None


def _calls(graph: Any) -> Iterator[tuple[Any, str]]:
    """Yields the options and their fields that hold the number of another graph."""
    for operator in graph.operators or []:
        for options in (operator.builtinOptions, operator.builtinOptions2):
            for field in vars(options) if options is not None else ():
                if field == "subgraph" or field.endswith("SubgraphIndex"):
                    yield options, field


def _text(name: bytes | str | None) -> str:
    return name.decode() if isinstance(name, bytes) else name or ""
