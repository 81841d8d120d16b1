"""All that is put back, and the breaks that prove it: README's table and ``make prove`` are made of this list.

A break is one replacement in the source, and the test that it turns red.
"""

from dataclasses import dataclass

STATE, BATCHES, TRAINABLE, LOOP = "torch/state.py", "torch/batches.py", "torch/trainable.py", "torch/loop.py"
IN_FORWARD = "test_restore_matrix.py::test_what_a_module_changes_in_its_forward_pass"
MATRIX = "test_restore_matrix.py::test_every_model_with_every_optimizer"
OPTIMIZER = "    memory.remember(vars(optimizer))"
KINDS = "test_matrix.py::test_every_training_with_every_exit_and_snapshot"
SECOND = "test_faults.py::test_a_second_ctrl_c_at_every_line_that_puts_back"


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


RESTORED: dict[str, dict[str, list[Break]]] = {
    "the model, and a criterion that is a module": {
        "parameters": [
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
                "        remember_modules(self._modules, memory)",
                "        remember_modules([self.model], memory)",
            ),
        ],
        "buffers, non-persistent ones too": [
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
                "passing = module._non_persistent_buffers_set\n"
                "        memory.remember({k: b for k, b in module._buffers.items() if k not in passing})",
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
        ],
        "gradients": [
            Break(
                "gradients: present or None",
                f"{MATRIX}[mlp-sgd-fresh]",
                STATE,
                '    memory.add(partial(setattr, parameter, "grad", parameter.grad))',
                "    pass",
            ),
            Break(
                "gradients: values",
                "test_restore_matrix.py::test_gradients_of_parameters_that_the_optimizer_lacks",
                STATE,
                "    memory.remember(parameter.grad)",
                "    pass",
            ),
        ],
        "the train or eval flag of every module": [
            Break(
                "train and eval flags",
                f"{IN_FORWARD}[model-train-flag-fresh]",
                STATE,
                '        memory.add(partial(setattr, module, "training", module.training))',
                "        pass",
            ),
            Break(
                "train and eval flags: of a root in eval mode",
                "test_restore_matrix.py::test_a_model_in_eval_mode_is_swept_in_train_mode_and_put_back",
                STATE,
                '        memory.add(partial(setattr, module, "training", module.training))',
                "        pass",
            ),
        ],
    },
    "the optimizer": {
        "parameters that only it has": [
            Break(
                "parameters of the optimizer alone",
                "test_restore_matrix.py::test_a_parameter_that_is_not_the_models[the-optimizers-alone-fresh]",
                STATE,
                OPTIMIZER,
                "    memory.remember({**vars(optimizer), 'param_groups': ()})",
            ),
        ],
        "its state (what the sweep added is removed)": [
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
        ],
        "rates, tensors too": [
            Break("rates", f"{MATRIX}[mlp-sgd-fresh]", STATE, OPTIMIZER, but("lr")),
            Break(
                "rates that are tensors",
                "test_restore_matrix.py::test_tensor_rates[SGD]",
                STATE,
                "_writable(tensor).copy_(saved)",
                "tensor.dim() and _writable(tensor).copy_(saved)",
            ),
        ],
        "`initial_lr` and every other setting of its groups": [
            Break(
                "initial_lr",
                "test_restore_matrix.py::test_param_group_entries[initial_lr-fresh]",
                STATE,
                OPTIMIZER,
                but("initial_lr"),
            ),
            Break(
                "other entries of a group",
                "test_restore_matrix.py::test_param_group_entries[weight_decay-fresh]",
                STATE,
                OPTIMIZER,
                but("weight_decay"),
            ),
        ],
        "the flags that schedulers read": [
            Break(
                "the optimizer's flags",
                "test_restore_matrix.py::test_an_attached_scheduler[step-fresh]",
                STATE,
                OPTIMIZER,
                "    memory.remember([optimizer.state, optimizer.param_groups])",
            ),
        ],
        "an optimizer inside it": [
            Break(
                "an optimizer inside the optimizer",
                "test_optimizers.py::test_an_optimizer_that_holds_another_is_put_back",
                STATE,
                "            remember_optimizer(inner, memory)",
                "            pass",
            ),
        ],
    },
    "what is in `restore=`": {
        "a module, such as an EMA, as above": [
            Break(
                "an EMA",
                f"{KINDS}[ema-finish-device]",
                STATE,
                "        remember_modules([stateful], memory)",
                "        pass",
            ),
        ],
        "a gradient scaler, whole": [
            Break(
                "how far a scaler's step has come",
                f"{KINDS}[own-loop-fp16-scaler-interrupt-device]",
                STATE,
                "isinstance(stateful, torch.amp.GradScaler)",
                "False",
            ),
        ],
        "of anything else, such as a scheduler, all of its `state_dict`": [
            Break(
                "a scheduler in restore=",
                f"{KINDS}[scheduler-finish-device]",
                STATE,
                "        memory.add(lambda: stateful.load_state_dict(deepcopy(state)))",
                "        pass",
            ),
        ],
    },
    "random numbers": {
        "Python's": [
            Break(
                "Python's random state",
                f"{MATRIX}[mlp-sgd-fresh]",
                STATE,
                "    memory.add(partial(random.setstate, random.getstate()))",
                "    pass",
            ),
        ],
        "NumPy's global ones": [
            Break(
                "NumPy's random state",
                f"{MATRIX}[mlp-sgd-fresh]",
                STATE,
                "    memory.add(partial(np.random.set_state, np.random.get_state()))",
                "    pass",
            ),
        ],
        "torch's, on the CPU and on the model's device": [
            Break(
                "torch's random state",
                f"{MATRIX}[cnn-sgd-fresh]",
                STATE,
                "    memory.add(partial(torch.set_rng_state, torch.get_rng_state()))",
                "    pass",
            ),
        ],
    },
    "the data": {
        "the generators of the loader and its samplers": [
            Break(
                "the loader's generator",
                "test_restore_matrix.py::test_every_loader[own-generator-fresh-finish]",
                BATCHES,
                "        memory.add(put)\n        remember_samplers(self.loader, memory)",
                "        memory.add(put)",
            ),
            Break(
                "a nested sampler's generator",
                "test_restore_matrix.py::test_every_loader[nested-sampler-fresh-finish]",
                BATCHES,
                "                visit(value)",
                "                pass",
            ),
            Break(
                "a generator of NumPy's in a sampler",
                "test_restore_matrix.py::test_every_loader[homemade-sampler-fresh-finish]",
                STATE,
                '        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)',
                "        return None",
            ),
        ],
        "their counters and orders": [
            Break(
                "a sampler's counters",
                "test_restore_matrix.py::test_every_loader[homemade-sampler-fresh-finish]",
                BATCHES,
                "        memory.add(partial(_bind, owner, dict(vars(owner))))",
                "        pass",
            ),
            Break(
                "a sampler's order",
                "test_restore_matrix.py::test_every_loader[homemade-sampler-fresh-finish]",
                STATE,
                "(dict, list, set, deque, tuple)",
                "(dict, set, deque, tuple)",
            ),
        ],
        "and so the order of the batches": [
            Break(
                "the place in the data",
                "test_restore_matrix.py::test_a_snapshot_remembers_its_place_in_the_data[global-rng-3]",
                BATCHES,
                "            for _ in range(drawn):",
                "            for _ in range(0):",
            ),
            Break(
                "the place in the data: how its epoch was shuffled",
                "test_restore_matrix.py::test_a_snapshot_remembers_its_place_in_the_data[global-rng-3]",
                BATCHES,
                "            opening.put_back()",
                "            pass",
            ),
        ],
        "an iterator that you have open in a loader with persistent workers": [
            Break(
                "the user's iterator over persistent workers",
                "test_restore_matrix.py::test_worker_processes[persistent-mid-epoch]",
                BATCHES,
                "iter(_sibling(self.loader))",
                "iter(self.loader)",
            ),
        ],
    },
    "on every exit": {
        "an error": [
            Break(
                "on an exception",
                "test_restore_matrix.py::test_every_optimizer_with_every_exit[sgd-RuntimeError-criterion-1]",
                "trainable.py",
                "        yield snapshot\n    finally:",
                "        yield snapshot\n    except ZeroDivisionError:\n        pass\n    else:",
            ),
        ],
        "Ctrl-C": [
            Break(
                "on Ctrl-C",
                "test_restore_matrix.py::test_every_optimizer_with_every_exit[sgd-KeyboardInterrupt-optimizer-5]",
                "trainable.py",
                "        yield snapshot\n    finally:",
                "        yield snapshot\n    except Exception:\n        trainable.restore(snapshot)\n        raise\n"
                "    else:",
            ),
        ],
        "a second Ctrl-C, while things are put back": [
            Break(
                "on a second Ctrl-C, while things are put back",
                "test_restore_matrix.py::test_ctrl_c_while_things_are_put_back[second]",
                "trainable.py",
                "    signal.signal(signal.SIGINT, lambda number, _: held.append(number))",
                "    pass",
            ),
            Break(
                "on a second Ctrl-C, before it can be held",
                f"{SECOND}[find_lr]",
                "trainable.py",
                "except KeyboardInterrupt:  # it may",
                "except ZeroDivisionError:  # it may",
            ),
            Break(
                "on a second Ctrl-C, as a RangeTest's block ends",
                f"{SECOND}[own-loop]",
                LOOP,
                "                self._exits.__exit__(kind, error, traceback)  # what it had not come to",
                "                pass",
            ),
        ],
    },
    "the objects": {
        "the same ones: what holds a reference to them stays right": [
            Break(
                "identity of tensors",
                f"{MATRIX}[mlp-adam-warm]",
                STATE,
                "self.add(partial(_refill, value, copy(value)))",
                "self.add(partial(_refill, value, (deepcopy if 'exp_avg' in value else copy)(value)))",
            ),
            Break(
                "copies, never aliases",
                f"{MATRIX}[mlp-sgd-fresh]",
                STATE,
                "_writable(value).clone()",
                "_writable(value)",
            ),
        ],
    },
    "what is left behind": {
        "no worker process": [
            Break(
                "worker processes ended",
                "test_restore_matrix.py::test_worker_processes_with_an_exception_in_one_of_them[2-workers]",
                BATCHES,
                "            shut_down()",
                "            pass",
            ),
        ],
        "no hook": [
            Break(
                "the hooks that write the rate and count steps",
                f"{KINDS}[own-loop-finish-device]",
                LOOP,
                "            stack.enter_context(restored(self))\n"
                "            stack.callback(self._swept.register_step_pre_hook(self._before_step).remove)\n"
                "            stack.callback(self._swept.register_step_post_hook(self._after_step).remove)\n",
                "            self._swept.register_step_pre_hook(self._before_step)\n"
                "            self._swept.register_step_post_hook(self._after_step)\n"
                "            stack.enter_context(restored(self))\n",
            ),
        ],
        "no handler of a signal": [
            Break(
                "the user's own handler of Ctrl-C",
                "test_restore_matrix.py::test_ctrl_c_while_things_are_put_back_reaches_the_users_own_handler",
                "trainable.py",
                "        signal.signal(signal.SIGINT, users)",
                "        pass",
            ),
        ],
    },
}
BREAKS = [one for things in RESTORED.values() for breaks in things.values() for one in breaks]


REACH = "test_out_of_reach.py::test_"
OUT_OF_REACH: dict[str, str] = {  # and the test that shows it to be so
    "state inside a dataset object, such as a counter or a cache": f"{REACH}a_counter_in_a_dataset",
    "plain Python attributes of your modules (a tensor that must come back belongs in a buffer)": (
        f"{REACH}an_attribute_of_a_module"
    ),
    "an environment that is not in `restore=`, a file, a logger, an outside service: whatever your forward pass, your "
    "loss or your hooks do to the world": f"{REACH}an_environment",
    "a graph that autograd built before the call: its parameters have been written to since, so backward through it is "
    "an error": f"{REACH}a_graph_from_before",
}


def table() -> str:
    """README's part on what is put back, and what is out of reach."""
    rows = "".join(f"| {where} | {'; '.join(things)} |\n" for where, things in RESTORED.items())
    return f"| put back | |\n|---|---|\n{rows}"


def out_of_reach() -> str:
    """README's list of what can't be put back."""
    return "".join(f"- {thing};\n" for thing in OUT_OF_REACH)
