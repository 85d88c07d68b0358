"""A search under way: it asks a round, runs its trials on an executor, tells what came of them, and writes everything down in time."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import Any

import torch

from batchwright.bandits import Bandit
from batchwright.bandits.trials import Trial
from batchwright.core.errors import InputError
from batchwright.tuning.job import Job, run_job
from batchwright.tuning.journal import Journal, Written
from batchwright.tuning.lanes import WorkerLostError
from batchwright.tuning.objective import Objective
from batchwright.tuning.outcome import Incumbent, Outcome, TuningTrial, best_of
from batchwright.tuning.picture import picture
from batchwright.tuning.result import Tuning, summarise
from batchwright.tuning.settings import TuneSettings


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
