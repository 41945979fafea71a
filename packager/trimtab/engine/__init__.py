"""TensorFlow as the engine: run an ONNX graph, train it, lower it to TFLite.

* `layout`: values that know how their physical axes are permuted.
* `registry`: which ONNX operators there are, and the check that names those that are missing.
* `operators`: one small function per ONNX operator.
* `module`: a graph as a callable with variables.
* `train`: fine-tuning.
* `lower`: a TFLite file.

Importing this package does not import TensorFlow; using it does.
"""
