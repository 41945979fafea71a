"""A PyTorch exported program (`.pt2`) to an ONNX graph, through torch's own exporter."""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from trimtab.errors import ModelError


def read_exported_program(path: Path) -> ir.Model:
    """Reads what `torch.export.save` wrote.

    Raises:
        ModelError: torch is not installed, the file is no exported program, or torch cannot
            export it.
    """
    for package in ("torch", "onnxscript"):
        if find_spec(package) is None:
            raise ModelError(
                f"{path}: reading PyTorch files needs the package {package}, which is not "
                "installed; pip install trimtab[torch], or export the model to ONNX where PyTorch "
                "is (torch.onnx.export)"
            )
    import torch

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            exported: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    # torch raises RuntimeError, its exporter's and zipfile's errors, each with pages of text.
    except Exception as error:
        raise ModelError(f"{path} cannot be exported by torch: {_first_line(error)}") from error
    finally:
        logger.setLevel(level)
    proto = onnx.ModelProto.FromString(exported.model_proto.SerializeToString())
    model: ir.Model = ir.from_proto(proto)
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
