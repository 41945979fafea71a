"""`--data`: an `.npz` file, a folder of images, or a user's function, to a data set."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trimtab.errors import DataError
from trimtab.evaluate.arrays import dataset_from_arrays, is_data_name
from trimtab.evaluate.data import Column, Dataset, Split
from trimtab.evaluate.plugin import call_plugin, is_plugin, load_plugin
from trimtab.evaluate.stored import read_member, spool
from trimtab_agent.contract.manifest import TensorSpec


def load_data(source: str | Path, inputs: Sequence[TensorSpec]) -> Dataset:
    """Loads a data set for a model. docs/data.md describes the three forms.

    Args:
        source: An `.npz` file, a folder with a folder of images for each class, or
            `module:function`.
        inputs: The model's inputs, the batch axis first.

    Raises:
        DataError: It cannot be read, or lacks an input. Whether the arrays fit the model is for
            `check_fits` to say.
    """
    path = Path(source)
    if path.is_dir():
        from trimtab.evaluate.images import load_images

        return load_images(path, inputs)
    if not path.exists() and is_plugin(str(source)):
        return _call(str(source), inputs)
    return dataset_from_arrays(_read_arrays(path), inputs, str(path))


def fingerprint(source: str | Path) -> str:
    """Returns a digest that tells data sets apart.

    Of a file it is the SHA-256. Of a folder it covers the names, sizes and times of its files,
    and of a function its name alone: reading all of it to say so would take as long as using it.
    """
    path = Path(source)
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest.update(str(source).encode())
    for file_path in sorted(path.rglob("*")) if path.is_dir() else ():
        facts = file_path.stat()
        line = f"{file_path.relative_to(path)} {facts.st_size} {facts.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _call(source: str, inputs: Sequence[TensorSpec]) -> Dataset:
    """Calls a user's function and takes what it returns."""
    result = call_plugin(source, load_plugin(source))
    if isinstance(result, Mapping):
        named = {str(name): _column(value, f"{source}: {name}") for name, value in result.items()}
        return dataset_from_arrays(named, inputs, source)
    train, test = getattr(result, "train", None), getattr(result, "test", None)
    if isinstance(train, Split) and isinstance(test, Split):
        names = getattr(result, "class_names", None)
        return Dataset(source=source, train=train, test=test, class_names=names)
    raise DataError(
        f"{source} must return a mapping with x_train and the like, or a Dataset; "
        f"it returned {type(result).__name__}"
    )


def _column(value: object, what: str) -> object:
    """Brings what a user's function gives into a form that can be indexed."""
    if not isinstance(value, Iterator):
        return value
    try:
        return spool(value, what)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{what} cannot be spooled: {error.strerror or error}") from error
    except Exception as error:  # a generator runs the user's code, which may raise anything
        raise DataError(f"{what} failed: {type(error).__name__}: {error}") from error


def _read_arrays(path: Path) -> dict[str, Column]:
    """Reads the arrays of a data set, and no others; large ones stay in the file.

    Pickled objects can run code: they are never loaded.
    """
    try:
        if not zipfile.is_zipfile(path):
            path.stat()  # a missing file is not a file of the wrong kind
            raise DataError(f"{path} is no .npz file; make one with numpy.savez")
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            return {name: read_member(path, archive, name) for name in names if is_data_name(name)}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds pickled objects, which are never loaded because they can run "
                f"code; save plain arrays of numbers"
            ) from error
        raise DataError(f"{path} is damaged: {error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
