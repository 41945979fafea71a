"""Packages: built, read back, signed.

* `build`: files and what is known of them, to one `.trimtab` file.
* `read`: a `.trimtab` file back, every byte checked.
* `sign`: the TUF repository that releases packages, and the signatures over assignments.
* `boundaries`: where the tensors of a model file begin, so that chunks follow them.

docs/formats/package.md describes the file byte by byte.
"""
