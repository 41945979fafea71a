"""ONNX Runtime's execution providers: what a manifest wishes, and whether it came true.

ONNX Runtime falls back to the CPU in four places, each with a line on standard output at most: a
provider that the build lacks, one whose libraries do not load, one that fails while it runs, and
nodes that no provider takes. Here each of them is an error (docs/decisions/0013): a provider that
is not named runs nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trimtab_agent.contract.session_options import (
    CPU_PROVIDER,
    PROVIDER,
    PROVIDERS,
    listed,
)
from trimtab_agent.errors import RuntimeUnavailableError
from trimtab_agent.runtimes.base import Foreign, Option

NO_FALLBACK = "session.disable_cpu_ep_fallback"
_TENSORRT = "TensorrtExecutionProvider"
_CONTEXT_PROVIDER = "QNNExecutionProvider"


@dataclass(frozen=True)
class ProviderWish:
    """Which providers are to run a graph.

    Attributes:
        accelerators: By falling rank, the CPU left out. The first must run something.
        cpu: Whether the CPU may run what they leave; true where there are none.
    """

    accelerators: tuple[str, ...]
    cpu: bool

    @classmethod
    def of(cls, options: Mapping[str, Option]) -> ProviderWish:
        """Returns the wish in a manifest's options."""
        names = listed(options.get(PROVIDER, CPU_PROVIDER))
        accelerators = tuple(name for name in names if name != CPU_PROVIDER)
        forbidden = text(options.get(NO_FALLBACK, CPU_PROVIDER not in names)) == "1"
        return cls(accelerators, cpu=not accelerators or not forbidden)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them by falling rank, as ONNX Runtime takes them."""
        # Naming the CPU and forbidding it is an error in ONNX Runtime.
        return (*self.accelerators, CPU_PROVIDER) if self.cpu else self.accelerators

    def check_available(self, module: ModuleType, version: str) -> None:
        """Checks that this build has every provider.

        Raises:
            RuntimeUnavailableError: It lacks one.
        """
        available = module.get_available_providers()
        for name in self.names:
            if name not in available:
                raise RuntimeUnavailableError(
                    f"onnxruntime {version} here has no provider {name!r}: take one of "
                    f"{', '.join(available)}, or install a build that has it"
                )

    def check_started(self, session: Foreign, version: str) -> None:
        """Checks that every provider could start on this machine.

        Raises:
            RuntimeUnavailableError: One did not, and ONNX Runtime went on without it.
        """
        started = session.get_providers()
        for name in self.names:
            if name not in started:
                raise RuntimeUnavailableError(
                    f"onnxruntime {version} could not start {name} and took "
                    f"{', '.join(started)}: check the provider's drivers and libraries"
                )

    def check_placement(self, ran: Mapping[str, tuple[str, ...]], version: str) -> None:
        """Checks where the nodes of a graph ran.

        Args:
            ran: The operators that ran, by provider.
            version: ONNX Runtime's.

        Raises:
            RuntimeUnavailableError: None ran on the first accelerator, or one ran on the CPU
                although the CPU is not named.
        """
        if self.accelerators and self.accelerators[0] not in ran:
            raise RuntimeUnavailableError(
                f"{self.accelerators[0]} of onnxruntime {version} took no node of the model, all "
                f"ran on {', '.join(ran)}: make the model for a provider that runs it"
            )
        if CPU_PROVIDER in ran and not self.cpu:
            raise RuntimeUnavailableError(
                f"onnxruntime {version} ran {', '.join(sorted(set(ran[CPU_PROVIDER])))} on the "
                f"CPU, which the package does not allow: {how_to_allow_cpu(self)}"
            )


def how_to_allow_cpu(wish: ProviderWish) -> str:
    """Returns the way out where nodes need the CPU, as the end of a message."""
    names = ",".join((*wish.accelerators, CPU_PROVIDER))
    return f"to allow it, package the model with the option provider: {names}"


def provider_options(
    name: str, options: Mapping[str, Option], model: Path, cache_dir: Path | None
) -> dict[str, str]:
    """Returns a provider's own options as ONNX Runtime takes them.

    Args:
        name: The provider.
        options: The manifest's; those behind `provider.` that this provider knows are taken.
        model: The file, which decides on options that must suit it.
        cache_dir: Where compiled models are kept on this device; None to keep none.
    """
    given = {
        key: text(options[f"{PROVIDER}.{key}"])
        for key in PROVIDERS[name]
        if f"{PROVIDER}.{key}" in options
    }
    if name == _TENSORRT and "trt_int8_enable" not in given and _is_quantized(model):
        given["trt_int8_enable"] = "1"  # without it, TensorRT refuses a graph that is quantized
    if cache_dir is None:
        return given
    # TensorRT names its files by the graph, its own version and the GPU's; so they never mix.
    cached = {
        _TENSORRT: {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache_dir),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache_dir),
        },
        "CoreMLExecutionProvider": {"ModelCacheDirectory": str(cache_dir)},
    }
    return {**cached.get(name, {}), **given}


def context_path(wish: ProviderWish, cache_dir: Path | None) -> Path | None:
    """Returns where the compiled graph of a provider that writes such files is kept, or None.

    Source: ONNX Runtime's page "OnnxRuntime EP context cache feature design".
    """
    if cache_dir is None or _CONTEXT_PROVIDER not in wish.accelerators:
        return None
    return cache_dir / "context.onnx"


def _is_quantized(model: Path) -> bool:
    """Says whether activations are quantized: the operator's name stands in the file as it is.

    Weights alone take DequantizeLinear, which has no capital Q.
    """
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"QuantizeLinear") >= 0


def text(value: Option) -> str:
    """Returns an option's value as ONNX Runtime wants it: booleans are `0` and `1`."""
    return str(int(value)) if isinstance(value, bool) else str(value)
