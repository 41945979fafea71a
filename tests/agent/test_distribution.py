"""What `pip install trimtab-agent[tflite]` brings: a device must not carry the host."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXPECTED = {
    "ai-edge-litert",
    "backports-strenum",  # of ai-edge-litert
    "cffi",
    "cryptography",
    "flatbuffers",
    "ml-dtypes",  # of ai-edge-litert
    "msgspec",
    "numpy",
    "paho-mqtt",
    "protobuf",
    "psutil",
    "pycparser",
    "securesystemslib",
    "tqdm",
    "trimtab-agent",
    "tuf",
    "typing-extensions",
    "urllib3",
    "zstandard",
}
"""All of it. A new name here is a decision: every megabyte is on every device."""


def test_the_agent_with_one_runtime_brings_this_and_nothing_else():
    assert _closure("trimtab-agent", "tflite") <= EXPECTED


def test_the_agent_never_imports_a_host_library():
    program = (
        "import sys, pkgutil, importlib, trimtab_agent\n"
        "for found in pkgutil.walk_packages(trimtab_agent.__path__, 'trimtab_agent.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "heavy = {'tensorflow', 'onnx', 'onnx_ir', 'keras', 'typer', 'rich', 'trimtab', "
        "'onnxruntime', 'openvino', 'ai_edge_litert'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def _closure(name: str, extra: str) -> set[str]:
    """Follows the installed distributions' own requirements, on this platform."""
    found: set[str] = set()
    waiting = [(name, frozenset({extra}))]
    while waiting:
        current, extras = waiting.pop()
        found.add(canonicalize_name(current))
        for line in requires(current) or ():
            requirement = Requirement(line)
            if any(_applies(requirement, chosen) for chosen in extras or {""}):
                needed = canonicalize_name(requirement.name)
                if needed not in found:
                    waiting.append((needed, frozenset(requirement.extras)))
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})
