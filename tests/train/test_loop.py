from types import SimpleNamespace

import pytest
import torch

from library.train.loop import EpochAverage, Length, LoopTools, run_loop
from library.train.session import Progress
from library.util.records import Batch, Problem, RunEnded, StepResult, UserError


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def on_step_start(self): ...

    def on_epoch_start(self, text_encoders, denoiser): ...

    def get_trainable_params(self):
        return [self.weight]


class Accelerator:
    num_processes, process_index, device, scaler = 1, 0, torch.device("cpu"), None

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, parameters, norm):
        torch.nn.utils.clip_grad_norm_(parameters, norm)


def pull_towards_key(session, batch):
    loss = (session.network.weight - float(batch.keys[0])).pow(2).sum()
    yield StepResult(loss, loss.detach().view(1), torch.zeros(1))


class Feed:
    """Epoch e has the batches e0, e1, ..., as numbers."""

    def __init__(self, count):
        self.count, self.seen = count, []

    def epoch(self, number, first_batch):
        for index in range(first_batch, self.count):
            self.seen.append(number * 10 + index)
            yield Batch(captions=[""], weights_B=torch.ones(1), original_sizes=[], crops=[], target_size=(1, 1),
                        keys=[str(number * 10 + index)])


def train(count=5, steps=100, epochs=2, accumulation=1, progress=None, network=None, watchers=()):
    network = network or Network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    optimizer.step_was_skipped = False
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    session = SimpleNamespace(
        progress=progress or Progress(), network=network, accelerator=Accelerator(), optimizer=optimizer,
        lr_schedule=schedule, averages=None, group_names=["all"], device=torch.device("cpu"),
        parts=SimpleNamespace(text_encoders=[], denoiser=None))
    seeds = []
    feed = Feed(count)
    length = Length(epochs=epochs, steps=steps, batches=count, accumulation=accumulation)
    tools = LoopTools(pull_towards_key, seeds.append, length, watchers, max_grad_norm=0.0)
    run_loop(session, feed, tools)
    return SimpleNamespace(session=session, feed=feed, seeds=seeds, weight=network.weight.detach())


def test_every_batch_is_used_once_an_epoch():
    assert train().feed.seen == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


def test_batches_are_numbered_over_all_epochs():
    assert train().seeds == list(range(10))


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left():
    run = train(accumulation=2)
    assert run.session.progress.step == 6 and run.seeds == list(range(10))


def test_training_stops_at_the_last_step_in_mid_epoch():
    run = train(steps=7)
    assert run.session.progress.step == 7 and run.seeds == list(range(7))


def test_a_run_that_goes_on_in_mid_epoch_equals_an_unbroken_one():
    whole = train()
    first = train(steps=3, epochs=1)
    second = train(progress=Progress(epoch=0, step=3, batch=3), network=first.session.network)
    assert first.seeds + second.seeds == whole.seeds
    assert torch.equal(second.weight, whole.weight)


def test_accumulated_gradients_are_those_of_the_mean():
    accumulated = train(count=2, epochs=1, accumulation=2)
    expected = torch.zeros(3) - 0.01 * (2 * (0 - 0.0) + 2 * (0 - 1.0)) / 2
    assert torch.allclose(accumulated.weight, expected)


def test_the_average_loss_is_that_of_the_last_epochs_steps():
    average = EpochAverage()
    for epoch, losses in enumerate([[4.0, 2.0], [1.0, 1.0]]):
        for slot, loss in enumerate(losses):
            average.add(epoch, slot, loss)
    assert average.value == 1.0


class ScaledAccelerator(Accelerator):
    """What accelerate does with fp16: scaled losses, gradients unscaled before they are clipped."""

    def __init__(self, optimizer):
        self.scaler, self.optimizer = torch.amp.GradScaler("cpu", init_scale=4.0), optimizer

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def clip_grad_norm_(self, parameters, norm):
        self.scaler.unscale_(self.optimizer.inner)
        return torch.nn.utils.clip_grad_norm_(parameters, norm)


class ScaledOptimizer:
    step_was_skipped = False

    def __init__(self, parameters):
        self.inner = torch.optim.SGD(parameters, lr=0.01)
        self.zero_grad, self.param_groups = self.inner.zero_grad, self.inner.param_groups

    def step(self):
        before = self.accelerator.scaler.get_scale()
        self.accelerator.scaler.step(self.inner)
        self.accelerator.scaler.update()
        self.step_was_skipped = self.accelerator.scaler.get_scale() < before


def nan_at_first(session, batch):
    for result in pull_towards_key(session, batch):
        yield StepResult(result.loss * (float("nan") if int(batch.keys[0]) < 2 else 1.0), result.per_item_B, result.timesteps_B)


def test_with_fp16_steps_of_invalid_numbers_are_skipped_and_lower_the_scale():
    network = Network()
    optimizer = ScaledOptimizer(network.parameters())
    optimizer.accelerator = accelerator = ScaledAccelerator(optimizer)
    session = SimpleNamespace(
        progress=Progress(), network=network, accelerator=accelerator, optimizer=optimizer,
        lr_schedule=SimpleNamespace(step=lambda: None), averages=None, group_names=["all"], device=torch.device("cpu"),
        parts=SimpleNamespace(text_encoders=[], denoiser=None))
    tools = LoopTools(nan_at_first, lambda number: None, Length(1, 100, 5), (), max_grad_norm=1.0)
    run_loop(session, Feed(5), tools)
    assert accelerator.scaler.get_scale() == 1.0
    assert torch.isfinite(network.weight).all() and (network.weight > 0).all()


class Closed:
    """A watcher that stops the run at a step with a user's mistake."""

    def __init__(self):
        self.closed = 0

    def on_start(self, session): ...

    def on_epoch_start(self, session, epoch): ...

    def on_step(self, session, log):
        raise UserError(Problem("--learning_rate", "The loss is NaN.", "Lower it."))

    def close(self):
        self.closed += 1


def test_watchers_let_go_of_what_they_hold_when_a_run_ends_early_and_the_frame_says_that_it_had_begun():
    watcher = Closed()
    with pytest.raises(RunEnded, match="NaN"):
        train(watchers=(watcher,))
    assert watcher.closed == 1
