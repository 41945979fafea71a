"""Which task it is: said by the user, or detected where labels and outputs leave no doubt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trimtab.errors import DataError
from trimtab.evaluate.plugin import is_plugin
from trimtab.evaluate.tasks.anomaly import Anomaly
from trimtab.evaluate.tasks.base import Array, Task
from trimtab.evaluate.tasks.classification import Classification
from trimtab.evaluate.tasks.custom import Custom
from trimtab.evaluate.tasks.embeddings import Embeddings
from trimtab.evaluate.tasks.regression import Regression
from trimtab.evaluate.tasks.sequences import PADDING, Ctc, Tokens

TASKS = ("classification", "regression", "embeddings", "tokens", "ctc", "anomaly")

Shape = Sequence[int | None]


def check_task(name: str) -> str:
    """Returns the name if there is such a task.

    Raises:
        DataError: There is none.
    """
    if name in TASKS or is_plugin(name):
        return name
    raise DataError(
        f"there is no task {name!r}; there are {', '.join(TASKS)}, and module:function for your own"
    )


def detect_task(labels: Array | None, output: Shape, inputs: Sequence[Shape]) -> str:
    """Returns the task that labels and shapes point to.

    Without labels it only decides how agreement is counted: by class where each sample, or each
    position, has several scores, else by number.

    Args:
        labels: Of the test samples.
        output: Shape of the model's first output, batch first; None for free sizes.
        inputs: Shapes of its inputs.

    Raises:
        DataError: Several tasks fit, or none; the message says how to choose one.
    """
    if labels is not None and labels.dtype.kind in "OSU":
        raise DataError(
            f"labels are text or objects ({labels.dtype}), such as {str(labels.flat[0])!r}: give "
            "whole class numbers from 0, in the order of the model's outputs"
        )
    if labels is None:
        several = len(output) > 1 and output[-1] != 1
        return "regression" if not several or len(output) > 3 else _by_rank(len(output))
    fitting = [name for name, fits in _FITS.items() if fits(labels, output, inputs)]
    if len(fitting) == 1:
        return fitting[0]
    found = f"labels are {labels.dtype} {_show(labels.shape)}, outputs {_show(output)}"
    if fitting:
        raise DataError(f"the task is not clear: {found}; choose --task {' or '.join(fitting)}")
    raise DataError(f"{found}: no task takes these; choose --task, one of {', '.join(TASKS)}")


def make_task(name: str, labels: Array | None, output: Array) -> Task:
    """Returns a task, fitted to its labels.

    Args:
        name: One of `TASKS`, or `module:function`.
        labels: All labels of the test samples; `check_fits` has passed them.
        output: Some of the model's first outputs.

    Raises:
        DataError: There is no such task or function, or no class number is left for CTC's blank.
    """
    last = output.shape[-1] if output.ndim > 1 else 1
    check_task(name)
    if name == "classification":
        is_probability = bool(((output >= 0) & (output <= 1)).all())
        return Classification(last, threshold=0.5 if is_probability else 0.0)
    if name == "regression":
        return Regression(labels)
    if name == "embeddings":
        return Embeddings()
    if name == "tokens":
        return Tokens()
    if name == "ctc":
        return Ctc(find_blank(labels, last))
    if name == "anomaly":
        return Anomaly()
    return Custom(name, last if output.ndim == 2 and last != 1 else None)


def find_blank(labels: Array | None, classes: int) -> int:
    """Returns which class is CTC's blank: the first or the last, whichever no label uses.

    Without labels, or where they use neither, it is the last, as in Keras and TensorFlow; where
    they use the last, the first, as in PyTorch.

    Raises:
        DataError: Labels use both.
    """
    used = set() if labels is None else set(np.unique(labels).tolist())
    if classes - 1 not in used:
        return classes - 1
    if 0 not in used:
        return 0
    raise DataError(
        f"labels use class 0 and class {classes - 1}; one of the two must be CTC's blank, which "
        "no label has"
    )


def _by_rank(rank: int) -> str:
    return "classification" if rank == 2 else "tokens"


def _whole(labels: Array) -> bool:
    return bool(np.issubdtype(labels.dtype, np.integer))


def _binary(labels: Array) -> bool:
    return bool(np.isin(labels, (0, 1)).all())


def _is_classification(labels: Array, output: Shape, _inputs: Sequence[Shape]) -> bool:
    if not _whole(labels) or labels.ndim != 1 or len(output) > 2:
        return False
    return (len(output) == 2 and output[1] != 1) or _binary(labels)


def _is_regression(labels: Array, output: Shape, _inputs: Sequence[Shape]) -> bool:
    shape = labels.shape[1:]
    same = len(shape) == len(output[1:]) and all(
        want in (None, got) for want, got in zip(output[1:], shape, strict=True)
    )
    one_each = int(np.prod(shape)) == 1 and all(size == 1 for size in output[1:])
    if _whole(labels):  # classes of which a single output says one, or counts
        return one_each
    return same or one_each


def _is_tokens(labels: Array, output: Shape, _inputs: Sequence[Shape]) -> bool:
    return (
        _whole(labels)
        and len(output) > 2
        and labels.ndim == len(output) - 1
        and all(
            want in (None, got) for want, got in zip(output[1:-1], labels.shape[1:], strict=True)
        )
    )


def _is_ctc(labels: Array, output: Shape, _inputs: Sequence[Shape]) -> bool:
    if not _whole(labels) or len(output) != 3 or labels.ndim != 2:
        return False
    positions = output[1]
    return positions is None or labels.shape[1] < positions or bool((labels == PADDING).any())


def _is_anomaly(labels: Array, output: Shape, inputs: Sequence[Shape]) -> bool:
    one_each = all(size == 1 for size in output[1:])
    rebuilds = len(output) > 1 and tuple(output[1:]) == tuple(inputs[0][1:])
    return labels.ndim == 1 and _binary(labels) and (one_each or rebuilds)


_FITS = {
    "classification": _is_classification,
    "regression": _is_regression,
    "tokens": _is_tokens,
    "ctc": _is_ctc,
    "anomaly": _is_anomaly,
}


def _show(shape: Sequence[object]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
