"""``batchwright gan``: a generator of images, trained against the MMD of a critic's features or of the points."""

from typing import Annotated, Any

import typer

from batchwright.cli.options import DataRoot, Device, Json, Objective, Out, Resume, Seed, TrainerOptions
from batchwright.cli.output import console, interval_text, number, print_json, progress_bar
from batchwright.cli.trainer_options import read_trainer_options

# What is not an `--option`: it has an option of its own, or no text says it.
TAKEN = ("kernel", "loss", "batch_size")

INTERRUPTED = 130
# Enough for the optimizers to know the scale of gradients and for samples to have some shape.
PLAN_STEPS = 100


def gan(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="digits, mnist, fashion, cifar, clothing, or a folder of PNG and JPEG files."
        ),
    ],
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", help="8, 28, 32 or 64.", show_default="the images' own, 32 of a folder"),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="mmd-gan, gmmn, or gmmn-ae on the codes of an autoencoder.")
    ] = "mmd-gan",
    loss: Annotated[str, typer.Option("--loss", help="mmd, mmd-squared, repulsive or repulsive-bounded.")] = "mmd",
    networks: Annotated[
        str | None, typer.Option("--networks", help="mlp, small or dcgan.", show_default="mlp at 8, small beyond")
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size",
            help="Points in a step, or auto: planned from the noise of both networks.",
            show_default="64; 1000 of GMMN",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Generator steps in all.", show_default="1500 without --minutes"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="Minutes of training in all, grids and scores apart.", show_default=False),
    ] = None,
    plan_at: Annotated[
        int, typer.Option("--plan-at", min=1, help="Generator step at which --batch-size auto measures.")
    ] = PLAN_STEPS,
    objective: Objective = "time",
    autoencoder_steps: Annotated[
        int, typer.Option("--autoencoder-steps", min=1, help="Of the autoencoder of gmmn-ae, before the rest.")
    ] = 3000,
    option: TrainerOptions = None,
    label: Annotated[str, typer.Option("--label", help="Runs with one label are repeats.", show_default=False)] = "",
    resume: Resume = False,
    data_root: DataRoot = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a generator of images; sample grids and scores at the end of each pass over the data.

    Example: batchwright gan digits --steps 1500 --out runs/gan
    """
    from batchwright.core.environment import resolve_device
    from batchwright.core.errors import InputError
    from batchwright.core.records import make_folder
    from batchwright.gan.judge import load_judge, save_judge, train_judge
    from batchwright.gan.options import GanOptions
    from batchwright.gan.presets import preset_options
    from batchwright.gan.run import device_of, run_gan
    from batchwright.gan.sources import load_images

    if out is None:
        raise InputError("--out must name a folder for grids and records, got none; for instance --out runs/gan")
    auto = batch_size == "auto"
    size = _batch_size(batch_size)
    images = device_of(load_images(source, image_size=image_size, data_root=data_root), resolve_device(device))
    kind = networks or ("mlp" if images.image_size == 8 else "small")
    others = {**({"batch_size": size} if size else {}), **read_trainer_options(GanOptions, option or [], taken=TAKEN)}
    if method != "mmd-gan" and not size:
        others.setdefault("batch_size", min(1000, len(images.train)))
    options = preset_options(loss, kind, method=method, **others)
    make_folder(out)
    screen = None if json else console()
    judge = load_judge(images, out) if resume else None
    if judge is None:
        if screen is not None and images.train_labels is not None:
            screen.print("Training the classifier that scores samples …")
        judge = train_judge(images)
        save_judge(judge, out)
    trainer = _trainer(images, judge, method, kind, options, seed, coder_steps=0 if resume else autoencoder_steps)
    limit = steps if steps is not None or minutes is not None else 1500
    with progress_bar(shown=not json) as bar:
        line = bar.add_task("training", total=limit or 60 * (minutes or 0), note="")

        def on_step(step: int, seconds: float, value: float) -> None:
            bar.update(line, completed=step if limit else seconds, note=f"step {step:,}, loss {value:.3g}")

        run = run_gan(
            trainer,
            images,
            judge,
            out,
            steps=limit,
            seconds=None if minutes is None else 60 * minutes,
            plan_at=plan_at if auto else None,
            objective=objective,
            resume=resume,
            label=label or f"{method} {loss}" if method == "mmd-gan" else label or method,
            settings={"seed": seed, "networks": kind, "method": method, "batch_size": batch_size or "preset"},
            on_step=on_step,
        )
    _show(run, judge, json=json, device=str(images.train.device))
    if run.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _batch_size(text: str | None) -> int | None:
    from batchwright.core.errors import InputError

    if text in (None, "auto"):
        return None
    assert text is not None
    if not text.isdigit() or int(text) < 2:
        raise InputError(f"--batch-size must be a whole number of at least 2, or auto, got {text!r}")
    return int(text)


def _trainer(images: Any, judge: Any, method: str, kind: str, options: Any, seed: int, *, coder_steps: int) -> Any:
    """The trainer with fresh networks; of GMMN+AE the autoencoder is trained first, or comes from the checkpoint."""
    import torch

    from batchwright.gan.code_gmmn import CodeGMMN, autoencoder, train_autoencoder
    from batchwright.gan.presets import preset_networks
    from batchwright.gan.trainer import MMDGAN

    torch.manual_seed(seed)
    networks = preset_networks(kind, images.image_size, images.num_channels, method=method)
    for part in (networks.generator, networks.critic, networks.decoder):
        if part is not None:
            part.to(images.train.device)
    looks = {"extractor": judge.features, "classifier": judge.network}
    if method != "gmmn-ae":
        return MMDGAN(images.train, networks, options, seed=seed, **looks)
    coder = autoencoder(tuple(images.train.shape[1:]), width=1024 if images.image_size > 8 else 256)
    coder.encoder.to(images.train.device)
    coder.decoder.to(images.train.device)
    if coder_steps:
        train_autoencoder(images.train, coder, num_steps=coder_steps, batch_size=min(100, len(images.train)), seed=seed)
    return CodeGMMN(images.train, networks, coder, options, seed=seed, **looks)


def _show(run: Any, judge: Any, *, json: bool, device: str) -> None:
    from batchwright.gan.judge import plain

    generator, critic = run.batch_sizes
    if json:
        result = {
            "folder": str(run.folder),
            "reason": run.reason,
            "num_steps": run.num_steps,
            "grid": str(run.grid),
            "batch_sizes": {"generator": generator, "critic": critic},
            "batch_plan": run.plan,
            "scores": plain(run.verdict),
            "classifier_accuracy": judge.accuracy,
            "score_of_real_images": judge.real_score,
            "warnings": list(run.warnings),
        }
        print_json("gan", result, {"train_s": run.train_s, "num_steps": run.num_steps}, device)
        return
    screen, verdict = console(), run.verdict
    for sentence in run.warnings:
        screen.print(f"Please note: {sentence}")
    if run.plan is not None:
        for name in ("critic", "generator"):
            if (plan := run.plan[name]) is not None:
                screen.print(
                    f"Batch size of the {name}: {plan['batch_size']} (was {plan['before']}): {plan['reason']}."
                )
        screen.print(
            "These follow from the noise of single steps at the networks as they were, which is no promise of better samples."
        )
    features = "the classifier's features" if judge.network is not None else "pixels averaged to 8 x 8"
    told = (
        f"{run.num_steps:,} generator steps in {number(run.train_s)} s; KID on {features} {interval_text(verdict.kid)}"
    )
    if verdict.score is not None:
        told += (
            f"; the classifier's inception score {interval_text(verdict.score)}, of real images {number(judge.real_score)}; "
            f"rarest class {100 * verdict.smallest_share.value:.1f} % of samples"
        )
    screen.print(told + ".")
    if run.reason == "interrupted":
        screen.print("Interrupted; go on with the same command and --resume.")
    screen.print(f"Written: {run.grid}")
