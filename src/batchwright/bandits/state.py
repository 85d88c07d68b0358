"""The state of a bandit as plain values and tensors: what JSON and safetensors hold, and nothing to unpickle."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from batchwright.bandits.bounds import Bound
from batchwright.bandits.candidate_posterior import CandidatePosterior
from batchwright.bandits.model import InForce
from batchwright.bandits.progress import Progress
from batchwright.bandits.trials import DONE
from batchwright.core.errors import CheckpointError
from batchwright.core.serialization import to_plain

SCHEMA = 1
TRIAL_FIELDS = ("points", "encoded", "index", "round", "value", "status")
SURVIVOR_FIELDS = ("alive", "barred", "upper", "lower")


def state_of(bandit: Progress) -> dict[str, Any]:
    """``{"plain": ..., "tensors": ...}``: strict JSON, and tensors by name on the CPU."""
    survivors = bandit.survivors
    plain = {
        "schema": SCHEMA,
        "identity": _identity(bandit),
        "num_rounds": bandit.num_rounds,
        "num_refined": bandit.num_refined,
        "num_drawn": 0 if bandit.finite else bandit.scatter.num_drawn,
        "history": [asdict(each) for each in bandit.evidence.history],
        "bounds": [
            {"round": each.round, "root_beta": each.root_beta, "floor": each.floor} for each in survivors.bounds
        ],
        "returned": survivors.returned,
        "tested": survivors.tested,
        "warnings": survivors.warnings,
    }
    tensors = {f"trials.{name}": getattr(bandit.trials, name) for name in TRIAL_FIELDS}
    tensors |= {f"survivors.{name}": getattr(survivors, name) for name in SURVIVOR_FIELDS}
    tensors |= {"centres": survivors.pool.centres, "generator": bandit.generator.get_state()}
    return {
        "plain": to_plain(plain),
        "tensors": {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
    }


def restore(bandit: Progress, state: Mapping[str, Any]) -> None:
    """Put a state into a bandit that was made with the same arguments.

    Raises:
        CheckpointError: If the state is of another plan, space or method, or damaged.
    """
    try:
        plain, tensors = state["plain"], state["tensors"]
        if plain["schema"] > SCHEMA:
            raise CheckpointError(
                f"state must be of schema {SCHEMA} or older, got {plain['schema']}; update batchwright"
            )
        if plain["identity"] != to_plain(_identity(bandit)):
            raise CheckpointError(
                f"state must be of {to_plain(_identity(bandit))}, got {plain['identity']}; make the bandit with the same arguments"
            )
        _fill(bandit, plain, tensors)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"state must be what state_dict() gave, got one without {error}") from error


def _identity(bandit: Progress) -> dict[str, Any]:
    return {
        "name": bandit.name,
        "plan": bandit.plan,
        "space": bandit.space,
        "keep": bandit.keep,
        "model": bandit.model,
        "confidence": bandit.confidence,
        "sign": bandit.evidence.sign,
        "corruption": bandit.corruption,
        "on_failure": bandit.on_failure,
        "seed": bandit.seed,
    }


def _fill(bandit: Progress, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    survivors = bandit.survivors
    for name in TRIAL_FIELDS:
        held = tensors[f"trials.{name}"]
        setattr(bandit.trials, name, held.to(bandit.device) if name in ("points", "encoded") else held.clone())
    bandit.num_rounds, bandit.num_refined = plain["num_rounds"], plain["num_refined"]
    bandit.evidence.history = [
        InForce.from_plain(
            {key: value if key == "kernel" or value is None else float(value) for key, value in each.items()}
        )
        for each in plain["history"]
    ]
    if not bandit.finite:
        bandit.scatter.go_to(plain["num_drawn"])
    survivors.bounds = []
    survivors.enter(bandit.make_pool(tensors["centres"].to(bandit.device)))
    for name in SURVIVOR_FIELDS:
        setattr(survivors, name, tensors[f"survivors.{name}"].to(bandit.device))
    for each in plain["bounds"]:
        posterior = bandit.evidence.posterior(bandit.num_rounds, each["round"])
        assert posterior is not None  # only rounds with values have a bound
        survivors.bounds.append(
            Bound(
                posterior=posterior,
                root_beta=float(each["root_beta"]),
                corruption=bandit.corruption,
                floor=float(each["floor"]),
                round=each["round"],
            )
        )
    survivors.returned = plain["returned"]
    survivors.tested = None if plain["tested"] is None else (float(plain["tested"][0]), int(plain["tested"][1]))
    survivors.warnings = list(plain["warnings"])
    bandit.generator.set_state(tensors["generator"])
    bandit.live = _live(bandit)


def _live(bandit: Progress) -> CandidatePosterior | None:
    """The rows that were there, made again in the same order; None where the bounds do not go by them."""
    if not bandit.finite or bandit.model.fitted or bandit.corruption:
        return None
    trials, force = bandit.trials, bandit.evidence.model_after(bandit.num_rounds)
    closed = trials.round < bandit.num_rounds
    if bandit.keep == "all" and not bool((trials.status[closed] == DONE).all()):
        return None
    found = CandidatePosterior(
        bandit.survivors.pool.encoded,
        force.kernel,
        bandit.evidence.noise_after(bandit.num_rounds),
        prior_mean=force.mean,
    )
    for number in range(bandit.num_rounds + 1) if bandit.keep == "all" else [bandit.num_rounds]:
        here = trials.round == number
        for index in trials.index[here].tolist():
            found.add(index)
        if number < bandit.num_rounds:
            found.observe((bandit.evidence.sign * trials.value[here]).to(bandit.device))
    return found if found.num_points else None
