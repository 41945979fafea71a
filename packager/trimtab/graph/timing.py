"""How long graphs take in ONNX Runtime on this machine, beside each other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from trimtab.graph.save import save_beside
from trimtab_agent import runtimes

_WARM_UP_RUNS = 3
_ROUNDS = 30
_TURN_US = 2000.0
"""A turn is as many runs as take this long, after one that is not timed: what ran before has
filled the caches with its own."""
_PERCENTILE = 20
"""Other jobs make runs longer and never shorter; the lowest of all is as chancy as the highest."""


def time_graphs(
    models: Sequence[ir.Model], samples: Sequence[NDArray[Any]], *, threads: int
) -> list[float]:
    """Returns the time of one inference of each graph, in microseconds.

    Args:
        models: Float or quantized graphs with the same inputs. All are in memory at once.
        samples: One array per input; the first sample of each is run.
        threads: For inference.

    Raises:
        FormatError: ONNX Runtime refuses a graph.
    """
    sample = [np.asarray(array[:1]) for array in samples]
    sessions = [_session(model, threads) for model in models]
    runs = [partial(runtimes.run_samples, each, sample) for each in sessions]
    return interleaved_us(runs, threads=threads)


def interleaved_us(runs: Sequence[Callable[[], object]], *, threads: int) -> list[float]:
    """Times functions in turn, so that what slows the machine slows them all.

    The order changes from round to round, always in the same way.

    Args:
        runs: What to time.
        threads: How many they use. The processor time of one is the time that it takes on a
            machine with nothing else to do; of several, only the clock knows.

    Returns:
        For each, a low percentile of the times of a call, in microseconds.
    """
    clock = time.process_time_ns if threads == 1 else time.perf_counter_ns
    repeats = [ceil(_TURN_US / _warm(run, clock)) for run in runs]
    orders = np.random.default_rng(0).permuted(np.tile(range(len(runs)), (_ROUNDS, 1)), axis=1)
    turns = np.zeros(orders.shape)
    for order, times_us in zip(orders, turns, strict=True):
        for index in order:
            runs[index]()
            times_us[index] = _turn_us(runs[index], repeats[index], clock)
    return [float(us) for us in np.percentile(turns, _PERCENTILE, axis=0)]


def _warm(run: Callable[[], object], clock: Callable[[], int]) -> float:
    return min(_turn_us(run, 1, clock) for _ in range(_WARM_UP_RUNS))


def _turn_us(run: Callable[[], object], count: int, clock: Callable[[], int]) -> float:
    start = clock()
    for _ in range(count):
        run()
    return max(clock() - start, 1) / 1000 / count


def _session(model: ir.Model, threads: int) -> runtimes.Session:
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:
        path, *_ = save_beside(model, Path(folder) / "model.onnx")
        return runtimes.load("onnxruntime", path, threads=threads)
