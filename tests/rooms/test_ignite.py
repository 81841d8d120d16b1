"""Ignite: the trainer goes on as if there had been no search, fresh, between two runs and in the middle of one."""

import subprocess
import sys
from copy import deepcopy

import ignite
import numpy as np
import pytest
import torch
from ignite.engine import Engine, EventEnum, Events, create_supervised_trainer
from ignite.handlers import EMAHandler, LRScheduler, PiecewiseLinear, create_lr_scheduler_with_warmup
from ignite.handlers.base_logger import BaseHandler, BaseLogger
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from findlr import ConfigurationError, LoaderError, LossError, OptimizerError, Stop
from findlr import find_lr as plain
from findlr.ignite import find_lr
from findlr.testing import TrainingConformance
from tests.torch.training import copied


def loader_of(shuffle=True, workers=0):
    torch.manual_seed(0)
    inputs = torch.randn(60, 4)
    data = TensorDataset(inputs, inputs[:, :1].sin())
    return DataLoader(data, 10, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0)


class Training:
    """A trainer with what people attach to it: a log, a scheduler, an average of the weights."""

    def __init__(self, optimizer=optim.SGD, steps=1, workers=0, **how):
        self.loader = loader_of(workers=workers)
        layers = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1)]
        self.model, self.steps, self.log = nn.Sequential(*layers), steps, []
        self.optimizer = optimizer(self.model.parameters(), lr=0.01, **how)
        self.trainer = create_supervised_trainer(
            self.model, self.optimizer, nn.MSELoss(), gradient_accumulation_steps=steps
        )
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: self.log.append(engine.state.output))
        self.average = EMAHandler(self.model)
        self.average.attach(self.trainer)
        self.schedule = optim.lr_scheduler.StepLR(self.optimizer, 4)
        warmed = create_lr_scheduler_with_warmup(self.schedule, 0.001, 3)
        self.trainer.add_event_handler(Events.ITERATION_STARTED, warmed)

    def search(self, **how):
        settings = dict(progress=False, gradient_accumulation_steps=self.steps)
        to_save = {"trainer": self.trainer, "optimizer": self.optimizer, "model": self.model}
        return find_lr(self.trainer, self.loader, to_save=to_save, **settings | how)

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])


SETTINGS = {
    "adamw, accumulation 3": dict(optimizer=optim.AdamW, steps=3),
    "momentum": dict(momentum=0.9),
}


class Conformance(TrainingConformance):
    def search(self, training, **how):
        return training.search(**how)

    def state(self, training):
        state = training.trainer.state
        seen = state.iteration, state.epoch, state.epoch_length, state.max_epochs, state.output, dict(state.metrics)
        averages = training.average.ema_model.state_dict()
        optimizer = training.optimizer.state_dict()
        return training.model.state_dict(), optimizer, averages, training.log, seen, training.schedule.state_dict()


@pytest.mark.parametrize("how", SETTINGS.values(), ids=SETTINGS)
class TestBetweenRuns(Conformance):
    before, after = 1, 2  # epochs

    @pytest.fixture(autouse=True)
    def _given(self, how):
        self.how = how

    def training(self):
        return Training(**self.how)

    def train(self, training, steps):
        training.trainer.run(training.loader, max_epochs=steps)


class Parts(EventEnum):
    """Of an iteration, which the process function fires."""

    BACKWARD = "backward"
    STEP = "step"


class Log(BaseLogger):
    """Whatever it is told is written down."""

    told = None

    def _create_output_handler(self, *args, **kwargs):
        raise NotImplementedError

    _create_opt_params_handler = _create_output_handler


class Tells(BaseHandler):
    def __call__(self, engine, logger, event_name):
        logger.told.append(engine.state.iteration)


class TestEventsOfTheProcessFunction(Conformance):
    """Whose handlers clip, count, average and log."""

    before, after, too_high = 1, 2, 1e12  # epochs; a rate at which clipped gradients are too much

    def training(self):
        training, norms = Training(momentum=0.9), []
        training.hidden, training.norms, training.seen = torch.zeros(1), norms, {"steps": 0}

        def process(engine, batch):
            training.optimizer.zero_grad()
            training.hidden = training.hidden * 0.9 + batch[0].mean()
            loss = nn.functional.mse_loss(training.model(batch[0]) + 0.1 * training.hidden, batch[1])
            loss.backward()
            engine.fire_event(Parts.BACKWARD)
            training.optimizer.step()
            engine.fire_event(Parts.STEP)
            if loss > 1e3:
                engine.terminate()
            return loss.item()

        training.trainer, training.kept, training.logger = Engine(process), deepcopy(training.model), Log()
        training.trainer.register_events(*Parts, event_to_attr={Parts.STEP: "stepped"})
        training.logger.told = []

        @training.trainer.on(Parts.BACKWARD)
        def clip(engine):
            norms.append(float(nn.utils.clip_grad_norm_(training.model.parameters(), 0.1)))

        @training.trainer.on(Parts.STEP(every=2), training.kept)
        def average(engine, kept):
            training.seen["steps"] += 1
            for mean, p in zip(kept.parameters(), training.model.parameters(), strict=True):
                mean.data.lerp_(p.detach(), 0.1)

        training.logger.attach(training.trainer, Tells(), Parts.STEP)
        training.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: training.log.append(e.state.output))
        return training

    def train(self, training, steps):
        training.trainer.run(training.loader, max_epochs=steps)
        assert len(training.logger.told) == len(training.norms) == len(training.log)

    def state(self, training):
        held = [training.kept.state_dict(), training.hidden, training.norms, training.seen, training.logger.told]
        return super().state(training), held, training.trainer.state.stepped, training.trainer.last_event_name


def test_what_the_process_function_says_of_the_run_in_a_search_does_not_end_it():
    training = Training()
    update = training.trainer._process_function

    def process(engine, batch):
        loss = update(engine, batch)
        if loss > 10:
            engine.terminate()
        return loss

    training.trainer = Engine(process)
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=3), lambda: training.search(num_steps=8, min_lr=1e3, max_lr=1e6)
    )
    training.trainer.run(training.loader, max_epochs=2)
    assert training.trainer.state.iteration == 12


def stop(error, at):
    def on_step(step):
        if step.index == at:
            raise error

    return on_step


ENDS = {
    "finishes": ({"max_lr": 0.1}, None),
    "diverges": ({"min_lr": 1e3, "max_lr": 1e6}, None),
    "raises": ({"on_step": stop(ZeroDivisionError, 3)}, ZeroDivisionError),
    "is interrupted": ({"on_step": stop(KeyboardInterrupt, 3)}, KeyboardInterrupt),
}


@pytest.mark.parametrize(("workers", "end"), [*((0, end) for end in ENDS), (1, "finishes")])
def test_a_search_by_a_handler_in_the_middle_of_an_epoch(workers, end):
    how, error = ENDS[end]
    states = []
    for searches in (False, True):
        training = Training(optim.AdamW, steps=3, workers=workers)

        def middle(engine, training=training):
            if error is None:
                assert len(training.search(num_steps=8, **how).curve) > 1
            else:
                with pytest.raises(error) as raised:
                    training.search(num_steps=8, **how)
                assert len(raised.value.finding.curve) == 4

        if searches:  # gradients are half accumulated
            training.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), middle)
        training.trainer.run(training.loader, max_epochs=2)
        states.append(copied([Conformance().state(training), torch.get_rng_state()]))
    assert states[0] == states[1]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_same_finding_as_the_plain_call(steps):
    how = dict(num_steps=40, schedule="cosine", total_steps="9 epochs", min_lr=1e-5)
    training = Training(optim.Adam, steps)
    by_hand = Training(optim.Adam, steps)
    finding = training.search(loss_fn=training.loss, **how)
    plainly = plain(*(by_hand.model, by_hand.optimizer, nn.MSELoss(), by_hand.loader), accumulation_steps=steps, **how)
    assert finding.facts["versions"].pop("ignite") == ignite.__version__
    assert (finding.plan, finding.facts, finding.verdict) == (plainly.plan, plainly.facts, plainly.verdict)
    np.testing.assert_array_equal(finding.curve.baseline, plainly.curve.baseline)
    rounding = 1e-6 if steps > 1 else 0  # Ignite tells loss / 3 * 3, which is not the loss to the last bit
    np.testing.assert_allclose(finding.curve.loss, plainly.curve.loss, rtol=rounding)
    np.testing.assert_allclose(finding.interval, plainly.interval, rtol=rounding * 10)
    np.testing.assert_allclose(finding.lr, plainly.lr, rtol=rounding * 10)


def test_a_race_is_scored_on_the_validation_loader():
    training, seen = Training(), []
    held_out = DataLoader(TensorDataset(torch.ones(20, 4), torch.ones(20, 1)), 10)

    def loss(model, batch):
        seen.append(bool((batch[0] == 1).all()))
        return training.loss(model, batch)

    how = dict(loss_fn=loss, validation_loader=held_out, control_variate=False, max_lr=1.0)
    finding = training.search(verify=True, total_steps=300, **how)
    assert len(finding.race.runs) == 3
    assert seen
    assert all(seen)


def test_without_a_loss_function_a_race_is_scored_on_what_it_trains_on():
    finding = Training().search(verify=True, total_steps=300, max_lr=1.0)
    assert len(finding.race.runs) == 3
    assert finding.curve.baseline is None


def test_each_run_of_a_race_begins_at_the_first_iteration():
    training, seen = Training(), []
    update = create_supervised_trainer(training.model, training.optimizer, nn.MSELoss())._process_function

    def process(engine, batch):
        seen.append(engine.state.iteration)
        return update(engine, batch)

    training.trainer = Engine(process)
    training.trainer.state.iteration = 5  # of a run that is over; gradients would be accumulated from there
    finding = training.search(verify=True, total_steps=300, max_lr=1.0)
    assert seen[0] == 1
    assert seen.count(1) == 1 + len(finding.race.runs)
    assert training.trainer.state.iteration == 5


def test_a_process_function_is_told_what_a_run_tells_it():
    def told(run):
        training, seen = Training(), []
        update = create_supervised_trainer(training.model, training.optimizer, nn.MSELoss())._process_function

        def process(engine, batch):
            state = engine.state
            seen.append((state.iteration, state.epoch, state.epoch_length, state.max_epochs))
            return update(engine, batch)

        training.trainer = Engine(process)
        run(training)
        return seen

    searched = told(lambda training: training.search(total_steps="3 epochs", num_steps=18, max_lr=0.1))
    assert searched == told(lambda training: training.trainer.run(training.loader, max_epochs=3))


def test_a_dict_of_outputs_and_a_scaler_that_skips():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)

    def process(engine, batch):
        engine.state.seen = getattr(engine.state, "seen", 0) + 1
        loss = nn.functional.mse_loss(model(batch[0]), batch[1])
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if engine.state.seen in (3, 4):
            model.weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        return {"loss": loss, "size": len(batch[0])}

    trainer = Engine(process)
    to_save = {"model": model, "optimizer": optimizer, "scaler": scaler}
    how = dict(output_transform=lambda output: output["loss"], num_steps=10, max_lr=1e-3)
    finding = find_lr(trainer, loader_of(), to_save=to_save, **how)
    assert finding.stop is Stop.FINISHED
    assert len(finding.curve) == 10
    assert scaler.get_scale() == 2.0**10
    assert not hasattr(trainer.state, "seen")
    assert (trainer.state.iteration, trainer.state.batch, trainer.state.output) == (0, None, None)


def test_iterations_that_the_process_function_leaves_out_are_no_points():
    training, calls = Training(), []
    update = training.trainer._process_function

    def process(engine, batch):
        calls.append(len(batch))
        return nn.functional.mse_loss(training.model(batch[0]), batch[1]) if len(calls) == 4 else update(engine, batch)

    training.trainer = Engine(process)
    finding = training.search(num_steps=12, max_lr=0.1)
    assert finding.stop is Stop.FINISHED
    assert len(finding.curve) == len(calls) - 1 == 12


def test_what_only_the_process_function_holds_is_put_back():
    model, head = nn.Linear(4, 2), nn.Linear(2, 1)
    optimizer = optim.SGD([*model.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    norm = nn.BatchNorm1d(2)

    def process(engine, batch):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(head(norm(model(batch[0]))), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    before = norm.running_mean.clone(), head.weight.clone()
    find_lr(Engine(process), loader_of(), to_save={"model": model, "optimizer": optimizer})
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(head.weight, before[1])


def test_a_gans_optimizer_is_chosen_by_its_name():
    generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
    of_g, of_c = optim.Adam(generator.parameters(), lr=1e-3), optim.Adam(critic.parameters(), lr=1e-3)

    def process(engine, batch):
        loss_c = critic(generator(torch.ones(10, 2)).detach()).mean() - critic(batch[0]).mean()
        of_c.zero_grad()
        loss_c.backward()
        of_c.step()
        loss = nn.functional.softplus(-critic(generator(torch.ones(10, 2)))).mean()
        of_g.zero_grad()
        loss.backward()
        of_g.step()
        return {"g": loss.item(), "c": loss_c.item()}

    to_save = {"critic": critic, "generator": generator, "of_g": of_g, "of_c": of_c}
    how = dict(output_transform=lambda output: output["g"], num_steps=20, max_lr=1e-2)
    finding = find_lr(Engine(process), loader_of(), to_save=to_save, sweep="of_g", **how)
    assert len(finding.curve) > 10
    with pytest.raises(OptimizerError, match="one of 'of_g', 'of_c'"):
        find_lr(Engine(process), loader_of(), to_save=to_save, **how)


@pytest.mark.parametrize("count", [2, 5])
def test_an_optimizer_that_waits_for_another_one(count):
    generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
    of_g, of_c = optim.Adam(generator.parameters(), lr=1e-3), optim.Adam(critic.parameters(), lr=1e-3)

    def process(engine, batch):
        made = generator(torch.ones(10, 2))
        loss = (critic(made.detach()) - critic(batch[0])).mean()
        optimizer = of_c
        if engine.state.iteration % count == 0:
            loss, optimizer = nn.functional.softplus(-critic(made)).mean(), of_g
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    to_save = {"critic": critic, "generator": generator, "of_g": of_g, "of_c": of_c}
    finding = find_lr(Engine(process), loader_of(), to_save=to_save, sweep="of_g", num_steps=20, max_lr=1e-2)
    assert len(finding.curve) == 20
    assert (finding.curve.loss > 0).all()


def test_an_epoch_is_that_of_the_run():
    training = Training(steps=2)
    training.trainer.run(training.loader, max_epochs=1, epoch_length=4)
    assert training.search(total_steps="5 epochs").plan.total_steps == 10


def test_the_line_to_paste_is_the_optimizers():
    training = Training(optim.AdamW)
    finding = training.search()
    assert finding.code() == f"optimizer = torch.optim.AdamW(model.parameters(), lr={finding.lr:.2g})"


def test_a_scheduler_of_ignites_is_the_plan_or_is_refused_and_is_not_moved():
    training = Training()
    inner = optim.lr_scheduler.CosineAnnealingLR(training.optimizer, 60)
    how = dict(num_steps=5, total_steps=60)
    assert training.search(schedule=LRScheduler(inner), **how).plan == training.search(schedule=inner, **how).plan
    linear = PiecewiseLinear(training.optimizer, "lr", milestones_values=[(0, 0.0), (10, 0.1), (60, 0.0)])
    before = linear.state_dict(), training.optimizer.param_groups[0]["lr"]
    with pytest.raises(ConfigurationError, match=r"Ignite's PiecewiseLinear, .* give its shape"):
        training.search(schedule=linear, **how)
    assert (linear.state_dict(), training.optimizer.param_groups[0]["lr"]) == before


def test_bad_input_is_one_clear_error_and_nothing_is_lost():
    training = Training(steps=3)
    before = [parameter.clone() for parameter in training.model.parameters()], dict(vars(training.trainer.state))
    for how, error, said in (
        ({"to_save": {"model": training.model}}, ConfigurationError, "must hold the model and the optimizer.*'model'"),
        ({"to_save": None}, ConfigurationError, "got NoneType"),
        ({"max_lr": 0}, ConfigurationError, "max_lr"),
        ({"num_iter": 9}, ConfigurationError, "it is called 'num_steps' here"),
        ({"gradient_accumulation_steps": 0}, ConfigurationError, "gradient_accumulation_steps must be"),
        ({"gradient_accumulation_steps": 1}, OptimizerError, "given 1 of its batches.*gradient_accumulation_steps="),
        ({"output_transform": None}, ConfigurationError, r"must be a function, called as output_transform\(output\)"),
        ({"loss_fn": 5}, ConfigurationError, r"loss_fn must be a function, called as loss_fn\(model, batch\), got int"),
        ({"loss_fn": lambda batch: 0}, ConfigurationError, r"called as loss_fn\(model, batch\)"),
        ({"validation_loader": training.loader}, ConfigurationError, "validation_loader goes with loss_fn"),
        ({"output_transform": lambda output: {"loss": output}}, LossError, "got dict: output_transform="),
        ({"output_transform": lambda output: torch.ones(3)}, LossError, r"one number, got shape \(3,\)"),
    ):
        settings = {"to_save": {"model": training.model, "optimizer": training.optimizer}} | how
        with pytest.raises(error, match=said):
            find_lr(training.trainer, training.loader, **{"gradient_accumulation_steps": 3} | settings)
        assert all(map(torch.equal, training.model.parameters(), before[0]))
        assert dict(vars(training.trainer.state)) == before[1]
    with pytest.raises(LoaderError, match="one-shot iterator") as error:
        find_lr(training.trainer, iter(training.loader), **settings)
    assert "consume" not in str(error.value)  # which this room does not take
    with pytest.raises(ConfigurationError, match="must be an ignite Engine, got Linear"):
        find_lr(nn.Linear(1, 1), training.loader, to_save={})


def test_without_ignite_one_error_says_what_to_install():
    code = "import sys; sys.modules['ignite'] = None; import findlr.ignite"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: pytorch-ignite is not installed; run: pip install 'findlr[ignite]'" in done.stderr
