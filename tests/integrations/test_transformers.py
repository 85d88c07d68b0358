"""The callback in real Trainer runs, against hand-written big batches; all models are made from a configuration, offline."""

import json
import math

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="the extra batchwright[transformers] is not installed")
pytest.importorskip("accelerate", reason="the extra batchwright[transformers] is not installed")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from batchwright.adapt import Cabs, Fixed, NoiseScale, NormTest, Schedule  # noqa: E402
from batchwright.core.errors import InputError  # noqa: E402
from batchwright.integrations import BatchSizeTrainerCallback  # noqa: E402
from batchwright.integrations.whole_steps import StepsFrom  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

GENERATOR = torch.Generator().manual_seed(0)
NUM_ROWS = 92  # 23 micro-batches of 4
TOKENS = torch.randint(0, 20, (NUM_ROWS, 8), generator=GENERATOR)
LENGTHS = torch.randint(3, 9, (NUM_ROWS,), generator=GENERATOR)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return NUM_ROWS

    def __getitem__(self, row):
        return {"row": torch.tensor(row)}


class Regression(nn.Module):
    """Takes no ``num_items_in_batch``: Trainer divides its mean loss by the number of micro-batches."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        self.seen = []

    def forward(self, row):
        if self.training:
            self.seen.append(row)
        return {"loss": self.mean_loss(row)}

    def mean_loss(self, row):
        inputs = TOKENS[row].double() / 20
        return (self.net(inputs) - inputs.sum(1, keepdim=True).sin()).square().mean()


def labels_of(rows: torch.Tensor) -> torch.Tensor:
    """Tokens, with those past a row's length left out of the loss."""
    return TOKENS[rows].masked_fill(torch.arange(8)[None] >= LENGTHS[rows, None], -100)


class Language(GPT2LMHeadModel):
    """A tiny GPT-2 whose loss is the mean over the tokens of the whole batch."""

    def __init__(self):
        torch.manual_seed(1)
        config = GPT2Config(
            vocab_size=20,
            n_positions=8,
            n_embd=8,
            n_layer=1,
            n_head=2,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            bos_token_id=0,
            eos_token_id=0,
        )
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # which transformers reads off the name of the class
        self.double()
        self.seen = []

    def forward(self, input_ids=None, labels=None, row=None, **kwargs):
        if self.training and row is not None:
            self.seen.append(row)
        return super().forward(input_ids=input_ids, labels=labels, **kwargs)

    def mean_loss(self, row):
        return self(input_ids=TOKENS[row], labels=labels_of(row)).loss


class TokenRows(Rows):
    def __getitem__(self, row):
        return {"row": torch.tensor(row), "input_ids": TOKENS[row], "labels": labels_of(torch.tensor([row]))[0]}


class Spy(TrainerCallback):
    """Keeps the gradient that each step was made with, its rows, and the lr in force."""

    def __init__(self, callback):
        self.callback, self.steps, self.gradients, self.before, self.lrs, self.global_steps = (
            callback,
            [],
            [],
            [],
            [],
            [],
        )

    def on_pre_optimizer_step(self, args, state, control, model=None, **shown):
        self.steps.append(torch.cat(model.seen))
        model.seen = []
        self.gradients.append([p.grad.clone() for p in model.parameters()])
        self.before.append([p.detach().clone() for p in model.parameters()])

    def on_step_end(self, args, state, control, **shown):
        if self.callback is not None:
            self.lrs.append(self.callback._accumulation.in_force.lr)


def train(folder, callback, model=None, *, data=None, epochs=2, accumulate=2, resume=None, spies=(), **options):
    model = model or Regression()
    spy = Spy(callback)
    settings = {
        "lr_scheduler_type": "constant",
        "learning_rate": 0.02,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_strategy": "no",
        **options,
    }
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=epochs,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=5,
        **settings,
    )
    callbacks = [] if callback is None else [callback]
    trainer = Trainer(model=model, args=args, train_dataset=data or Rows(), callbacks=[*callbacks, spy, *spies])
    trainer.train(resume_from_checkpoint=resume)
    return trainer, spy


def worst_difference(model, spy) -> float:
    worst = 0.0
    for rows, gradient, before in zip(spy.steps, spy.gradients, spy.before, strict=True):
        for parameter, value in zip(model.parameters(), before, strict=True):
            parameter.data.copy_(value)
        model.zero_grad()
        model.mean_loss(rows).backward()
        worst = max(
            worst, *(float((p.grad - g).abs().max()) for p, g in zip(model.parameters(), gradient, strict=True))
        )
    return worst


CHANGING = "0:8 30:12 60:20 110:8 140:28"


@pytest.mark.parametrize(("kind", "data"), [(Regression, Rows), (Language, TokenRows)])
def test_each_gradient_is_that_of_the_big_batch_while_the_count_changes_inside_epochs(tmp_path, kind, data):
    _, spy = train(
        tmp_path, BatchSizeTrainerCallback(Schedule(schedule=CHANGING), lr_rule="keep"), kind(), data=data(), epochs=3
    )
    sizes = [len(rows) for rows in spy.steps]
    assert {8, 12, 20, 28} <= set(sizes)
    assert sum(sizes) == 3 * NUM_ROWS
    assert worst_difference(kind(), spy) < 1e-12


def test_plain_trainer_steps_in_the_wrong_places_when_the_count_is_just_changed(tmp_path):
    # What the callback is held against: the attribute alone, changed in the middle of an epoch.
    class Alone(TrainerCallback):
        def on_step_end(self, args, state, control, **shown):
            args.gradient_accumulation_steps = 3 if state.global_step == 1 else args.gradient_accumulation_steps

    _, spy = train(tmp_path, None, spies=[Alone()])
    assert len(spy.steps[1]) != 12
    assert worst_difference(Regression(), spy) > 1e-3


def test_a_fixed_policy_leaves_every_bit_as_it_was(tmp_path):
    found = []
    for callback in (BatchSizeTrainerCallback(Fixed()), None):
        trainer, _ = train(tmp_path, callback, lr_scheduler_type="cosine", max_grad_norm=0.1)
        found.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_noise_policy_grows_the_batch_and_clipping_does_not_touch_what_it_measures(tmp_path):
    found = []
    for clip in (0.0, 1e-3):
        reports = []
        callback = BatchSizeTrainerCallback(NoiseScale(cooldown=10_000), sinks=[reports.append])
        train(tmp_path, callback, learning_rate=0.0, max_grad_norm=clip, epochs=1)
        found.append([(r.noise_scale.low, r.noise_scale.value) for r in reports if r.noise_scale is not None])
    assert len(found[0]) > 5
    for plain, clipped in zip(*found, strict=True):
        assert plain == pytest.approx(clipped, rel=1e-9)
    callback = BatchSizeTrainerCallback(NoiseScale(fraction=200.0, cooldown=3, max_batch_size=32))
    trainer, spy = train(tmp_path, callback, epochs=4, max_grad_norm=1.0)
    assert max(len(rows) for rows in spy.steps) == 32
    assert callback.last.lr > 0.02
    assert trainer.args.gradient_accumulation_steps == 2
    assert type(trainer.args.gradient_accumulation_steps) is int


@pytest.mark.parametrize("schedule", ["cosine", "linear", "polynomial"])
def test_the_lr_survives_the_scheduler_which_ends_where_it_would_have(tmp_path, schedule):
    plain, _ = train(tmp_path, None, lr_scheduler_type=schedule, epochs=3, logging_strategy="steps", logging_steps=1)
    by_step = [entry["learning_rate"] for entry in plain.state.log_history if "learning_rate" in entry]
    callback = BatchSizeTrainerCallback(Schedule(schedule="0:8 16:16"), lr_rule="linear")
    trainer, spy = train(tmp_path, callback, lr_scheduler_type=schedule, epochs=3)
    assert trainer.lr_scheduler.last_epoch == plain.lr_scheduler.last_epoch == 3 * math.ceil(23 / 2)
    position = 0
    for number, lr in enumerate(spy.lrs[:6]):
        factor = 1 if number < 2 else 2
        assert lr == pytest.approx(by_step[position] * factor, rel=1e-6)
        position += factor


def test_the_loss_that_trainer_logs_is_that_of_its_steps_at_any_batch_size(tmp_path):
    callback = BatchSizeTrainerCallback(Schedule(schedule="0:8 8:28"), lr_rule="keep")
    trainer, spy = train(tmp_path, callback, epochs=2, logging_strategy="steps", logging_steps=3)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == len(spy.steps) // 3
    for number, entry in enumerate(entries):
        losses = []
        for rows, before in list(zip(spy.steps, spy.before, strict=True))[3 * number : 3 * number + 3]:
            model = Regression()
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.data.copy_(value)
            losses.append(float(model.mean_loss(rows).detach()))
        assert entry["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
        assert entry["batchwright/batch_size"] == len(spy.steps[3 * number + 2])


def test_max_steps_is_the_same_amount_of_data_at_any_batch_size(tmp_path):
    callback = BatchSizeTrainerCallback(Schedule(schedule="0:8 16:16"), lr_rule="keep")
    _, spy = train(tmp_path, callback, max_steps=16)
    assert [len(rows) for rows in spy.steps] == [8, 8, *[16] * 4, 12, 16, 16]  # 12 steps of 8 an epoch, and 4 more


def test_a_run_resumed_at_an_epoch_is_the_same_to_the_last_bit(tmp_path):
    def callback():
        return BatchSizeTrainerCallback(NoiseScale(fraction=200.0, cooldown=3, max_batch_size=32))

    common = {"epochs": 4, "lr_scheduler_type": "cosine", "save_strategy": "epoch"}
    whole, spy = train(tmp_path / "whole", callback(), **common)
    folders = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(folders) == 4
    assert (
        json.loads((folders[1] / "trainer_state.json").read_text())["global_step"] == 24
    )  # 12 of the first size an epoch
    second, again = train(tmp_path / "second", callback(), resume=str(folders[1]), **common)
    assert 0 < len(again.steps) < len(spy.steps)
    assert all(torch.equal(a, b) for a, b in zip(spy.steps[-len(again.steps) :], again.steps, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))
    assert whole.state.global_step == len(spy.steps)


def test_a_run_resumed_inside_an_epoch_finds_its_place(tmp_path):
    def callback():
        return BatchSizeTrainerCallback(Schedule(schedule="0:8 24:16"), lr_rule="keep")

    common = {"epochs": 2, "save_strategy": "steps", "save_steps": 5, "logging_strategy": "steps", "logging_steps": 1}
    whole, spy = train(tmp_path / "whole", callback(), **common)
    checkpoint = tmp_path / "whole" / "checkpoint-5"
    # 3 steps of 8 and 2 of 16 count 7.
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 7
    second, again = train(tmp_path / "second", callback(), resume=str(checkpoint), **common)
    assert all(torch.equal(a, b) for a, b in zip(spy.steps[5:], again.steps, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))
    assert worst_difference(Regression(), again) < 1e-12
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (whole, second)]
    assert losses[1] == losses[0]


def test_the_state_is_json_and_makes_the_callback_again(tmp_path):
    callback = BatchSizeTrainerCallback(NoiseScale(max_batch_size=32), noise_every=2)
    train(tmp_path, callback, epochs=1)
    state = json.loads(json.dumps(callback.state()))
    again = BatchSizeTrainerCallback(**state["args"])
    assert again.options.controller == callback.options.controller
    assert again.options.noise_every == 2


def test_what_cannot_work_is_refused_before_training(tmp_path):
    with pytest.raises(InputError, match="halve the batch size of the data loader and accumulate 2"):
        train(tmp_path, BatchSizeTrainerCallback(NormTest()), accumulate=1)
    with pytest.raises(InputError, match="auto_find_batch_size must not be set"):
        train(tmp_path, BatchSizeTrainerCallback(Fixed()), auto_find_batch_size=True)
    with pytest.raises(InputError, match="must not need the loss"):
        BatchSizeTrainerCallback(Cabs())
    with pytest.raises(InputError, match=r"call trainer\.train first"):
        BatchSizeTrainerCallback(Fixed()).batch_size  # noqa: B018


def test_arguments_that_a_broken_run_has_left_are_not_taken_for_those_of_the_start(tmp_path):
    class Breaks(TrainerCallback):
        def on_step_end(self, args, state, control, **shown):
            if state.global_step == 4:
                raise KeyError("stop")

    callback = BatchSizeTrainerCallback(Schedule(schedule="0:8 8:16"))
    breaks = Breaks()
    with pytest.raises(KeyError):
        train(tmp_path, callback, spies=[breaks])
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    args.gradient_accumulation_steps = StepsFrom(4, first=8)
    with pytest.raises(InputError, match="make the TrainingArguments anew"):
        callback.on_train_begin(args, None, None)


def test_a_batch_below_the_one_at_the_start_is_not_made_and_the_report_says_why(tmp_path):
    reports = []
    callback = BatchSizeTrainerCallback(Schedule(schedule="0:8 16:4"), sinks=[reports.append])
    _, spy = train(tmp_path, callback, epochs=1)
    assert {len(rows) for rows in spy.steps} == {8, 4}
    assert [len(rows) for rows in spy.steps].count(4) == 1  # what the epoch leaves
    assert "plans the updates of an epoch" in reports[-1].reason
