"""Shapes as formulas of a graph's free dimensions, such as `batch * 4`.

`formulas` walks a graph, `shape_rules` and `number_rules` say what single operators do, `lengths`
reckons.
"""

from trimtab.graph.shapes.formulas import Formulas, Lengths, free_length, name_lengths
from trimtab.graph.shapes.lengths import Length, divided

__all__ = ["Formulas", "Length", "Lengths", "divided", "free_length", "name_lengths"]
