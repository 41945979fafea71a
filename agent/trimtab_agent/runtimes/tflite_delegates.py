"""TFLite's delegates: who may run a graph's nodes, and who does.

TFLite leaves to its own kernels what a delegate does not take, without a word. Here that is an
error unless the options name those kernels, `builtin` (docs/decisions/0013).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trimtab_agent.contract.session_options import BUILTIN, DELEGATE, XNNPACK, listed
from trimtab_agent.errors import CallerError, RuntimeUnavailableError
from trimtab_agent.runtimes.base import Foreign, Option


@dataclass(frozen=True)
class DelegateWish:
    """Who is to run a graph.

    Attributes:
        delegate: `XNNPACK`, a library's file name, or None for TFLite's own kernels.
        builtin: Whether TFLite's own kernels may run what the delegate leaves.
        strict: Whether the delegate must take something. XNNPACK, as it is used when nobody
            wished anything, need not.
    """

    delegate: str | None = XNNPACK
    builtin: bool = True
    strict: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Option]) -> DelegateWish:
        """Returns the wish in a manifest's options.

        Raises:
            CallerError: It names two delegates.
        """
        if DELEGATE not in options:
            return cls()
        names = listed(options[DELEGATE])
        delegates = [name for name in names if name != BUILTIN]
        if len(delegates) > 1:
            raise CallerError(
                f"tflite option {DELEGATE!r} takes one delegate and {BUILTIN!r}, got "
                f"{options[DELEGATE]!r}: TFLite does not tell which of two ran a node"
            )
        return cls(delegates[0] if delegates else None, BUILTIN in names, bool(delegates))

    @property
    def library(self) -> str | None:
        """The library to load, or None."""
        return None if self.delegate in (None, XNNPACK) else self.delegate

    def arguments(self, module: ModuleType, options: Mapping[str, Option]) -> dict[str, Any]:
        """Returns the interpreter's arguments.

        Raises:
            RuntimeUnavailableError: The library does not load, or declines.
        """
        if self.delegate == XNNPACK:
            return {}  # TFLite takes it by itself
        resolver = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if self.library is None:
            return {"experimental_op_resolver_type": resolver}
        prefix = f"{DELEGATE}."
        own = {name.removeprefix(prefix): v for name, v in options.items() if prefix in name}
        try:
            delegate = module.load_delegate(self.library, own)
        except (ValueError, OSError) as error:
            raise RuntimeUnavailableError(
                f"the TFLite delegate {self.library} does not load here: {error}; install it where "
                "the system finds libraries, and check its device and options"
            ) from error
        return {
            "experimental_op_resolver_type": resolver,
            "experimental_delegates": [delegate],
        }

    def who_ran(self, interpreter: Foreign, outputs: Sequence[int]) -> str | None:
        """Returns who runs the graph, such as `XNNPACK,builtin`; None if it cannot be told.

        Args:
            interpreter: With its tensors allocated.
            outputs: Indices of the output tensors.

        Raises:
            RuntimeUnavailableError: It is not as wished.
        """
        # The list of nodes has no public accessor.
        list_nodes = getattr(interpreter, "_get_ops_details", None)
        if list_nodes is None:
            return None
        ran = list(running(list_nodes(), outputs))
        left = sorted({name for name in ran if name != _DELEGATED})
        if self.strict and _DELEGATED not in ran:
            raise RuntimeUnavailableError(
                f"the TFLite delegate {self.delegate} took no node of the model: make the model "
                "for a delegate that runs it"
            )
        if left and not self.builtin:
            raise RuntimeUnavailableError(
                f"the TFLite delegate {self.delegate} left {', '.join(left)} to the CPU, which the "
                f"package does not allow: to allow it, package the model with the option "
                f"{DELEGATE}: {self.delegate},{BUILTIN}"
            )
        who = [str(self.delegate)] if _DELEGATED in ran else []
        return ",".join([*who, BUILTIN] if left or not who else who)


_DELEGATED = "DELEGATE"


def running(nodes: Sequence[Mapping[str, Any]], outputs: Sequence[int]) -> Iterator[str]:
    """Yields the operators that are executed, `DELEGATE` for what a delegate took.

    The interpreter lists the nodes of the file and then those of delegates, and keeps what a
    delegate replaced. So this goes back from the outputs, past the last node that makes each.

    Args:
        nodes: Each with `op_name`, `inputs` and `outputs` (indices of tensors).
        outputs: The model's.
    """
    makers = {int(tensor): index for index, node in enumerate(nodes) for tensor in node["outputs"]}
    waiting, seen = [int(tensor) for tensor in outputs], set()
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is None or maker in seen:
            continue
        seen.add(maker)
        waiting.extend(int(tensor) for tensor in nodes[maker]["inputs"])
        yield str(nodes[maker]["op_name"])
