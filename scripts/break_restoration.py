"""Break each restored thing in turn, and show that a named test turns red.

    python scripts/break_restoration.py

Each break is one replacement in a copy of ``src``; the tests run on the copy. Exits 1 if a break goes unnoticed, if a
test is red without a break, or if a text to replace is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

HOME = Path(__file__).resolve().parent.parent
STATE, BATCHES, TRAINABLE = "torch/state.py", "torch/batches.py", "torch/trainable.py"
REWIND = "torch/rewind.py"
IN_FORWARD = "test_what_a_module_changes_in_its_forward_pass"
MATRIX = "test_every_model_with_every_optimizer"
OPTIMIZER = "    memory.remember(vars(optimizer))"


@dataclass(frozen=True)
class Break:
    """One thing that is no longer put back."""

    thing: str
    test: str
    file: str
    old: str
    new: str


def but(entry: str) -> str:
    """The optimizer's snapshot, but one entry of its groups stays as the sweep left it."""
    return (
        f"    memory.add(lambda: setattr(memory, 'left', [g['{entry}'] for g in optimizer.param_groups]))\n"
        f"{OPTIMIZER}\n"
        f"    memory.add(lambda: [g.update({entry}=v) for g, v in zip(optimizer.param_groups, memory.left)])"
    )


BREAKS = [
    Break(
        "parameters of the model",
        f"{IN_FORWARD}[model-parameter-fresh]",
        STATE,
        "        memory.remember(module._parameters)",
        "        pass",
    ),
    Break(
        "parameters of the criterion",
        f"{IN_FORWARD}[criterion-parameter-fresh]",
        TRAINABLE,
        "self._modules, [self.optimizer], self._restore)",
        "[self.model], [self.optimizer], self._restore)",
    ),
    Break(
        "parameters of the optimizer alone",
        "test_a_parameter_that_is_not_the_models[the-optimizers-alone-fresh]",
        STATE,
        OPTIMIZER,
        "    memory.remember({**vars(optimizer), 'param_groups': ()})",
    ),
    Break(
        "persistent buffers",
        f"{IN_FORWARD}[model-persistent-buffer-fresh]",
        STATE,
        "memory.remember(module._buffers)",
        "memory.remember({k: module._buffers[k] for k in module._non_persistent_buffers_set})",
    ),
    Break(
        "non-persistent buffers",
        f"{IN_FORWARD}[model-non-persistent-buffer-fresh]",
        STATE,
        "memory.remember(module._buffers)",
        "memory.remember({k: b for k, b in module._buffers.items() if k not in module._non_persistent_buffers_set})",
    ),
    Break(
        "which tensor a buffer's name is bound to",
        f"{IN_FORWARD}[model-buffer-bound-anew-fresh]",
        STATE,
        "memory.remember(module._buffers)",
        "memory.remember(list(module._buffers.values()))",
    ),
    Break(
        "expanded buffers",
        f"{IN_FORWARD}[model-expanded-buffer-fresh]",
        STATE,
        "tensor.as_strided((reach,), (1,)) if overlaps else tensor",
        "tensor",
    ),
    Break(
        "gradients: present or None",
        f"{MATRIX}[mlp-sgd-fresh]",
        STATE,
        '    memory.add(partial(setattr, parameter, "grad", parameter.grad))',
        "    pass",
    ),
    Break(
        "gradients: values",
        "test_gradients_of_parameters_that_the_optimizer_lacks",
        STATE,
        "    memory.remember(parameter.grad)",
        "    pass",
    ),
    Break(
        "optimizer state: values",
        f"{MATRIX}[mlp-adam-warm]",
        STATE,
        OPTIMIZER,
        "    memory.remember({**vars(optimizer), 'state': ()})",
    ),
    Break(
        "optimizer state: what was created lazily",
        f"{MATRIX}[mlp-adam-fresh]",
        STATE,
        "    target.clear()\n",
        "    if not isinstance(target, dict):\n        target.clear()\n",
    ),
    Break("rates", f"{MATRIX}[mlp-sgd-fresh]", STATE, OPTIMIZER, but("lr")),
    Break(
        "rates that are tensors",
        "test_tensor_rates[SGD]",
        STATE,
        "_writable(tensor).copy_(saved.read())",
        "tensor.dim() and _writable(tensor).copy_(saved.read())",
    ),
    Break("initial_lr", "test_param_group_entries[initial_lr-fresh]", STATE, OPTIMIZER, but("initial_lr")),
    Break(
        "other entries of a group",
        "test_param_group_entries[weight_decay-fresh]",
        STATE,
        OPTIMIZER,
        but("weight_decay"),
    ),
    Break(
        "the optimizer's flags",
        "test_an_attached_scheduler[step-fresh]",
        STATE,
        OPTIMIZER,
        "    memory.remember([optimizer.state, optimizer.param_groups])",
    ),
    Break(
        "an optimizer inside the optimizer",
        "test_optimizers.py::test_an_optimizer_that_holds_another_is_put_back",
        STATE,
        "            remember_optimizer(inner, memory)",
        "            pass",
    ),
    Break(
        "train and eval flags",
        f"{IN_FORWARD}[model-train-flag-fresh]",
        STATE,
        '        memory.add(partial(setattr, module, "training", module.training))',
        "        pass",
    ),
    Break(
        "train and eval flags: of a root in eval mode",
        "test_a_model_in_eval_mode_is_swept_in_train_mode_and_put_back",
        STATE,
        '        memory.add(partial(setattr, module, "training", module.training))',
        "        pass",
    ),
    Break(
        "Python's random state",
        f"{MATRIX}[mlp-sgd-fresh]",
        STATE,
        "    memory.add(partial(random.setstate, random.getstate()))",
        "    pass",
    ),
    Break(
        "NumPy's random state",
        f"{MATRIX}[mlp-sgd-fresh]",
        STATE,
        "    memory.add(partial(np.random.set_state, np.random.get_state()))",
        "    pass",
    ),
    Break(
        "torch's random state",
        f"{MATRIX}[cnn-sgd-fresh]",
        STATE,
        "    memory.add(partial(torch.set_rng_state, torch.get_rng_state()))",
        "    pass",
    ),
    Break(
        "the loader's generator",
        "test_every_loader[own-generator-fresh-finish]",
        BATCHES,
        "        memory.add(put)\n        _remember_loader(self.loader, memory)",
        "        memory.add(put)",
    ),
    Break(
        "a nested sampler's generator",
        "test_every_loader[nested-sampler-fresh-finish]",
        BATCHES,
        "                visit(value)",
        "                pass",
    ),
    Break(
        "a sampler's counters",
        "test_every_loader[homemade-sampler-fresh-finish]",
        BATCHES,
        "        memory.add(partial(_bind, owner, dict(vars(owner))))",
        "        pass",
    ),
    Break(
        "a sampler's order",
        "test_every_loader[homemade-sampler-fresh-finish]",
        STATE,
        "(dict, list, set, deque, tuple)",
        "(dict, set, deque, tuple)",
    ),
    Break(
        "a generator of NumPy's in a sampler",
        "test_every_loader[homemade-sampler-fresh-finish]",
        STATE,
        '        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)',
        "        return None",
    ),
    Break(
        "the user's iterator over persistent workers",
        "test_worker_processes[persistent-mid-epoch]",
        BATCHES,
        "iter(_sibling(self.loader))",
        "iter(self.loader)",
    ),
    Break(
        "the place in the data",
        "test_a_snapshot_remembers_its_place_in_the_data[global-rng-3]",
        BATCHES,
        "            for _ in range(drawn):",
        "            for _ in range(0):",
    ),
    Break(
        "the place in the data: how its epoch was shuffled",
        "test_a_snapshot_remembers_its_place_in_the_data[global-rng-3]",
        BATCHES,
        "            opening.put_back()",
        "            pass",
    ),
    Break(
        "worker processes ended",
        "test_worker_processes_with_an_exception_in_one_of_them[2-workers]",
        BATCHES,
        "            shut_down()",
        "            pass",
    ),
    Break(
        "copies, never aliases",
        f"{MATRIX}[mlp-sgd-fresh]",
        STATE,
        "self.store.keep(_writable(value))",
        "Kept(lambda: _writable(value))",
    ),
    Break(
        "identity of tensors",
        f"{MATRIX}[mlp-adam-warm]",
        STATE,
        "self.add(partial(_refill, value, copy(value)))",
        "self.add(partial(_refill, value, __import__('copy').deepcopy(value) if 'exp_avg' in value else value.copy()))",
    ),
    Break(
        "on an exception",
        "test_every_optimizer_with_every_exit[sgd-RuntimeError-criterion-1]",
        "trainable.py",
        "            yield snapshot\n        finally:",
        "            yield snapshot\n        except ZeroDivisionError:\n            pass\n        else:",
    ),
    Break(
        "on Ctrl-C",
        "test_every_optimizer_with_every_exit[sgd-KeyboardInterrupt-optimizer-5]",
        "trainable.py",
        "            yield snapshot\n        finally:",
        "            yield snapshot\n        except Exception:\n            trainable.restore(snapshot)\n"
        "            raise\n        else:",
    ),
    Break(
        "on a second Ctrl-C, while things are put back",
        "test_ctrl_c_while_things_are_put_back[second]",
        "trainable.py",
        "            with _interrupts_held():\n                trainable.restore",
        "            if True:\n                trainable.restore",
    ),
    Break(
        "the place in a stream",
        "test_rewind.py::test_the_batches_that_were_drawn_come_again[sweep-0]",
        REWIND,
        "            self._at = mark",
        "            pass",
    ),
    Break(
        "a stream's batches that the training changes in place",
        "test_rewind.py::test_the_batches_that_were_drawn_come_again[batches-changed-in-place-0]",
        REWIND,
        "            self._kept[-1] = copied(batch), self._kept[-1][1]",
        "            pass",
    ),
    Break(
        "a stream's batches that come a third time",
        "test_rewind.py::test_the_batches_that_were_drawn_come_again[twice-0]",
        REWIND,
        "min([self._at, *self._marks])",
        "self._at",
    ),
    Break(
        "the state dict of a loader",
        "test_rewind.py::test_a_loader_with_a_state_dict_is_put_back_by_it[7-sweep-Reader]",
        BATCHES,
        "        remember_stateful(loader, memory)",
        "        pass",
    ),
    Break(
        "the place in a stream of a second loop",
        "test_rewind.py::test_the_batches_that_were_drawn_come_again[loop-0]",
        "torch/loop.py",
        "        if id(loader) not in self._loaders:",
        "        if True:",
    ),
    Break(
        "nothing left on disk",
        "test_snapshots.py::test_every_store_around_a_loop_of_ones_own[disk-None]",
        "trainable.py",
        "                snapshot.close()",
        "                pass",
    ),
]


def node(test: str) -> str:
    """What pytest calls a test of the list."""
    return f"tests/torch/{test}" if "::" in test else f"tests/torch/test_restore_matrix.py::{test}"


def copy_of_src(where: Path, one: Break | None = None) -> Path:
    """Copy ``src``, with one thing broken."""
    shutil.copytree(HOME / "src", where, ignore=shutil.ignore_patterns("__pycache__"))
    if one is not None:
        file = where / "findlr" / one.file
        text = file.read_text(encoding="utf-8")
        if text.count(one.old) != 1:
            sys.exit(f"{one.thing}: {one.file} has this {text.count(one.old)} times, not once:\n{one.old}")
        file.write_text(text.replace(one.old, one.new), encoding="utf-8")
    return where


def run(where: Path, tests: list[str]) -> tuple[int | None, str]:
    """The tests on the findlr that is in ``where``: pytest's exit code, and what it said."""
    said = where / "said.txt"
    # Forked, so that torch is imported once; no thread of its has started yet.
    process = multiprocessing.get_context("fork").Process(target=_run_here, args=(where, said, tests))
    process.start()
    process.join()
    return process.exitcode, said.read_text(encoding="utf-8")


def _run_here(where: Path, said: Path, tests: list[str]) -> None:
    with said.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.path.insert(0, str(where))
    import findlr

    if not Path(findlr.__file__).is_relative_to(where):
        sys.exit(f"the tests would run on {findlr.__file__}")
    sys.exit(pytest.main(["-q", "--tb=line", "-p", "no:cacheprovider", *map(node, tests)]))


def main() -> int:
    """Run the tests unbroken, then each with its break."""
    os.chdir(HOME)
    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    torch.optim.SGD([parameter]).step()  # the first step imports half of torch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code, said = run(copy_of_src(folder / "unbroken"), list(dict.fromkeys(one.test for one in BREAKS)))
        if code != 0:
            sys.exit(f"red without a break:\n{said[-3000:]}")
        print(f"unbroken: {said.splitlines()[-1]}\n\n{'broken':52} {'red':5} test")
        unnoticed = 0
        for i, one in enumerate(BREAKS):
            code, said = run(copy_of_src(folder / str(i), one), [one.test])
            red = code == pytest.ExitCode.TESTS_FAILED  # anything else is no test's merit
            unnoticed += not red
            print(f"{one.thing:52} {'yes' if red else 'NO':5} {one.test}", flush=True)
            if not red:
                print(said[-1500:])
    print(f"\n{len(BREAKS) - unnoticed} of {len(BREAKS)} breaks turn their test red")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
