"""A module like `onnxruntime` of a build with accelerators, with the behaviour that matters here.

Which providers start, which operators they take, and what ONNX Runtime then does by itself: it
leaves the rest to the CPU unless that is forbidden, drops providers whose libraries are missing,
and writes a profile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np

CPU = "CPUExecutionProvider"


class Fail(Exception):
    """Named like ONNX Runtime's."""


class InvalidProtobuf(Exception):
    """Likewise."""


class SessionOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.enable_profiling = False
        self.profile_file_prefix = ""

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class FakeOnnxRuntime:
    """The module. `sessions` are those that were opened, in order.

    Args:
        takes: The operators that each provider of the build takes, best first.
        broken: Providers of the build whose libraries this machine lacks.
        graph: The operators of every model.
        profiler: Whether the build has one.
    """

    def __init__(
        self,
        takes: Mapping[str, set[str]],
        *,
        broken: tuple[str, ...] = (),
        graph: tuple[str, ...] = ("Conv", "Relu"),
        profiler: bool = True,
    ) -> None:
        self.takes, self.broken, self.graph, self.profiler = takes, broken, graph, profiler
        self.sessions: list[Session] = []
        self.SessionOptions = SessionOptions

    def get_available_providers(self) -> list[str]:
        return [*self.takes, CPU]

    def InferenceSession(self, path, sess_options, providers, enable_fallback):
        assert enable_fallback == 0
        session = Session(self, path, sess_options, providers)
        self.sessions.append(session)
        return session


class Session:
    def __init__(self, module, path, options, providers) -> None:
        content = Path(path).read_bytes()
        if content == b"broken":
            raise InvalidProtobuf("Protobuf parsing failed.")
        if content == b"of another driver":
            raise Fail("Failed to create context from binary.")
        self.path, self.options, self.providers = path, options.entries, dict(providers)
        self._names = [name for name, _ in providers if name not in module.broken]
        self._placed = [(op, self._taker(module, op)) for op in module.graph]
        on_cpu = [op for op, name in self._placed if name == CPU]
        if on_cpu and options.entries.get("session.disable_cpu_ep_fallback") == "1":
            raise Fail("This session contains graph nodes that are assigned to the default CPU EP")
        if draft := options.entries.get("ep.context_file_path"):
            Path(draft).write_bytes(b"compiled")
        self._profile = Path(options.profile_file_prefix + ".json")
        self._profiles = module.profiler and options.enable_profiling
        self._events: list[dict] = []
        self.falls_back = True

    def _taker(self, module, op: str) -> str:
        return next((name for name in self._names if op in module.takes.get(name, ())), CPU)

    def disable_fallback(self) -> None:
        self.falls_back = False

    def get_providers(self) -> list[str]:
        return [*self._names, *([] if CPU in self._names else [CPU])]

    def get_inputs(self):
        return [SimpleNamespace(name="x", type="tensor(float)", shape=["n", 3])]

    def get_outputs(self):
        return [SimpleNamespace(name="y", type="tensor(float)", shape=["n", 3])]

    def run(self, names, feeds):
        time = float(len(self._events))
        self._events.append({"cat": "Session", "name": "model_run", "ts": time, "dur": 9})
        for op, name in self._placed if self._profiles else ():
            args = {"op_name": op, "provider": name}
            event = {"cat": "Node", "name": f"{op}_0_kernel_time", "ts": time, "dur": 2}
            self._events.append({**event, "args": args})
        return [np.array(feeds["x"])]

    def end_profiling(self) -> str:
        self._profile.write_text(json.dumps(self._events))
        return str(self._profile)
