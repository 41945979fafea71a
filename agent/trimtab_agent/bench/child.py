"""The process that runs the model: `python -m trimtab_agent.bench.child`.

Reads a `Request` from standard input, does one pass, and writes a `Reply` to what was standard
output. Nothing else may appear there, and runtimes like to print, so their output goes to
standard error.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from trimtab_agent.bench import golden, latency, memory
from trimtab_agent.bench.protocol import Fault, Reply, Request
from trimtab_agent.contract import codec
from trimtab_agent.contract.measurement import Energy, Latency, Memory, OperatorTime
from trimtab_agent.contract.messages import GoldenCheck
from trimtab_agent.errors import CallerError, TrimtabError
from trimtab_agent.power import detect, measure_energy
from trimtab_agent.runtimes import Session, import_runtime, load


def main() -> int:
    """Serves one request. Returns the exit code."""
    replies = _claim_standard_output()
    request = codec.decode(sys.stdin.buffer.read(), Request, what="request to the child process")
    try:
        reply = serve(request)
    except TrimtabError as error:
        reply = Reply(fault=Fault(reason=error.reason, message=str(error)))
    with replies:
        replies.write(codec.encode(reply))
    return 0


def serve(request: Request) -> Reply:
    """Does one pass.

    Raises:
        TrimtabError: Whatever stands in the way of it, of the class that says whose it is.
    """
    # Imported and read first: what follows is then the model's own time and memory.
    import_runtime(request.runtime.name)
    samples = golden.load_samples(Path(request.golden_path))
    return _PASSES[request.mode](request, samples)


def _golden(request: Request, samples: golden.Samples) -> Reply:
    """Compares the outputs with those that the package promises."""
    if request.golden is None:
        raise CallerError("the mode 'golden' needs the manifest's golden entry, got none")
    session = _load(request)
    return _reply(session, golden=golden.check(session, samples, request.golden))


def _latency(request: Request, samples: golden.Samples) -> Reply:
    """Times loading and runs."""
    start = time.perf_counter_ns()
    session = _load(request)
    load_ns = time.perf_counter_ns() - start
    timings = latency.time_runs(_runner(session, samples), request.plan)
    figures = latency.summarise(timings, load_ns=load_ns, threads=request.runtime.threads)
    return _reply(session, latency=figures)


def _memory(request: Request, samples: golden.Samples) -> Reply:
    """Weighs the process before, while and after the model runs."""
    sessions: list[Session] = []

    def open_model() -> Callable[[], object]:
        sessions.append(_load(request))
        return _runner(sessions[0], samples)

    figures = memory.measure_memory(open_model, runs=request.plan.memory_runs)
    return _reply(sessions[0], memory=figures)


def _energy(request: Request, samples: golden.Samples) -> Reply:
    """Watches the power sensor at rest and under load."""
    session = _load(request)
    found = detect(Path(request.power_root))
    if found.source is None:
        return _reply(session, energy=Energy(level="none", reason=found.reason))
    run = _runner(session, samples)
    for _ in range(request.plan.warmup_runs):
        run()
    plan = request.plan
    figures = measure_energy(found.source, run, idle_s=plan.idle_s, load_s=plan.energy_s)
    return _reply(session, energy=figures)


def _operators(request: Request, samples: golden.Samples) -> Reply:
    """Times every operator on the first golden sample, where the runtime can."""
    session = _load(request)
    found = session.profile([array[:1] for array in samples.inputs], request.plan.operator_runs)
    return _reply(session, operators=found)


_PASSES: dict[str, Callable[[Request, golden.Samples], Reply]] = {
    "golden": _golden,
    "latency": _latency,
    "memory": _memory,
    "energy": _energy,
    "operators": _operators,
}


def _load(request: Request) -> Session:
    """Loads the model as the package says."""
    spec = request.runtime
    return load(
        spec.name,
        Path(request.model_path),
        threads=spec.threads,
        options=spec.options,
        cache_dir=None if request.cache_dir is None else Path(request.cache_dir),
    )


def _runner(session: Session, samples: golden.Samples) -> Callable[[], object]:
    """Returns one inference; each call takes the next golden sample, a batch of one."""
    batches = itertools.cycle(
        [[array[index : index + 1] for array in samples.inputs] for index in range(samples.count)]
    )
    return lambda: session.run(next(batches))


def _reply(
    session: Session,
    *,
    golden: GoldenCheck | None = None,
    latency: Latency | None = None,
    memory: Memory | None = None,
    energy: Energy | None = None,
    operators: tuple[OperatorTime, ...] | None = None,
) -> Reply:
    """Returns the result of a pass, with what executed it."""
    return Reply(
        runtime_version=session.version,
        provider=session.provider,
        golden=golden,
        latency=latency,
        memory=memory,
        energy=energy,
        operators=operators,
    )


def _claim_standard_output() -> BinaryIO:
    """Returns the real standard output, and leads descriptor 1 to standard error from now on."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    sys.exit(main())
