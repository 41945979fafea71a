"""One small function per ONNX operator. Importing a module registers its operators."""

from trimtab.engine.operators import (
    conv,
    elementwise,
    matmul,
    pool,
    quantize,
    reduce,
    shape,
)

__all__ = ["conv", "elementwise", "matmul", "pool", "quantize", "reduce", "shape"]
