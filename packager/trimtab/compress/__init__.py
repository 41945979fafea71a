"""Compression: one technique a module, composed by recipes."""
