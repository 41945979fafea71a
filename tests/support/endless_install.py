"""Installs and activates two versions by turns until it is killed; argument: the store's root."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trimtab_agent.coding.stream  # noqa: F401 - numpy, which an install imports, takes its time
from support.manifests import small_package
from trimtab_agent.store import Store


def main() -> None:
    store = Store(Path(sys.argv[1]))
    packages = [small_package(str(n), model=random.Random(n).randbytes(400_000)) for n in (1, 2)]
    sys.stdout.write("x")
    sys.stdout.flush()
    while True:
        for package in packages:
            for file in package.manifest.files:
                for chunk in file.chunks:
                    store.chunks.put(chunk, package.wire[chunk.sha256])
            store.switch(store.install(package.manifest_bytes))
            store.commit()
            other = packages[1 - packages.index(package)]
            # Away with the other, so that the next turn writes it again.
            (store._root / "previous").unlink(missing_ok=True)
            store.collect_garbage()
            assert store.find(other.sha256) is None


main()
