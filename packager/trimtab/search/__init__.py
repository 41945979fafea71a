"""The search: what to try next, from what the device measured.

* `candidates`: what could be made of a model, from the gentlest to the harshest.
* `trial`: the record of one trial. `verdict`: whether it keeps the budget. `best`: the choice.
* `model`: what is expected of candidates that were not tried. `hopeless`: which of them need no
  trial. `propose`: which to try next.
* `loop`: the driver. `state`: its file, so that nothing is lost and a rerun goes on.
* `summary`: the outcome as one value. `table`, `report`: that value for people.

Everything but `loop`, `state` and the writing in `report` is pure.
"""
