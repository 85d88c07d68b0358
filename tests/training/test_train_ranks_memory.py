"""Too little memory on one rank is too little on all: they try again in smaller micro-batches, as if those had been small at once."""

import pytest
import torch
from torch import nn

from batchwright.adapt import NoiseScale
from batchwright.core.errors import DoesNotFitError
from batchwright.core.records import read_records
from batchwright.training.batch_gradient import BatchGradient
from batchwright.training.engine import BatchEngine
from batchwright.training.launch import noted_micro_batch_size
from batchwright.training.loop import train
from batchwright.training.ranks import Ranks
from batchwright.training.step_measures import StepMeasures

from .conftest import make_task
from .engine_helpers import CLASSES, DIM, make_data
from .engine_helpers import loss as engine_loss
from .rank_helpers import Job, needs_ranks, on_ranks
from .test_train_ranks import whole


def limited_loss(room: int, sizes: list[int]):
    """A loss on a device with room for so many examples; it runs out after the forward pass has left its traces."""

    def loss(model: nn.Module, batch: tuple) -> torch.Tensor:
        losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        if model.training:
            sizes.append(len(losses))
            if len(losses) > room:
                raise torch.OutOfMemoryError("simulated")
        return losses

    return loss


class TestTrain:
    pytestmark = needs_ranks

    def test_all_ranks_try_again_where_one_ran_out(self, tmp_path):
        options = {"batch_size": 24, "max_examples": 480, "checkpoint_every": 5, "noise_every": 2}
        options["policy"] = NoiseScale(cooldown=10**9)

        def job(rank: int) -> list:
            sizes: list[int] = []
            task = make_task(target=None, loss=limited_loss(5 if rank == 1 else 1000, sizes))
            runs = [train(task, out=tmp_path / "limited", **options)]
            ample = make_task(target=None)
            runs.append(train(ample, out=tmp_path / "wanted", micro_batch_size=3, **options))
            return [sizes[:5], *([whole(run), dict(run.values), list(run.notes)] for run in runs)]

        ranks = on_ranks(2, job, tmp_path / "results")
        assert [sizes for sizes, _, _ in ranks] == [[12, 6, 6, 3, 3], [12, 6, 3, 3, 3]]
        for _, limited, wanted in ranks:
            assert limited[:2] == wanted[:2]
            assert limited[2] == ["micro-batches of 3 from step 1 on: larger ones did not fit in memory"]
        (line,) = read_records(tmp_path / "limited").of_kind("micro_batch_size")
        assert (line["step"], line["micro_batch_size"]) == (1, 3)
        losses = [
            [line["loss"] for line in read_records(tmp_path / name).of_kind("step")] for name in ("limited", "wanted")
        ]
        assert losses[0] == losses[1]

    def test_where_not_even_one_example_fits_all_ranks_say_so(self, tmp_path):
        def job(rank: int) -> str:
            loss = limited_loss(0 if rank == 1 else 1000, [])
            task = make_task(target=None, loss=loss, model=lambda: nn.Linear(6, 2))
            with pytest.raises(RuntimeError) as caught:
                train(task, out=tmp_path / "run", batch_size=2, max_examples=480)
            return f"{type(caught.value).__name__} {caught.value}"

        first, second = on_ranks(2, job, tmp_path / "results")
        assert first.startswith("DoesNotFitError one example must fit")
        assert second.startswith("RankError rank 0: one example must fit")

    def test_a_sharded_run_ends_and_goes_on_with_what_fits(self, tmp_path):
        """The failing rank cannot tell the others, which wait for it in the forward pass; it notes the size and leaves."""

        def job(rank: int) -> list:
            task = make_task(target=None, loss=limited_loss(6 if rank == 1 else 1000, []))
            resume = (tmp_path / "run").exists()
            run = train(task, out=tmp_path / "run", batch_size=24, max_examples=480, parallel="fsdp", resume=resume)
            return [run.num_steps, list(run.notes)]

        failed = Job(2, job, tmp_path / "first")
        assert failed.codes() == [1, 1]
        assert "DoesNotFitError: a micro-batch must fit" in (tmp_path / "first" / "error-1").read_text()
        assert "RankError: another rank ended" in (tmp_path / "first" / "error-0").read_text()
        assert noted_micro_batch_size(tmp_path / "run") == 6
        for steps, notes in on_ranks(2, job, tmp_path / "second"):
            assert steps == 20
            assert notes == ["micro-batches of 6 from step 0 on: larger ones did not fit in memory"]


def test_one_process_tries_again_too():
    found = []
    for room, micro_batch_size in ((5, 24), (1000, 3)):
        task = make_task(loss=limited_loss(room, []))
        model = task.make_model(0)
        optimizer = task.optimizer.build(model.parameters())
        measures = StepMeasures(task, model, frozenset(), Ranks(model))
        gradient = BatchGradient(task, model, optimizer, Ranks(model), measures, seed=0, on_too_large=lambda size: None)
        gradient.retries = True  # as on a GPU
        torch.manual_seed(5)
        result = gradient.make(
            torch.arange(24), step=1, micro_batch_size=micro_batch_size, measured=False, asked=lambda: False
        )
        assert result.micro_batch_size == 3
        found.append([*(p.grad for p in model.parameters()), *model.buffers(), result.loss])
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


class TestEngine:
    pytestmark = needs_ranks

    def test_a_step_under_ddp_is_tried_again_on_all_ranks(self, tmp_path):
        def engine_of(name: str, **options) -> BatchEngine:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(DIM, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, CLASSES))
            wrapped = nn.parallel.DistributedDataParallel(model)
            optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
            policy = NoiseScale(cooldown=10**9)
            return BatchEngine(wrapped, optimizer, make_data(100), policy=policy, noise_every=1, **options)

        def job(rank: int) -> list:
            torch.distributed.init_process_group("gloo", world_size=2, rank=rank)
            sizes: list[int] = []
            limited, found = limited_loss(6 if rank == 1 else 1000, sizes), []
            for loss, micro_batch_size in ((limited, None), (engine_loss, 5)):
                engine = engine_of("x", batch_size=20, micro_batch_size=micro_batch_size)
                torch.manual_seed(3 + rank)
                steps = [engine.step(loss) for _ in range(7)]
                assert all(step.stepped for step in steps)
                noise = engine.noise_scale
                values = [*engine.model.parameters(), *engine.model.buffers()]
                found.append(
                    [
                        [value.double().flatten().tolist() for value in values],
                        None if noise is None else noise.value,
                        engine.micro_batch_size,
                        engine.num_examples,
                    ]
                )
            # The loop over an update reduces inside DDP, and must be as before after all this.
            for update in engine:
                for x, y in update:
                    update.backward(engine_loss(engine.model, (x, y)))
                break
            found.append([value.double().flatten().tolist() for value in engine.model.parameters()])
            return [sizes[:4], *found]

        ranks = on_ranks(2, job, tmp_path / "results")
        for sizes, limited, wanted, _ in ranks:
            assert sizes == [10, 5, 5, 5]
            assert limited == wanted
            assert limited[2:] == [5, 140]
        assert ranks[0][3] == ranks[1][3]

    def test_an_error_of_one_ranks_loss_ends_the_step_on_all(self, tmp_path):
        def job(rank: int) -> str:
            torch.distributed.init_process_group("gloo", world_size=2, rank=rank)
            model = nn.parallel.DistributedDataParallel(nn.Linear(DIM, CLASSES))
            engine = BatchEngine(model, torch.optim.SGD(model.parameters(), lr=0.1), make_data(20), batch_size=10)

            def loss(model, batch):
                if rank == 1:
                    raise ValueError("no such label")
                return engine_loss(model, batch)

            with pytest.raises(Exception) as caught:  # noqa: PT011 - of another kind on each rank
                engine.step(loss)
            return f"{type(caught.value).__name__} {caught.value}"

        assert on_ranks(2, job, tmp_path / "results") == [
            "RankError rank 1: ValueError: no such label",
            "ValueError no such label",
        ]


def test_the_last_resort_of_one_process_is_an_error():
    task = make_task(loss=limited_loss(0, []))
    model = task.make_model(0)
    measures = StepMeasures(task, model, frozenset(), Ranks(model))
    optimizer = task.optimizer.build(model.parameters())
    gradient = BatchGradient(task, model, optimizer, Ranks(model), measures, seed=0, on_too_large=lambda size: None)
    gradient.retries = True
    model.eval()  # batch normalization would refuse one example
    model.training = True
    with pytest.raises(DoesNotFitError, match="one example must fit"):
        gradient.make(torch.arange(2), step=1, micro_batch_size=2, measured=False, asked=lambda: False)
