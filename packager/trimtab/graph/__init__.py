"""The one model format: ONNX graphs held as `onnx_ir.Model`.

* `load`: a file of any known kind to a cleaned graph.
* `clean`: the rewrites that make exports of different frameworks look alike.
* `count`: parameters and multiply-accumulates per layer.
* `access`: small questions that every technique asks of a graph.
* `run`: a graph's outputs, by ONNX Runtime.
"""
