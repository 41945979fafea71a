"""The host half of Trimtab: compress, package, sign, publish, and compress again."""

__version__ = "0.1.0"
