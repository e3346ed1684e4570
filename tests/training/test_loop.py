"""The training loop: schedule, resuming after a stop, and refusals."""

from __future__ import annotations

import math
import signal
from types import SimpleNamespace

import pytest
import torch

from genflow import GenflowError
from genflow.progress import Progress
from genflow.training import loop
from genflow.training.checkpoints import PATTERN, Checkpoints, remove_checkpoints
from genflow.training.gradients import all_reduce_step
from genflow.training.loop import GraphTrainee, Schedule, train

STEPS = 230  # more than 200, so that the history averages over several steps


class Regression(GraphTrainee):
    """A noisy regression with two rates and an average that is not a parameter."""

    def __init__(self, size: int = 3) -> None:
        rng = torch.Generator().manual_seed(1)
        self.w = torch.randn(size, 2, generator=rng).requires_grad_()
        self.b = torch.zeros(2, requires_grad=True)
        self.average = torch.zeros(size, 2)
        self.steps: list[int] = []
        self.at: dict[int, object] = {}

    def groups(self):
        return [{"params": [self.w]}, {"params": [self.b], "lr_scale": 10.0}]

    def tensors(self):
        return {"w": self.w, "b": self.b, "average": self.average}

    def loss(self, step, rng):
        x = torch.randn(4, len(self.w), generator=rng)
        loss = (x @ self.w + self.b - x.sum(1, keepdim=True)).square().mean()
        if self.at.get(step) == "nan":
            loss = loss * torch.nan
        return loss, {"loss": loss.item()}

    def after_step(self, step):
        self.steps.append(step)
        self.average.lerp_(self.w.detach(), 0.1)
        event = self.at.get(step)
        if callable(event):
            event()

    def figures(self):
        return {"norm": float(self.w.detach().norm())}


def run(folder, trainee=None, seed=0, **options):
    trainee = trainee or Regression()
    schedule = Schedule(**{"steps": STEPS, "lr": 0.01, **options})
    trained = train(trainee, schedule, folder=folder, seed=seed, progress=Progress(quiet=True), label="toy")
    return trainee, trained.history, trained.seconds


def same(a: Regression, b: Regression) -> bool:
    return all(t.equal(b.tensors()[name]) for name, t in a.tensors().items())


def test_rate_rises_stays_and_falls():
    schedule = Schedule(steps=100, lr=1.0, warmup=0.1, decay=0.5, final_rate=0.2)
    assert [schedule.rate(step) for step in (0, 4, 8)] == pytest.approx([0.1, 0.5, 0.9])
    assert [schedule.rate(step) for step in (9, 30, 49)] == [1.0, 1.0, 1.0]
    assert schedule.rate(74) == pytest.approx(0.2 + 0.8 * 0.5)
    assert schedule.rate(99) == pytest.approx(0.2)
    falling = [schedule.rate(step) for step in range(49, 100)]
    assert falling == sorted(falling, reverse=True)


def test_rate_without_warmup_or_decay():
    constant = Schedule(steps=7, lr=1.0, warmup=0, decay=0)
    assert [constant.rate(step) for step in range(7)] == [1.0] * 7
    cosine = Schedule(steps=4, lr=1.0, warmup=0, decay=1, final_rate=0)
    assert [cosine.rate(step) for step in range(4)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3, 4)]
    )
    assert all(
        0 < Schedule(steps=1, lr=1.0, warmup=w, decay=d).rate(0) <= 1
        for w in (0, 0.5, 1)
        for d in (0, 0.5, 1)
    )


def test_every_group_learns_at_its_rate_to_the_last_bit(tmp_path, monkeypatch):
    """Also after a stop."""
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda self: rates.append([g["lr"] for g in self.param_groups]) or step(self),
    )
    trainee = Regression()
    trainee.at = {7: lambda: signal.raise_signal(signal.SIGINT)}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, trainee, steps=20)
    run(tmp_path, steps=20)
    schedule = Schedule(steps=20, lr=0.01)
    assert rates == [[0.01 * schedule.rate(i), 0.01 * 10.0 * schedule.rate(i)] for i in range(20)]


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"lr": 0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"warmup": 1.5},
        {"clip": 0},
        {"optimizer": "sgd"},
        {"step": 3},
    ],
)
def test_impossible_schedules_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Schedule(**{"steps": 10, "lr": 0.1, **values})


@pytest.mark.parametrize(
    "options", [{}, {"clip": 0.05}, {"optimizer": "adamw"}, {"warmup": 0.3, "decay": 0.5}], ids=str
)
def test_the_loop_is_torchs_optimizer_under_the_schedule(tmp_path, options):
    schedule = Schedule(steps=20, lr=0.01, **options)
    found, _, _ = run(tmp_path, steps=20, **options)
    expected = Regression()
    optimizer_class = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
    optimizer = optimizer_class([{"params": [expected.w]}, {"params": [expected.b]}], lr=0.01)
    rng = torch.Generator().manual_seed(0)
    for step in range(20):
        optimizer.param_groups[0]["lr"] = 0.01 * schedule.rate(step)
        optimizer.param_groups[1]["lr"] = 0.1 * schedule.rate(step)
        loss, _ = expected.loss(step, rng)
        optimizer.zero_grad()
        loss.backward()
        if schedule.clip:
            torch.nn.utils.clip_grad_norm_([expected.w, expected.b], schedule.clip)
        optimizer.step()
    torch.testing.assert_close(found.w, expected.w, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.b, expected.b, rtol=1e-5, atol=1e-6)
    assert (found.w - Regression().w).abs().max() > 0.01


def test_it_learns_and_records_how(tmp_path):
    trainee, history, seconds = run(tmp_path)
    assert trainee.steps == list(range(STEPS))
    assert history["loss"][-1][1] < 0.2 * history["loss"][0][1]
    assert [point[0] for point in history["loss"]] == list(range(1, STEPS + 1))
    assert history["norm"][-1] == [STEPS, float(trainee.w.detach().norm())]
    assert 40 <= len(history["norm"]) <= 60
    assert seconds >= 0
    assert not list(tmp_path.glob(PATTERN))


def test_long_histories_are_means_over_several_steps(tmp_path):
    _, every, _ = run(tmp_path / "a", steps=399)
    _, history, _ = run(tmp_path / "b", steps=400)
    assert len(every["loss"]) == 399
    assert [point[0] for point in history["loss"]] == list(range(2, 401, 2))


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path):
    first, history, _ = run(tmp_path)
    second, again, _ = run(tmp_path)
    assert same(first, second)
    assert history == again
    assert not same(first, run(tmp_path, seed=1)[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stops", [(0,), (100,), (7, 8, 201), (STEPS - 1,)], ids=str)
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, number, stops):
    # an odd number of steps a history point, so that a stop falls inside one
    options = {"steps": 610} if stops == (7, 8, 201) else {}
    expected, history, _ = run(tmp_path / "whole", **options)
    before = signal.getsignal(number)
    for stop in stops:
        trainee = Regression()
        trainee.at = {stop: lambda: signal.raise_signal(number)}
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts", trainee, **options)
        assert trainee.steps[-1] == stop
        assert signal.getsignal(number) is before
    found, again, _ = run(tmp_path / "parts", **options)
    assert found.steps == list(range(stops[-1] + 1, options.get("steps", STEPS)))
    assert same(found, expected)
    assert again == history


def test_a_run_that_dies_goes_on_from_its_last_checkpoint(tmp_path):
    expected, history, _ = run(tmp_path / "whole")

    def die():
        raise RuntimeError("power cut")

    trainee = Regression()
    trainee.at = {60: die}
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "parts", trainee, checkpoint_seconds=1e-9)
    found, again, _ = run(tmp_path / "parts")
    assert found.steps[0] == 60
    assert same(found, expected)
    assert again == history


def test_a_second_signal_stops_at_once_without_a_checkpoint(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    trainee = Regression()
    trainee.at = {5: twice}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, trainee)
    assert not list(tmp_path.glob(PATTERN))


def test_nothing_but_checkpoints_is_written_and_they_can_be_removed(tmp_path):
    run(tmp_path, checkpoint_seconds=1e-9, keep_checkpoints=1)
    assert [path.name[:20] for path in tmp_path.iterdir()] == [f"checkpoint-{STEPS:09}"]
    remove_checkpoints(tmp_path)
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    trainee = Regression()
    trainee.at = {41: "nan"}
    with pytest.raises(
        GenflowError, match=r"toy: the loss became nan at step 42; lower the learning rate \(no checkpoint"
    ) as caught:
        run(tmp_path, trainee)
    assert "\n" not in str(caught.value)
    # the weights are those of the last good step
    assert trainee.steps[-1] == 40
    assert torch.isfinite(trainee.w).all()
    with pytest.raises(GenflowError, match=r"step 42.*checkpoint-000000041"):
        failing = Regression()
        failing.at = {41: "nan"}
        run(tmp_path, failing, checkpoint_seconds=1e-9)
    # the last good checkpoint serves
    assert same(run(tmp_path)[0], run(tmp_path / "whole")[0])


@pytest.fixture
def stopped(tmp_path):
    """A folder with the checkpoint of a stopped run."""
    trainee = Regression()
    trainee.at = {20: lambda: signal.raise_signal(signal.SIGINT)}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, trainee)
    return tmp_path


def change(folder, tensors=lambda t: t, facts=lambda f: f):
    """Another checkpoint in place of the one there is: whole, but not of this run."""
    checkpoints = Checkpoints(folder, keep=1)
    name, _ = checkpoints.find()
    held, known = checkpoints.read(name)
    known = facts(known)
    checkpoints.save(known.pop("step", 0), tensors(held), known)
    assert len(list(folder.glob(PATTERN))) == 1


MISFITS = {
    "no history": lambda folder: change(
        folder, facts=lambda f: {k: v for k, v in f.items() if k != "history"}
    ),
    "a weight is missing": lambda folder: change(
        folder, lambda t: {k: v for k, v in t.items() if k != "model.w"}
    ),
    "a weight has another shape": lambda folder: change(
        folder, lambda t: {**t, "model.w": torch.zeros(4, 2)}
    ),
    "a weight has a shape that broadcasts": lambda folder: change(
        folder, lambda t: {**t, "model.w": torch.zeros(1, 2)}
    ),
    "no random state": lambda folder: change(folder, lambda t: {k: v for k, v in t.items() if k != "rng"}),
    "broken random state": lambda folder: change(folder, lambda t: {**t, "rng": t["rng"][:10]}),
    "odd optimizer slot": lambda folder: change(
        folder, lambda t: {**t, "optimizer.first.step": torch.zeros(1)}
    ),
    "optimizer state of another shape": lambda folder: change(
        folder, lambda t: {**t, "optimizer.0.exp_avg": torch.zeros(5, 2)}
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(stopped, kind):
    MISFITS[kind](stopped)
    with pytest.raises(GenflowError, match="checkpoint-") as caught:
        run(stopped)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_kind_of_device_is_refused(stopped):
    """Its random numbers would be others."""
    change(stopped, facts=lambda f: {**f, "random_device": "cuda"})
    with pytest.raises(
        GenflowError, match=r"checkpoint-.*on 'cuda'.*on 'cpu'.*device=cuda, or remove"
    ) as caught:
        run(stopped)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_smaller_trainee_is_refused(stopped):
    with pytest.raises(GenflowError, match="remove it to start again"):
        run(stopped, Regression(size=4))


def with_clock(monkeypatch, trainee):
    """A second passes at the end of each step."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(len(trainee.steps))))
    return trainee


def budgeted(folder, trainee, budget, **options):
    schedule = Schedule(**{"steps": 10_000, "lr": 0.01, "budget": budget, **options})
    return train(trainee, schedule, folder=folder, seed=0, progress=Progress(quiet=True), label="toy")


def test_the_rate_follows_steps_or_seconds_whichever_are_further():
    schedule, plain = Schedule(steps=1000, lr=1.0, budget=40.0), Schedule(steps=40, lr=1.0)
    assert schedule.rate(3, 20.0) == plain.rate(19)
    assert schedule.rate(499, 1.0) == plain.rate(19)
    assert schedule.rate(3, 400.0) == pytest.approx(schedule.final_rate)  # the clock may be past the end
    assert Schedule(steps=40, lr=1.0).rate(3, 1e9) == plain.rate(3)


def test_a_budget_ends_a_run_with_what_it_has_learned(tmp_path, monkeypatch):
    trained = budgeted(tmp_path / "short", with_clock(monkeypatch, trainee := Regression()), 40.0)
    # the step that begins at 40 s is the one in which the budget is found to be spent
    assert (trained.steps, trained.ended_after, trainee.steps) == (41, 40.0, list(range(41)))
    assert trained.extent() == {"steps": 41, "ended_after_seconds": 40.0}
    assert trained.history["loss"][-1][0] == trained.history["norm"][-1][0] == 41
    assert trainee.share == pytest.approx(39 / 40)


def test_a_budget_that_is_not_used_up_changes_nothing(tmp_path, monkeypatch):
    expected, history, _ = run(tmp_path / "plain")
    trainee = with_clock(monkeypatch, Regression())
    trained = budgeted(tmp_path / "ample", trainee, 1e6, steps=STEPS)
    assert trained.extent() == {"steps": STEPS} and trained.history == history and same(trainee, expected)


@pytest.mark.parametrize("stops", [(0,), (7, 8, 30), (40,)], ids=str)
def test_a_stopped_run_counts_the_seconds_that_it_had_spent(tmp_path, monkeypatch, stops):
    whole = budgeted(tmp_path / "whole", with_clock(monkeypatch, expected := Regression()), 40.0)
    for stop in stops:
        trainee = with_clock(monkeypatch, Regression())
        trainee.at = {stop: lambda: signal.raise_signal(signal.SIGINT)}
        # the clock of a process begins anew
        first = stops[stops.index(stop) - 1] + 1 if stop != stops[0] else 0
        with pytest.raises(KeyboardInterrupt):
            budgeted(tmp_path / "parts", trainee, 40.0)
        assert trainee.steps == list(range(first, stop + 1))
    found = with_clock(monkeypatch, Regression())
    trained = budgeted(tmp_path / "parts", found, 40.0)
    late = [len(stops)] if len(stops) > 1 else [1]  # the end of the step that was stopped in is not counted
    assert trained.ended_after == 40.0 and 0 <= trained.steps - whole.steps <= late[0]
    if stops == (40,):
        assert trained.steps == whole.steps and found.steps == [] and same(found, expected)


def test_steps_that_are_needed_are_taken_whatever_the_budget(tmp_path, monkeypatch):
    trainee = with_clock(monkeypatch, Regression())
    trainee.least_steps = 50
    assert budgeted(tmp_path, trainee, 3.0).steps == 50


@pytest.mark.parametrize("rank", [0, 1])
def test_all_workers_go_by_the_clock_of_the_first(rank):
    sent = {}

    def message(of, other):
        def all_reduce(tensor):
            sent[of] = tensor.clone()
            return tensor + sent.get(other, 0)

        return SimpleNamespace(size=2, is_rank_zero=of == 0, all_reduce=all_reduce)

    def step(of, other, seconds):
        parameter = torch.ones(2, requires_grad=True)
        parameter.grad = torch.full((2,), 1.0 + of)
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        return all_reduce_step(message(of, other), optimizer, 0.5, {"loss": 0.5}, False, False, seconds)

    step(1 - rank, rank, 7.0 if rank else 9.0)
    *_, seconds = step(rank, 1 - rank, 9.0 if rank else 7.0)
    assert seconds == 7.0


@pytest.mark.parametrize("budget", [0, -1, math.inf, math.nan])
def test_an_impossible_budget_is_refused(budget):
    with pytest.raises(ValueError, match="budget"):
        Schedule(steps=3, lr=1.0, budget=budget)
