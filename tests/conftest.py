"""What holds for every test."""

from hypothesis import settings

# The limit on time is one per test, in pyproject.toml: a deadline per example fails on a machine
# that is busy with something else. Every run draws the same examples, so that what passes here
# passes there; `--hypothesis-profile=explore` draws new ones.
settings.register_profile("trimtab", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("trimtab")
