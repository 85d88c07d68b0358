"""`tune`: rounds of parallel trials from a bandit, on any executor, with a journal that a killed driver goes on from."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any

import torch

from batchwright.bandits import Bandit, Space
from batchwright.bandits.trials import Trial
from batchwright.core.checks import check_choice, check_int
from batchwright.core.errors import InputError, MissingExtraError
from batchwright.core.host import num_usable_cpus
from batchwright.tasks.task import Task
from batchwright.tuning.job import Job, run_job
from batchwright.tuning.journal import Journal, Written, holds_search
from batchwright.tuning.lanes import WorkerLostError
from batchwright.tuning.local import check_picklable, local_executor
from batchwright.tuning.objective import FunctionObjective, Objective, TaskObjective, setting_of, task_objective
from batchwright.tuning.outcome import Incumbent, Metric, Outcome, TuningTrial, best_of
from batchwright.tuning.picture import picture
from batchwright.tuning.result import Tuning, summarise
from batchwright.tuning.settings import TuneSettings, default_method, plan_of, radius_of

ENGINES = ("local", "ray")
# A worker that overruns a trial's time is given so much more before it is killed: it may be about to say so itself.
OVERTIME, OVERTIME_S = 1.2, 5.0


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


def make_executor(
    engine: str, objective: Objective, settings: TuneSettings, workers: int | None, address: str | None, device: str
) -> Executor:
    """The executor of an engine."""
    widest = max(settings.plan)
    limit = None if settings.timeout_s is None else OVERTIME * settings.timeout_s + OVERTIME_S
    number = check_int("workers", workers, at_least=1) if workers is not None else None
    if engine == "ray":
        try:
            from batchwright.tuning.ray_engine import ray_executor
        except ImportError as error:
            raise MissingExtraError(
                f"ray must be installed for --engine ray, got {error}; pip install 'batchwright[tune]'"
            ) from error
        return ray_executor(number or widest, address=address, limit_s=limit, gpu=torch_wants_gpu(device))
    check_picklable(objective, "objective")
    return local_executor(number or min(widest, num_usable_cpus()), limit_s=limit)


def torch_wants_gpu(device: str) -> bool:
    """Whether a trial needs a GPU of its own."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


class Search:
    """A search under way: asks a round, runs it, tells it, and writes everything down in time."""

    def __init__(
        self,
        objective: Objective,
        settings: TuneSettings,
        executor: Executor,
        journal: Journal,
        *,
        num_threads: int | None = 1,
        on_trial: Callable[[TuningTrial, int, int], None] | None = None,
        on_round: Callable[[int, tuple[int, ...]], None] | None = None,
    ) -> None:
        self.objective, self.settings, self.executor, self.journal = objective, settings, executor, journal
        self.num_threads, self.on_trial, self.on_round = num_threads, on_trial, on_round
        self.bandit: Bandit = settings.bandit()
        self.trials: dict[int, TuningTrial] = {}
        self.seconds, self._start = 0.0, time.perf_counter()

    def run(self, written: Written | None, device: str) -> Tuning:
        """All rounds that are left."""
        if written is None:
            self.journal.start(self.settings, "cpu" if device == "auto" else device)
        else:
            self._go_on(written)
            if written.ended:
                return self._result("done")
            self.journal.resume()
            if self.bandit.pending():
                self._round(asked=True)
        while not self.bandit.done:
            self._round()
        found = self._result("done")
        self.journal.result("end", reason="done", num_trials=len(self.trials), seconds=found.seconds)
        return found

    def _go_on(self, written: Written) -> None:
        self.trials, self.seconds = dict(written.trials), written.seconds
        state = written.state()
        if state is not None:
            self.bandit.load_state_dict(state)
        if written.ended and self.bandit.pending():
            self._tell()

    def _round(self, *, asked: bool = False) -> None:
        """One round; its trials that are in the journal are not run again."""
        bandit, number = self.bandit, self.bandit.num_rounds
        if self.on_round is not None:
            self.on_round(number, self.settings.plan)
        if not asked:
            bandit.ask()
        waiting = bandit.pending()
        if not asked:
            told = [{"id": each.id, "values": self._values(each)} for each in waiting]
            self.journal.round(number, told, bandit.state_dict())
        self._run([each for each in waiting if each.id not in self.trials])
        self._tell()
        found = self._result("done")
        self.journal.result("recommendation", round=number, **found.to_record())
        self.journal.result("picture", round=number, **picture(bandit, self.settings, found))

    def _run(self, waiting: list[Trial]) -> None:
        incumbent = self._incumbent()
        left: dict[Future[Outcome], tuple[Job, int]] = {}
        copies: list[tuple[Job, tuple[Any, ...]]] = []
        known = {
            self.objective.key(trial.values, trial.seed): trial
            for trial in self.trials.values()
            if trial.outcome.status in ("done", "diverged")
        }
        begun: set[tuple[Any, ...]] = set()
        for each in waiting:
            job = Job(
                id=each.id,
                objective=self.objective,
                values=self._values(each),
                seed=self.settings.seed_of(each.id),
                incumbent=incumbent,
                timeout_s=self.settings.timeout_s,
                num_threads=self.num_threads,
            )
            key = self.objective.key(job.values, job.seed)
            if self.settings.reuse and (key in known or key in begun):
                copies.append((job, key))
                continue
            begun.add(key)
            left[self._submit(job)] = (job, 1)
        while left:
            done, _ = wait(left, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda each: left[each][0].id):
                job, attempts = left.pop(future)
                outcome = self._outcome(future)
                if outcome is None and attempts <= self.settings.retries:
                    left[self._submit(job)] = (job, attempts + 1)
                    continue
                if outcome is None:
                    reason = " ".join(str(future.exception()).split())
                    outcome = Outcome.failure(f"lost {attempts} times: {reason}")
                trial = self._ended(job, outcome, attempts=attempts)
                known[self.objective.key(job.values, job.seed)] = trial
        for job, key in copies:
            first = known[key]
            self._ended(job, first.outcome, copied_from=first.id)

    def _submit(self, job: Job) -> Future[Outcome]:
        try:
            return self.executor.submit(run_job, job)
        except BrokenExecutor as error:
            raise self._broken() from error

    def _outcome(self, future: Future[Outcome]) -> Outcome | None:
        """Of a future that is done; None where its worker died and another can take it."""
        try:
            return future.result()
        except WorkerLostError:
            return None
        except TimeoutError as error:
            return Outcome.failure(str(error) or "the trial took too long")
        except BrokenExecutor as error:
            raise self._broken() from error
        except InputError as error:  # a worker that cannot take or answer a trial
            return Outcome.failure(str(error))

    def _broken(self) -> InputError:
        return InputError(
            f"executor must stay whole, got {type(self.executor).__name__} that broke when a worker died; finished trials are in the "
            "journal: go on with resume=True and a new executor, or leave executor out, whose workers are replaced"
        )

    def _ended(self, job: Job, outcome: Outcome, *, copied_from: int | None = None, attempts: int = 1) -> TuningTrial:
        trial = TuningTrial(
            id=job.id,
            round=self.bandit.num_rounds,
            values=job.values,
            seed=job.seed,
            outcome=outcome,
            copied_from=copied_from,
            attempts=attempts,
        )
        self.journal.trial(trial)
        self.trials[trial.id] = trial
        if self.on_trial is not None:
            self.on_trial(trial, len(self.trials), self.settings.num_trials)
        return trial

    def _tell(self) -> None:
        """Give the round to the bandit, in the order of asking: which trial ended first changes nothing."""
        metric, waiting = self.settings.metric, self.bandit.pending()
        ended = [self.trials[each.id] for each in waiting]
        if all(trial.outcome.status == "failed" for trial in self.trials.values()):
            note = next((trial.outcome.note for trial in ended), "none was run")
            raise InputError(
                f"objective must give a value for at least one trial of the first round, got {len(ended)} failures; the first: {note}"
            )
        seen = [metric.seen(trial.outcome.value) for trial in ended]
        self.bandit.tell(None, torch.tensor(seen, dtype=torch.float64), ids=[each.id for each in waiting])

    def _incumbent(self) -> Incumbent | None:
        """The best of earlier rounds: known to all trials of a round alike, so timing decides nothing."""
        earlier = [trial for trial in self.trials.values() if trial.round < self.bandit.num_rounds]
        best = best_of(earlier, self.settings.metric)
        return None if best is None else Incumbent(value=best.outcome.value, standard_error=best.outcome.standard_error)

    def _values(self, trial: Trial) -> dict[str, float | int | str]:
        return self.settings.space.named(trial.point)

    def _result(self, reason: str) -> Tuning:
        return summarise(
            self.bandit,
            self.settings,
            self.trials,
            folder=self.journal.folder,
            reason=reason,
            seconds=self.seconds + time.perf_counter() - self._start,
        )
