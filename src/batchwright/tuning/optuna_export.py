"""Trials of a search as a study in Optuna's journal storage, which optuna-dashboard reads: ``optuna-dashboard FILE``."""

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from batchwright.core.records import make_folder
from batchwright.tuning.journal import Written
from batchwright.tuning.optuna_space import distributions_of
from batchwright.tuning.outcome import TuningTrial

ID = "batchwright:id"


def export_to_optuna(folder: str | Path, file: str | Path, *, name: str | None = None) -> str:
    """Write the finished trials of a search to a journal file of Optuna; those that are there already are left as they are.

    A trial that failed or diverged is ``FAIL``, one that was stopped early ``PRUNED``, with its foreseen value among its attributes;
    the curve of each becomes its intermediate values.

    Args:
        folder: Of the search.
        file: Optuna's journal; made where there is none.
        name: Of the study; ``batchwright-`` with the task and the seed where left out.

    Returns:
        The name of the study.

    Raises:
        InputError: If the folder holds no search.
    """
    written = Written(Path(folder))
    settings = written.settings
    make_folder(Path(file).absolute().parent)
    study_name = name or f"batchwright-{settings.objective}-{settings.seed}"
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file))),
        study_name=study_name,
        direction="maximize" if settings.metric.direction == "above" else "minimize",
        load_if_exists=True,
    )
    there = {trial.user_attrs.get(ID) for trial in study.get_trials(deepcopy=False)}
    distributions = distributions_of(settings.space)
    for trial in sorted(written.trials.values(), key=lambda each: each.id):
        if trial.id in there:
            continue
        state = _STATES[trial.outcome.status]
        study.add_trial(
            create_trial(
                state=state,
                value=trial.outcome.value if state == TrialState.COMPLETE else None,
                params=dict(trial.values),
                distributions=distributions,
                intermediate_values={point.num_examples: point.value for point in trial.outcome.curve},
                user_attrs=_attributes(trial),
            )
        )
    return study_name


_STATES = {
    "done": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


def _attributes(trial: TuningTrial) -> dict[str, object]:
    return {
        ID: trial.id,
        "round": trial.round + 1,
        "seed": trial.seed,
        "status": trial.outcome.status,
        "value_told": trial.outcome.value if trial.outcome.status != "failed" else None,
        "note": trial.outcome.note,
        "seconds": trial.outcome.seconds,
    }
