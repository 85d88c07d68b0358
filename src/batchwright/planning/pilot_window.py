"""How long a pilot trains: the noise scale is wanted where a job spends its steps, and jobs differ in length by a factor of twenty."""

from batchwright.tasks.task import Task

# Of the built-in tasks the target is met after a fiftieth to a twelfth of the steps after which a run gives up.
SHARE = 1 / 50
MIN_STEPS = 40


def pilot_steps(task: Task, affordable: float) -> int:
    """Optimizer steps of a pilot: a fiftieth of the task's limit, at least 40 and at most ``affordable``.

    A fixed number of steps is most of a short job and the first twentieth of a long one, and the noise scale grows as
    training goes on: see docs/benchmarks.md, "Kappa".
    """
    wanted = max(MIN_STEPS, round(SHARE * task.example_limit / task.batch_size))
    return max(3, min(wanted, int(affordable)))
