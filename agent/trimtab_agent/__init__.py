"""The on-device half of Trimtab.

Everything here runs on the device. It never imports the packager, and TensorFlow never.

Applications take the active model from here: `trimtab_agent.load_active()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab_agent.active import ActiveModel, load_active

__all__ = ["ActiveModel", "__version__", "load_active"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads what applications use when they use it: the agent itself never does (PEP 562)."""
    if name in {"ActiveModel", "load_active"}:
        from trimtab_agent import active

        return getattr(active, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
