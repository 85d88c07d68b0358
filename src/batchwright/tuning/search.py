"""`tune`: rounds of parallel trials from a bandit, on any executor, with a journal that a killed driver goes on from."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from batchwright.bandits import Space
from batchwright.core.checks import check_choice
from batchwright.core.errors import InputError
from batchwright.tasks.task import Task
from batchwright.tuning.engines import ENGINES, make_executor
from batchwright.tuning.journal import Journal, Written, holds_search
from batchwright.tuning.objective import FunctionObjective, Objective, TaskObjective, setting_of, task_objective
from batchwright.tuning.outcome import Metric, TuningTrial
from batchwright.tuning.result import Tuning
from batchwright.tuning.rounds import Search
from batchwright.tuning.settings import TuneSettings, default_method, plan_of, radius_of


def tune(
    objective: str | Task | Callable[..., float],
    space: str | Space | None = None,
    *,
    rounds: int | None = None,
    parallel: int | None = None,
    trials: int | None = None,
    robust: float | str | Mapping[str, float] | None = None,
    method: str | None = None,
    metric: str | None = None,
    direction: str = "below",
    scale: str = "linear",
    max_examples: int | None = None,
    early_stop: bool = True,
    micro_batch_size: int | None = None,
    beta: float = 4.0,
    timeout_s: float | None = None,
    retries: int = 2,
    on_failure: str = "worst",
    same_seed: bool = False,
    reuse: bool = True,
    engine: str = "local",
    executor: Executor | None = None,
    workers: int | None = None,
    ray_address: str | None = None,
    num_threads: int | None = 1,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str = "auto",
    data_root: str | Path | None = None,
    on_trial: Callable[[TuningTrial, int, int], None] | None = None,
    on_round: Callable[[int, tuple[int, ...]], None] | None = None,
) -> Tuning:
    """Search training settings in a few rounds of parallel trials that are planned beforehand.

    Args:
        objective: A task, by name or as an object: a trial trains it for ``max_examples``. Or a function ``f(values) -> float``, which
            may also take ``seed`` and ``trial`` (see `FunctionObjective`).
        space: What is searched, as `bandits.Space.parse` reads it; of a task ``lr``, ``batch_size``, ``momentum``, ``beta2``,
            ``weight_decay`` and ``optimizer``. Not needed with ``resume``.
        rounds: How many; 4 by default.
        parallel: Trials in a round; 8 by default.
        trials: In all, instead of ``parallel``: the schedules of `bandits.batch_schedule` choose the rounds.
        robust: What is recommended keeps its value when each number is off by this: see `radius_of`.
        method: Of `bandits.REGISTRY`; ``gp-bucb``, or ``robust-gp-bucb`` with ``robust``. ``bpe`` explores for longer, which is better
            for bounds and worse for few trials in many dimensions.
        metric: Of a task: ``loss`` or one of its metrics; that of its target where left out. Of a function its name in tables.
        direction: Of a function: ``below`` where small is good.
        scale: Of a function: ``log`` for positive values that differ by factors. The loss of a task is always modelled so.
        max_examples: Budget of a trial; the task's limit where left out. Of a function the budget that ``trial.report`` counts in.
        early_stop: Whether hopeless trials end early, against the best of earlier rounds.
        micro_batch_size: Of a task, most examples in one forward pass.
        beta: Practical width of the bounds.
        timeout_s: Seconds after which a trial fails.
        retries: How often a trial is begun again after its worker died.
        on_failure: What a trial without a value says of its place: ``worst``, ``exclude`` or ``retry``.
        same_seed: Whether all trials have the seed of the search; otherwise each has its own.
        reuse: Whether a trial that would come to the same as a finished one takes its outcome.
        engine: ``local`` for processes of this machine, ``ray`` for actors of a cluster.
        executor: Any executor instead; it is left open.
        workers: Processes or actors; as many as there are trials in a round, and locally at most as many as there are processors.
        ray_address: Of an existing cluster; a local one is started where left out.
        num_threads: Torch threads of a trial.
        out: Folder of the journal; without one a killed search begins anew.
        resume: Go on with the search in ``out``, as it was started.
        seed: Of everything random.
        device: Of the trials.
        data_root: Folder of real data sets.
        on_trial: Called after each trial with it, the number of ended trials and that of all.
        on_round: Called before each round with its number and the plan.

    Returns:
        The result.

    Raises:
        InputError: If an argument breaks these rules, or no trial of the search has a value.
        MissingExtraError: If Ray is asked for and not installed.
    """
    check_choice("engine", engine, ENGINES)
    folder = Path(out) if out is not None else None
    written: Written | None = None
    if resume:
        if folder is None:
            raise InputError("resume needs the folder of the search, got none; give out=")
        written = Written(folder)
        settings = written.settings
        early_stop = settings.early_stop
    else:
        if space is None:
            raise InputError(
                "space must say what is searched, got none; for instance 'lr=log:1e-4:1,batch_size=log2:16:512'"
            )
        if folder is not None and holds_search(folder):
            raise InputError(f"--out must be a folder without a search, got {folder}; choose another or give --resume")
    if isinstance(objective, str | Task):
        run: Objective = task_objective(
            objective,
            metric=written.settings.metric.name if written else metric,
            max_examples=written.settings.num_examples if written else max_examples,
            early_stop=early_stop,
            micro_batch_size=micro_batch_size,
            device=device,
            data_root=Path(data_root) if data_root is not None else None,
        )
    else:
        run = FunctionObjective(
            function=objective,
            metric=written.settings.metric
            if written
            else Metric(name=metric or "value", direction=direction, scale=scale),
            num_examples=written.settings.num_examples if written else max_examples or 0,
            early_stop=early_stop,
        )
    if written is None:
        assert space is not None  # checked above
        settings = make_settings(
            run, space, rounds=rounds, parallel=parallel, trials=trials, robust=robust, method=method, beta=beta,
            timeout_s=timeout_s, retries=retries, on_failure=on_failure, same_seed=same_seed, reuse=reuse, seed=seed,
        )  # fmt: skip
    elif settings.objective != run.name:
        raise InputError(f"--resume needs the task of the search, {settings.objective!r}, got {run.name!r}")
    if isinstance(run, TaskObjective):
        check_space(run, settings.space, data_root)
    own = executor is None
    if own:
        executor = make_executor(engine, run, settings, workers, ray_address, device)
    assert executor is not None
    journal = Journal(folder)
    try:
        search = Search(run, settings, executor, journal, num_threads=num_threads, on_trial=on_trial, on_round=on_round)
        return search.run(written, device)
    finally:
        journal.close()
        if own:
            executor.shutdown(wait=True, cancel_futures=True)


def make_settings(
    objective: Objective,
    space: str | Space,
    *,
    rounds: int | None,
    parallel: int | None,
    trials: int | None,
    robust: float | str | Mapping[str, float] | None,
    method: str | None,
    **others: Any,
) -> TuneSettings:
    """Settings of a new search."""
    where = Space.parse(space) if isinstance(space, str) else space
    radius = radius_of(where, robust)
    return TuneSettings(
        objective=objective.name,
        metric=objective.metric,
        space=where,
        plan=plan_of(rounds, parallel, trials, dim=where.dim),
        method=method or default_method(radius),
        radius=radius,
        num_examples=objective.num_examples,
        early_stop=objective.early_stop,
        **others,
    )


def check_space(objective: TaskObjective, space: Space, data_root: str | Path | None) -> None:
    """Refuse a space whose corners are no settings of the task, before anything is trained."""
    from batchwright.tasks.loading import load_task

    task = objective.task
    if isinstance(task, str):
        task = load_task(task, data_root=Path(data_root) if data_root is not None else None)
    for end in ("low", "high"):
        setting_of(task, space.named([getattr(each, end) for each in space.dimensions]))
