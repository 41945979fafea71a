"""A graph to a file that a runtime loads, and the gate that every such file must pass.

* `export`: writes a file for one runtime.
* `gate`: runs it in its real runtime and compares it with the graph that it was made from.
"""

from trimtab.targets.export import Exported, export
from trimtab.targets.gate import Comparison, check_file

__all__ = ["Comparison", "Exported", "check_file", "export"]
