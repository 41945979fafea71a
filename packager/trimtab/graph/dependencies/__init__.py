"""Which channels of a graph must be kept or dropped together.

Dropping an output channel of a convolution drops a slice of its weight, its bias, the batch norm
behind it, and an input slice of every layer that reads it; a residual addition ties it to a channel
of another layer. DepGraph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023,
arXiv:2301.12956) finds such dependencies between layers. Here they are found between single
positions: each layer makes one *atom* for each output channel, the rules of the operators carry
atoms through the graph and tie them together, and what ends up tied is a *class*. So concatenation,
flattening and channel shuffles need no bookkeeping of offsets, and nothing assumes a layout.

`analyse` finds classes and groups; `remove_channels` cuts classes out of a model.
"""

from trimtab.graph.dependencies.analyse import analyse
from trimtab.graph.dependencies.groups import Dependencies, Group, Kept
from trimtab.graph.dependencies.removal import remove_channels

__all__ = ["Dependencies", "Group", "Kept", "analyse", "remove_channels"]
