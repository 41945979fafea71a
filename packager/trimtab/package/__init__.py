"""Packages: built, read back, signed.

* `build`: files and what is known of them, to one `.trimtab` file.
* `read`: a `.trimtab` file back, every byte checked.
* `sign`: the TUF repository that releases packages, and the signatures over assignments.
* `coding`: the weight codec, which makes files small on the wire.

docs/formats/package.md describes the file byte by byte.
"""
