"""What holds for every test."""

from hypothesis import settings

# The limit on time is one per test, in pyproject.toml: a deadline per example fails on a machine
# that is busy with something else.
settings.register_profile("trimtab", deadline=None)
settings.load_profile("trimtab")
