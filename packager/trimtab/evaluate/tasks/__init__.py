"""Kinds of task, one file each: what is kept of a model's outputs, and the figures it gives."""

from trimtab.evaluate.tasks.base import Batch, Evidence, Measure, Task
from trimtab.evaluate.tasks.choose import TASKS, check_task, detect_task, make_task

__all__ = [
    "TASKS",
    "Batch",
    "Evidence",
    "Measure",
    "Task",
    "check_task",
    "detect_task",
    "make_task",
]
