"""What a run of `trimtab compress` has finished, on disk, so that the same run goes on from there.

The model after the last finished step lies in a folder beside the results, with a file that says
which steps these were, of which run. The folder goes when the run is done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from trimtab.compress.recipe import Recipe
from trimtab.graph.access import infer_shapes
from trimtab.graph.save import save_beside
from trimtab.package.files import write_atomically
from trimtab.workflow.standing import StepSummary
from trimtab_agent.contract import codec
from trimtab_agent.durable import storage_errors
from trimtab_agent.errors import FormatError

FOLDER = ".unfinished"
_RECORD, _MODEL = "finished.json", "finished.onnx"


class _Record(msgspec.Struct, kw_only=True, frozen=True):
    """Which steps are done.

    Attributes:
        key: Of the run and of these steps.
        sha256: Of the model's files.
        steps: What they did.
    """

    key: str
    sha256: str
    steps: tuple[StepSummary, ...]


@dataclass(frozen=True)
class Unfinished:
    """The folder of one run.

    Attributes:
        folder: It may not be there.
        subject: What makes a run the same run: model, data, profile, seed, version.
    """

    folder: Path
    subject: Mapping[str, str]

    def load(self, recipe: Recipe) -> tuple[ir.Model, tuple[StepSummary, ...]] | None:
        """Returns the model after as many steps of a recipe as an earlier run has finished.

        None if there was no such run, or what it left is damaged.
        """
        try:
            data = (self.folder / _RECORD).read_bytes()
            record = codec.decode(data, _Record, what=_RECORD)
            digest = self._digest()
        except (OSError, FormatError):
            return None
        if record.key != self._key(recipe, len(record.steps)) or record.sha256 != digest:
            return None
        model = ir.load(self.folder / _MODEL)
        ir.external_data.load_to_model(model)
        infer_shapes(model)
        return model, record.steps

    def save(self, model: ir.Model, recipe: Recipe, steps: tuple[StepSummary, ...]) -> None:
        """Keeps the model after the first `len(steps)` steps of a recipe.

        Raises:
            StorageError: The disk has no room or refuses the write.
        """
        with storage_errors(f"making {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
        # Without its record a model does not count: one that is half written is never read.
        (self.folder / _RECORD).unlink(missing_ok=True)
        with storage_errors(f"writing into {self.folder}"):
            save_beside(model, self.folder / _MODEL)
        record = _Record(key=self._key(recipe, len(steps)), sha256=self._digest(), steps=steps)
        write_atomically(self.folder / _RECORD, codec.encode_pretty(record))

    def clear(self) -> None:
        """Forgets everything: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _digest(self) -> str:
        """Returns the SHA-256 of the model's files one after the other."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob(f"{_MODEL}*")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _key(self, recipe: Recipe, count: int) -> str:
        done: dict[str, Any] = Recipe(steps=recipe.steps[:count]).to_dict()
        text = json.dumps([dict(self.subject), done["steps"]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
