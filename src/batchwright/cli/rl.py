"""``batchwright rl``: a policy gradient whose updates improve with a stated probability."""

from typing import Annotated, Any

import typer

from batchwright.cli.options import Device, Json, Out, Resume, Seed, TrainerOptions, Workers
from batchwright.cli.output import console, number, print_json, progress_bar
from batchwright.cli.trainer_options import read_trainer_options

INTERRUPTED = 130
# Fields of the trainer's options that have an option of their own.
TAKEN = ("delta", "bound", "rule", "method", "tolerance", "lifetime", "constants", "budget", "seed")


def rl(
    env: Annotated[
        str,
        typer.Argument(
            metavar="ENV", help="lqg, lqg-D in D dimensions, cart-pole, or a Gymnasium name such as CartPole-v1."
        ),
    ],
    actor: Annotated[
        str,
        typer.Option(
            "--actor", help="The policy: linear, or network:32 or network:32,32 for tanh layers of these widths."
        ),
    ] = "linear",
    std: Annotated[float, typer.Option("--std", help="Standard deviation of a Gaussian policy.")] = 1.0,
    learn_std: Annotated[bool, typer.Option("--learn-std", help="Learn the standard deviation too.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", help="Of a softmax policy.")] = 1.0,
    delta: Annotated[float, typer.Option("--delta", help="Probability that an update lowers the return.")] = 0.05,
    bound: Annotated[
        str, typer.Option("--bound", help="chebyshev, hoeffding, bernstein or sub-gaussian.")
    ] = "chebyshev",
    rule: Annotated[str, typer.Option("--rule", help="Of step and batch: tight or published.")] = "tight",
    method: Annotated[
        str, typer.Option("--method", help="adaptive, or spg or relaxed-spg, whose delta is for the whole run.")
    ] = "adaptive",
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Share of the best return that relaxed-spg may lose.")
    ] = 0.0,
    lifetime: Annotated[bool, typer.Option("--lifetime", help="Spread delta over all updates of the run.")] = False,
    constants: Annotated[
        str, typer.Option("--constants", help="known, or observed: from data, which voids the guarantee.")
    ] = "known",
    option: TrainerOptions = None,
    discount: Annotated[float | None, typer.Option("--discount", show_default="the environment's")] = None,
    horizon: Annotated[
        int | None, typer.Option("--horizon", min=1, help="Most steps of an episode.", show_default="the environment's")
    ] = None,
    num_envs: Annotated[
        int | None, typer.Option("--num-envs", min=1, help="Gymnasium environments side by side.", show_default=False)
    ] = None,
    workers: Workers = None,
    reward_bound: Annotated[
        float | None, typer.Option("--reward-bound", help="No reward is larger in size.", show_default=False)
    ] = None,
    observation_bound: Annotated[
        float | None,
        typer.Option(
            "--observation-bound", help="No component of an observation is larger in size.", show_default=False
        ),
    ] = None,
    budget: Annotated[int, typer.Option("--budget", min=1, help="Trajectories in all.")] = 100_000,
    label: Annotated[str, typer.Option("--label", help="Runs with one label are repeats.", show_default=False)] = "",
    resume: Resume = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a policy safely: trajectories and step size of each update are chosen so that it improves with probability 1 - delta.

    Example: batchwright rl lqg --delta 0.2 --budget 1000000 --out runs/lqg
    """
    from batchwright.core.errors import InputError
    from batchwright.rl import SafeOptions, SafePolicyGradient, make_sampler

    if out is None:
        raise InputError("--out must name a folder for the run's records, got none; for instance --out runs/lqg")
    sampler = make_sampler(
        env,
        discount=discount,
        horizon=horizon,
        num_envs=num_envs,
        workers=workers if workers is not None and workers > 1 else 0,
    )
    try:
        chosen = _policy(sampler.spec, actor, std, learn_std, temperature, seed)
        trainer = SafePolicyGradient(
            sampler,
            chosen,
            reward_bound=reward_bound,
            observation_bound=observation_bound,
            delta=delta,
            bound=bound,
            rule=rule,
            method=method,
            tolerance=tolerance,
            lifetime=lifetime,
            constants=constants,
            budget=budget,
            seed=seed,
            evaluate=_true_return(sampler, chosen),
            **read_trainer_options(SafeOptions, option or [], taken=TAKEN),
        )
        if not json:
            for sentence in trainer.guarantee.lines:
                console().print(sentence)
        with progress_bar() as bar:
            line = bar.add_task("training", total=budget, note="")

            def on_update(update: Any) -> None:
                note = f"update {update.step}, batch {update.batch_size:,}, return {update.mean_return:.4g}"
                bar.update(line, completed=update.num_trajectories, note=note)

            run = trainer.train(out, resume=resume, label=label, on_update=on_update)
    finally:
        sampler.close()
    _show(run, device, json=json)
    if run.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _policy(spec: Any, text: str, std: float, learn_std: bool, temperature: float, seed: int) -> Any:
    """The policy that the options name, of the kind that the environment takes."""
    from batchwright.core.errors import InputError
    from batchwright.rl import GaussianPolicy, SoftmaxPolicy

    kind, _, widths = text.partition(":")
    sizes = widths.split(",") if widths else []
    if kind not in ("linear", "network") or (kind == "network") != bool(sizes) or not all(s.isdigit() for s in sizes):
        raise InputError(f"--actor must be linear, or network: with widths such as network:32,32, got {text!r}")
    hidden = tuple(int(size) for size in sizes)
    if spec.num_actions is not None:
        return SoftmaxPolicy(spec.observation_dim, spec.num_actions, temperature=temperature, hidden=hidden, seed=seed)
    return GaussianPolicy(spec.observation_dim, spec.action_dim, std=std, learn_std=learn_std, hidden=hidden, seed=seed)


def _true_return(sampler: Any, policy: Any) -> Any:
    """The exact return where it is known and cheap: of the LQG in one dimension under a linear policy."""
    from batchwright.rl import LQG
    from batchwright.rl.lqg_exact import clipped_return

    if not isinstance(sampler, LQG) or sampler.dim > 1 or policy.num_parameters != 1:
        return None
    return lambda at: float(clipped_return(sampler, at.theta, std=float(at.std[0])))


def _show(run: Any, device: str, *, json: bool) -> None:
    from batchwright.rl.safe_policy_gradient import decreases

    last, first = (run.updates[-1], run.updates[0]) if run.updates else (None, None)
    if json:
        result = {
            "folder": str(run.folder),
            "reason": run.reason,
            "num_updates": len(run.updates),
            "num_moves": run.num_moves,
            "num_trajectories": run.num_trajectories,
            "first_return": first and {"value": first.mean_return, "standard_error": first.return_error},
            "last_return": last and {"value": last.mean_return, "standard_error": last.return_error},
            "seen_decreases": decreases(run.updates),
            "last_batch_size": last and last.batch_size,
            "theta": run.policy.theta.tolist() if run.policy.num_parameters <= 32 else None,
            "guarantee": run.guarantee,
        }
        cost = {
            "seconds": run.seconds,
            "num_trajectories": run.num_trajectories,
            "num_steps": last.num_steps if last else 0,
        }
        print_json("rl", result, cost, device)
        return
    screen = console()
    if last is not None and first is not None:
        screen.print(
            f"{len(run.updates):,} updates, {run.num_moves:,} of them moved; {run.num_trajectories:,} trajectories; "
            f"discounted return {number(first.mean_return)} ± {number(1.96 * first.return_error)} at first, "
            f"{number(last.mean_return)} ± {number(1.96 * last.return_error)} at last; "
            f"{decreases(run.updates)} decreases beyond noise (about {0.025 * run.num_moves:.1f} by chance alone); "
            f"last batch {last.batch_size:,}."
        )
        if run.num_moves == 0:
            screen.print(
                "No update moved: no batch resolved its gradient. A larger --budget, a larger --delta or --bound bernstein would."
            )
    if run.reason == "interrupted":
        screen.print("Interrupted; go on with the same command and --resume.")
    screen.print(f"Written: {run.folder}")
