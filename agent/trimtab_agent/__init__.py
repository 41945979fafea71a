"""The on-device half of Trimtab.

Everything here runs on the device. It never imports the packager, and TensorFlow never.
"""

__version__ = "0.1.0"
