"""What is trained: `Task`, the built-in tasks, loading a task from a user's file, and its evaluation."""

from batchwright.tasks.checking import check_task
from batchwright.tasks.evaluation import Evaluation, evaluate
from batchwright.tasks.loading import load_task
from batchwright.tasks.registry import REGISTRY, Entry
from batchwright.tasks.task import OptimizerSpec, Target, Task

__all__ = ["Entry", "Evaluation", "OptimizerSpec", "REGISTRY", "Target", "Task", "check_task", "evaluate", "load_task"]
