"""A first look at a task before anything is measured on it: does its loss give one number an example, and a gradient?"""

import torch

from batchwright.core.batches import batch_length
from batchwright.core.errors import TaskError
from batchwright.core.objectives import example_losses
from batchwright.core.preserve import RandomState
from batchwright.core.vectors import trainable
from batchwright.data.access import fetch
from batchwright.tasks.blame import describe
from batchwright.tasks.task import Task


def check_task(task: Task) -> None:
    """Run the model, the loss and the metrics once on two training examples and one of the evaluation set.

    The model is a fresh one and is thrown away; the random generators come back as they were.

    Raises:
        TaskError: If something fails on the way, or the loss is not one finite number an example with a gradient. The line
            names the class and the message of an error in the user's code, and its line.
    """
    random_state = RandomState.capture()
    try:
        _check(task)
    finally:
        random_state.restore()


def _check(task: Task) -> None:
    doing = "model() must make a model"
    try:
        model = task.make_model(seed=0)
        trainable(model)
        doing = "train must give examples that can be collated"
        batch = fetch(task.train, torch.arange(min(2, task.num_train)))
        length = batch_length(batch)
        doing = f"loss must work on a batch of {length} training examples"
        losses = example_losses(model, task.loss, batch)
        if not losses.requires_grad:
            raise TaskError(
                "loss must depend on the model's parameters, got one without a gradient; compute it from model(...) "
                "without detach, item or no_grad"
            )
        if not bool(torch.isfinite(losses).all()):
            raise TaskError(
                f"loss must be finite on a fresh model, got {losses.tolist()} on the first training examples"
            )
        doing = "loss must have a gradient"
        losses.sum().backward()
        model.eval()
        with torch.no_grad():
            doing = "evaluation must give examples that the loss works on"
            batch = fetch(task.evaluation if task.evaluation is not None else task.train, torch.arange(1))
            example_losses(model, task.loss, batch)
            for name, metric in task.metrics.items():
                doing = f"metric {name!r} must work on a batch of one example"
                values = metric(model, batch)
                if not isinstance(values, torch.Tensor) or values.shape != (1,):
                    shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
                    raise TaskError(f"metric {name!r} must return one value an example, shape (1,), got {shape}")
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"{doing}, got {describe(error)}") from error
