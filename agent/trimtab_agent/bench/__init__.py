"""Measures a model on the machine it runs on: golden samples, latency, memory and energy.

* `measure`: golden samples, one version alone, the time of each operator.
* `alternate`: a version and the one that runs now, in turns.
* `inventory`: what the machine is.
* `plan`: how long all that takes.

Every model runs in a child process, so these modules import neither numpy nor a runtime. Nothing
is imported here: the agent, which waits nearly all its life, loads of them what it uses.
"""
