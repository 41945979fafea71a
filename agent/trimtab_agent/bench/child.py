"""The process that runs the model: `python -m trimtab_agent.bench.child PARENT`.

Reads a `Request` from standard input, does one pass, and writes a `Reply` to what was standard
output; in the mode `turns` it goes on with a reply for each `Turn` that it reads. Nothing else may
appear there, and runtimes like to print, so their output goes to standard error.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from trimtab_agent.bench import golden, latency, memory, turns
from trimtab_agent.bench.interface import check_interface
from trimtab_agent.bench.plan import Plan
from trimtab_agent.bench.protocol import Opened, Reply, Request, Turn, TurnTimes
from trimtab_agent.contract import codec
from trimtab_agent.contract.measurement import Energy, Latency, Memory, OperatorTime
from trimtab_agent.contract.messages import GoldenCheck
from trimtab_agent.errors import CallerError, TrimtabError
from trimtab_agent.faults import fault_of
from trimtab_agent.helper_child import end_with_parent
from trimtab_agent.power import detect, measure_energy
from trimtab_agent.runtimes import Session, import_runtime, load


def main() -> int:
    """Serves one request. Returns the exit code."""
    end_with_parent(int(sys.argv[1]))
    requests = sys.stdin.buffer
    with _claim_standard_output() as replies:
        request = codec.decode(requests.readline(), Request, what="request to the child process")
        for reply in _answers(request, requests):
            replies.write(codec.encode(reply) + b"\n")
            replies.flush()
    return 0


def _answers(request: Request, requests: BinaryIO) -> Iterator[Reply]:
    """Yields what there is to say to a request; an error is the last of it."""
    try:
        if request.mode == "turns":
            yield from _take_turns(request, requests)
        else:
            yield serve(request)
    except TrimtabError as error:
        yield Reply(fault=fault_of(error))


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
    """Compares the model with what the package tells and promises of it."""
    if request.golden is None:
        raise CallerError("the mode 'golden' needs the manifest's golden entry, got none")
    session = _load(request)
    if request.interface is not None:
        check_interface(session, request.interface)
    return _reply(session, golden=golden.check(session, samples, request.golden))


def _latency(request: Request, samples: golden.Samples) -> Reply:
    """Times loading and runs."""
    start = time.perf_counter_ns()
    session = _load(request)
    load_ns = time.perf_counter_ns() - start
    timings = latency.time_runs(_runner(session, samples), request.plan)
    figures = latency.summarise(timings, load_ns=load_ns, threads=request.runtime.threads)
    return _reply(session, latency=figures)


def _take_turns(request: Request, requests: BinaryIO) -> Iterator[Reply]:
    """Loads the model, warms it up, and does a turn for each line until there is none."""
    import_runtime(request.runtime.name)
    samples = golden.load_samples(Path(request.golden_path))
    start = time.perf_counter_ns()
    session = _load(request)
    load_ns = time.perf_counter_ns() - start
    run = _runner(session, samples)
    first_ns, warmup_count, _ = latency.warm_up(run, request.plan)
    opened = Opened(load_ns=load_ns, first_ns=first_ns, warmup_count=warmup_count)
    yield _reply(session, opened=opened)
    for line in requests:
        turn = codec.decode(line, Turn, what="turn of the child process")
        if turn.mode == "energy":
            yield _reply(session, energy=_watch(run, turn.plan, request.power_root))
        else:
            yield _reply(session, turn=turns.time_turn(run, turn.plan))


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
    run = _runner(session, samples)
    for _ in range(request.plan.warmup_runs):
        run()
    return _reply(session, energy=_watch(run, request.plan, request.power_root))


def _watch(run: Callable[[], object], plan: Plan, power_root: str) -> Energy:
    """Measures the energy of one inference of a warm model, if there is a sensor."""
    found = detect(Path(power_root))
    if found.source is None:
        return Energy(level="none", reason=found.reason)
    return measure_energy(found.source, run, idle_s=plan.idle_s, load_s=plan.energy_s)


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
    opened: Opened | None = None,
    turn: TurnTimes | None = None,
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
        opened=opened,
        turn=turn,
    )


def _claim_standard_output() -> BinaryIO:
    """Returns the real standard output, and leads descriptor 1 to standard error from now on."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    sys.exit(main())
