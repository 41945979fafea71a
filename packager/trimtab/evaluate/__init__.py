"""Data sets, and how good a compressed model is against the original.

* `data`: loading a data set and checking that it fits a model.
* `metrics`: figures from outputs and labels; pure numpy.
* `evaluate`: a compressed model, run in its real runtime, against the original.
"""
