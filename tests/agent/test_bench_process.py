"""The child process for real: models that run, and children that end in every bad way."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import pytest

from support.models import write_golden, write_model
from support.sysfs import INA226, write_tree
from trimtab_agent.bench.measure import check_golden, measure, time_operators
from trimtab_agent.bench.plan import Plan
from trimtab_agent.bench.process import run_child
from trimtab_agent.bench.protocol import Request
from trimtab_agent.contract.manifest import Golden, RuntimeSpec
from trimtab_agent.errors import (
    FormatError,
    GoldenError,
    MeasurementError,
    RuntimeUnavailableError,
    TrimtabError,
)
from trimtab_agent.faults import describe_exit

BRIEF = Plan(warmup_s=0.05, duration_s=0.1, min_runs=60, idle_s=0.2, energy_s=0.3)


def spec(name: str, **changes) -> RuntimeSpec:
    return RuntimeSpec(name=name, model="unused", **changes)


@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime", "openvino"])
def test_measures_a_model(tmp_path, runtime):
    model, samples = write_model(runtime, tmp_path), write_golden(tmp_path / "golden.npz")
    entry = Golden(path="golden.npz", count=4, max_abs_error=1e-6)
    assert check_golden(spec(runtime), model, samples, entry).max_abs_error <= 1e-6
    found = measure(spec(runtime), model, samples, plan=BRIEF, power_root=tmp_path)
    assert found.runtime == runtime
    assert found.provider
    assert found.latency.count >= 60
    assert len(found.latency.raw_us) == 4 * found.latency.count
    assert 0 < found.latency.min_us <= found.latency.p50_us <= found.latency.max_us
    assert found.memory.peak_rss_bytes > found.memory.baseline_rss_bytes > 10 * 2**20
    assert found.energy.level == "none"
    assert found.energy.net_mj is None
    assert "no RAPL" in (found.energy.reason or "")


@pytest.mark.parametrize("runtime", ["tflite", "onnxruntime", "openvino"])
def test_times_operators(tmp_path, runtime):
    model, samples = write_model(runtime, tmp_path), write_golden(tmp_path / "golden.npz")
    found = time_operators(spec(runtime), model, samples, plan=BRIEF)
    if runtime == "tflite":
        assert found is None
        return
    assert {each.calls for each in found} == {BRIEF.operator_runs}
    assert "Add" in {each.operator for each in found}


def test_a_model_that_must_be_compiled_gets_more_time():
    plan = Plan(warmup_limit_s=0, duration_s=0, limit_s=0, idle_s=0, energy_s=0, grace_s=0.2)
    plan = msgspec.structs.replace(plan, compile_s=60)
    slow = child("import time; time.sleep(0.5); raise SystemExit(3)")
    wish = spec("onnxruntime", options={"provider": "TensorrtExecutionProvider"})
    with pytest.raises(MeasurementError, match="exit code 3"):
        run_child(request(plan=plan, runtime=wish), command=slow)


def test_the_folder_for_what_is_compiled_reaches_the_runtime(tmp_path):
    code = """
        from trimtab_agent import runtimes
        from trimtab_agent.bench import child
        def load(*arguments, cache_dir, **options):
            assert str(cache_dir) == "/var/compiled", cache_dir
            return runtimes.load(*arguments, **options)
        child.load = load
        child.main()
    """
    model, samples = write_model("tflite", tmp_path), write_golden(tmp_path / "golden.npz")
    entry = Golden(path="golden.npz", count=4, max_abs_error=1e-6)
    paths = {"model_path": str(model), "golden_path": str(samples), "cache_dir": "/var/compiled"}
    reply = run_child(request(mode="golden", golden=entry, **paths), command=child(code))
    assert reply.golden is not None


def test_measures_energy_where_there_is_a_sensor(tmp_path):
    write_tree(tmp_path, INA226)
    model, samples = write_model("onnxruntime", tmp_path), write_golden(tmp_path / "golden.npz")
    found = measure(spec("onnxruntime"), model, samples, plan=BRIEF, power_root=tmp_path).energy
    assert (found.level, found.source, found.scope) == (
        "integrated_samples", "ina:unlabelled", "board",
    )  # fmt: skip
    assert found.load_power_mw == pytest.approx(6329)
    assert found.net_mj == pytest.approx(0, abs=1e-9)
    assert found.inferences
    # The load lasts as long as the plan says, or longer where the machine is busy.
    assert found.gross_mj * found.inferences >= 6329 * 0.3 * 0.9


def test_an_error_of_the_child_comes_back_with_its_class(tmp_path):
    model, samples = write_model("tflite", tmp_path), tmp_path / "golden.npz"
    write_golden(samples, error=0.5)
    entry = Golden(path="golden.npz", count=4, max_abs_error=0.1)
    with pytest.raises(GoldenError, match=r"output 0 \(sum\) differs by 0.5 in golden sample 3"):
        check_golden(spec("tflite"), model, samples, entry)
    model.write_bytes(b"nonsense")
    with pytest.raises(FormatError, match=r"model\.tflite is no model"):
        check_golden(spec("tflite"), model, samples, entry)
    with pytest.raises(RuntimeUnavailableError, match="NoSuchProvider"):
        check_golden(
            spec("onnxruntime", options={"provider": "NoSuchProvider"}), model, samples, entry
        )


def request(**changes) -> Request:
    values = {
        "mode": "latency",
        "runtime": spec("tflite"),
        "model_path": "/absent/model.tflite",
        "golden_path": "/absent/golden.npz",
        "plan": Plan(),
    }
    return Request(**{**values, **changes})


def child(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("raise ValueError('a deep reason')", "exit code 1: ValueError: a deep reason"),
        ("raise SystemExit(3)", "exit code 3"),
        ("", "reply of the child process cannot be read"),
        ("print('{\"latency\": 5}')", r"reply of the child process cannot be read.*\$.latency"),
    ],
    ids=["crash", "killed", "traceback", "exit", "silent", "other reply"],
)
def test_a_child_that_ends_badly(code, message):
    with pytest.raises(MeasurementError, match=message) as caught:
        run_child(request(), command=child(code))
    assert "latency pass of /absent/model.tflite" in str(caught.value)


def test_a_child_that_hangs_is_ended():
    plan = Plan(warmup_limit_s=0, duration_s=0, limit_s=0, idle_s=0, energy_s=0, grace_s=0.3)
    with pytest.raises(MeasurementError, match=r"was ended after 0\.3 s"):
        run_child(request(plan=plan), command=child("import time; time.sleep(60)"))


def test_a_child_that_does_not_start(tmp_path):
    with pytest.raises(MeasurementError, match="cannot be started"):
        run_child(request(), command=[str(tmp_path / "no-python")])


def test_a_child_that_ran_out_of_memory(tmp_path):
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 7\noom_kill 4\n")
    code = f"""
        import os, pathlib, signal
        pathlib.Path({str(vmstat)!r}).write_text("oom_kill 5\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(MeasurementError, match="because memory ran out"):
        run_child(request(), command=child(code), vmstat=vmstat)


def test_an_unknown_signal_has_its_number():
    assert describe_exit(-63, b"", out_of_memory=False) == "the process was killed by signal 63"


def test_an_error_of_an_unknown_kind_is_still_an_error():
    code = """print('{"fault": {"reason": "from the future", "message": "text"}}')"""
    with pytest.raises(TrimtabError, match="text"):
        run_child(request(), command=child(code))


def test_what_a_runtime_prints_does_not_mix_with_the_reply(tmp_path):
    code = """
        import os
        from trimtab_agent.bench import child
        from trimtab_agent.bench.protocol import Reply
        def serve(request):
            print("chatter", flush=True)
            os.system("echo chatter of a library")
            return Reply(runtime_version="1.2")
        child.serve = serve
        child.main()
    """
    assert run_child(request(), command=child(code)).runtime_version == "1.2"


@pytest.mark.slow
def test_a_killed_agent_leaves_no_process_behind():
    code = """
        import os, subprocess, sys, time
        from trimtab_agent.bench.process import COMMAND, command_line
        print(subprocess.Popen(command_line(COMMAND)).pid, flush=True)
        time.sleep(60)
    """
    # The pipe stays open: the end of its input is not what ends the process.
    agent = subprocess.Popen(child(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    status = Path(f"/proc/{int(agent.stdout.readline())}/stat")
    time.sleep(1.0)
    agent.kill()
    deadline = time.monotonic() + 10
    while status.exists() and ") Z " not in status.read_text():
        assert time.monotonic() < deadline, "it waits for its request for ever"
        time.sleep(0.05)
    agent.communicate()
