"""The weight codec, writing half: a model file to a stream that a device decodes with numpy.

* `segments`: a model file cut into tensors and the structure between them.
* `planes`: a plane of one-byte symbols, in the coding that makes it smallest.
* `levels`: levels for rows and columns, by which their tables are chosen.
* `tensors`: a tensor, by the method that makes it smallest.
* `pools`: small tensors coded as one.
* `deltas`: tensors as what changed since another version of the file.
* `payload`: what is coded, put in the order in which it is decoded.
* `stream`: all of a file.

docs/formats/stream.md describes the stream; `trimtab_agent.coding` reads it.
"""
