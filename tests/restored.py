"""All that is put back, and the breaks that prove it: docs/restore.md and ``make prove`` are made of this list.

A break is one replacement in the source, and the test that it turns red.
"""

from dataclasses import dataclass

STATE, NOTES, BATCHES = "torch/snapshot/memory.py", "torch/snapshot/notes.py", "torch/data/batches.py"
UNDOS, PLACES, TRAINING = "search/memory.py", "search/batches.py", "torch/training.py"
TRAINABLE, LOOP, HELD_OUT = "torch/trainable.py", "torch/loop.py", "torch/validation.py"
POINTS, BASELINE = "torch/points.py", "torch/baseline.py"
REACHED, OBJECTS, GENERATORS = "torch/snapshot/reach.py", "search/objects.py", "search/generators.py"
IMPORTED = "torch/snapshot/test_imported.py::test_what_an_imported_function_or_class_keeps"
KEPT, HOOKS, WHOSE = "search/kept.py", "torch/snapshot/hooks.py", "search/whose.py"
REPLACED = "torch/snapshot/test_replaced.py::test_"
REACH = "torch/test_out_of_reach.py::test_"
HELD = "torch/snapshot/test_held.py::test_what_a_module_holds_and_its_class"
PASSES = "torch/snapshot/test_reach.py::test_the_passes_that_a_wrapped_loader_has_counted_are_put_back"
STORES, FILES = "torch/snapshot/stores.py", "torch/snapshot/files.py"
REWIND, MODES = "torch/data/rewind.py", "torch/snapshot/modes.py"
FIND, INTERRUPTS, BLOCKS = "search/find.py", "search/interrupts.py", "search/restoring.py"
IN_FORWARD = "torch/snapshot/test_restore_matrix.py::test_what_a_module_changes_in_its_forward_pass"
MATRIX = "torch/snapshot/test_restore_matrix.py::test_every_model_with_every_optimizer"
OPTIMIZER = "    memory.note(vars(optimizer), objects=True)"
PARAMETERS, BUFFERS = "*[module._parameters for module in plain], ", "*[module._buffers for module in plain]"
PUT = "        self.each(_put_attributes, plain, [_attributes(module) for module in plain])"
KINDS = "torch/test_matrix.py::test_every_training_with_every_exit_and_snapshot"
STREAM = "torch/data/test_rewind.py::test_the_batches_that_were_drawn_come_again"
VALIDATION = "torch/test_conformance.py::TestTorchTrainable::test_validate[validation]"
MODE = "torch/test_exits.py::test_torchs_modes_are_put_back"
PAST = "torch/processes/past.py"
RANKS = "ranks/test_ranks.py::test_every_rank_is_put_back_and_finds_the_same"
SECOND = "torch/test_faults.py::test_a_second_ctrl_c_at_every_line_that_puts_back"


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
        f"    memory.each(lambda g, _: g.update({entry}=memory.left.pop(0)), *[optimizer.param_groups] * 2)"
    )


RESTORED: dict[str, dict[str, list[Break]]] = {
    "the model, and a criterion that is a module": {
        "parameters": [
            Break(
                "parameters of the model",
                f"{IN_FORWARD}[model-parameter-fresh]",
                STATE,
                PARAMETERS,
                "",
            ),
            Break(
                "parameters of the criterion",
                f"{IN_FORWARD}[criterion-parameter-fresh]",
                TRAINING,
                "memory.note_modules(self.modules)",
                "memory.note_modules(self.models)",
            ),
        ],
        "buffers, non-persistent ones too": [
            Break(
                "persistent buffers",
                f"{IN_FORWARD}[model-persistent-buffer-fresh]",
                STATE,
                BUFFERS,
                "*[{k: m._buffers[k] for k in m._non_persistent_buffers_set} for m in plain]",
            ),
            Break(
                "non-persistent buffers",
                f"{IN_FORWARD}[model-non-persistent-buffer-fresh]",
                STATE,
                BUFFERS,
                "*[{k: m._buffers[k] for k in m._buffers.keys() - m._non_persistent_buffers_set} for m in plain]",
            ),
            Break(
                "which tensor a buffer's name is bound to",
                f"{IN_FORWARD}[model-buffer-bound-anew-fresh]",
                STATE,
                f"{PUT}\n        self.note({PARAMETERS}{BUFFERS}, worth=worth)",
                "        for m in plain:\n"
                "            self.each(_put_attributes, [m], [[p for p in _attributes(m) if p[0] is not m._buffers]])\n"
                f"        self.note({PARAMETERS}*[list(module._buffers.values()) for module in plain])",
            ),
            Break(
                "buffers that a forward pass resizes",
                "torch/snapshot/test_reach.py::test_a_buffer_that_a_forward_pass_resizes",
                STORES,
                "            tensor.resize_(shape)  # a buffer that a forward pass has made larger",
                "            pass",
            ),
            Break(
                "expanded buffers",
                f"{IN_FORWARD}[model-expanded-buffer-fresh]",
                STORES,
                "tensor.as_strided((reach,), (1,)) if overlaps else tensor",
                "tensor",
            ),
        ],
        "their attributes, hooks and submodules, and which parameters are trained": [
            Break(
                "hooks and submodules that a forward pass adds",
                "torch/snapshot/test_reach.py::test_attributes_submodules_and_hooks_of_a_module",
                STATE,
                "            found += [(value, dict(value))]",
                "            pass",
            ),
            Break(
                "tensors that were made in inference mode",
                "torch/snapshot/test_reach.py::test_a_tensor_that_was_made_in_inference_mode",
                STATE,
                "torch.inference_mode() if tensor.is_inference() else nullcontext()",
                "nullcontext()",
            ),
            Break(
                "whether a parameter is trained",
                "torch/snapshot/test_reach.py::test_whether_a_parameter_is_trained",
                STATE,
                "            parameter.requires_grad_(requires_grad)",
                "            pass",
            ),
        ],
        "what only a loss function holds: modules, optimizers, schedulers, loaders, generators, small tensors and "
        "arrays, with the names, lists, objects and classes that hold them, and what else those objects keep, such as "
        "numbers; and the functions that its names stand for": [
            Break(
                "tensors that a class keeps",
                "torch/snapshot/test_reach.py::test_what_a_class_of_the_users_keeps[loss_fn-0]",
                KEPT,
                "        return [] if is_foreign(str(value.__module__)) else [value]",
                "        return []",
            ),
            Break(
                "tensors that only the class of an object keeps",
                "torch/snapshot/test_reach.py::test_what_the_methods_of_an_object_name_and_what_its_class_keeps[criterion]",
                OBJECTS,
                '            yield type(value), f"{place}.__class__"',
                "            pass",
            ),
            Break(
                "tensors that only a method names",
                "torch/snapshot/test_reach.py::test_what_the_methods_of_an_object_name_and_what_its_class_keeps[loop]",
                OBJECTS,
                '            yield method, f"{place}.{name}"',
                "            pass",
            ),
            Break(
                "modules that only a loss function holds",
                "torch/snapshot/test_reach.py::test_a_module_that_only_the_loss_function_holds",
                TRAINING,
                "        self.modules += new",
                "        pass",
            ),
            Break(
                "tensors that only a loss function holds",
                "torch/snapshot/test_reach.py::test_a_tensor_that_only_the_loss_function_writes_into",
                TRAINING,
                "        note_tensors(self.tensors, memory)",
                "        pass",
            ),
            Break(
                "tensors that a loss function keeps by name or in a list",
                "torch/snapshot/test_reach.py::test_tensors_that_a_function_keeps_by_name_or_in_a_list[0-loss_fn]",
                NOTES,
                "        Around(reached, self._functions if self._own else ()).remember(memory)",
                "        pass",
            ),
            Break(
                "numbers of an object that keeps tensors",
                "torch/snapshot/test_kept.py::test_what_an_object_keeps_of_tensors_and_how_many[Pool-False-a step]",
                KEPT,
                "(is_owned or whole or is_function",
                "(is_owned or is_function",
            ),
            Break(
                "objects that are replaced, and that hold tensors",
                f"{REPLACED}what_a_step_replaces_is_put_back[State-train_step]",
                KEPT,
                "            todo += attributes.values()",
                "            pass",
            ),
            Break(
                "functions that are replaced",
                f"{REPLACED}what_a_global_name_stands_for",
                KEPT,
                " or is_function or _keeps(old",
                " or _keeps(old",
            ),
            Break(
                "schedulers and loaders that are replaced",
                f"{REPLACED}what_a_global_name_stands_for",
                NOTES,
                "torch.optim.Optimizer, LRScheduler, GradScaler, DataLoader, ",
                "torch.optim.Optimizer, ",
            ),
            Break(
                "attributes of a dict",
                f"{REPLACED}what_a_step_replaces_is_put_back[Mappings-loss_fn]",
                KEPT,
                "[AttributesOf(value)] if type(value).__dictoffset__ else []",
                "[]",
            ),
            Break(
                "dicts of more than 1,000 tensors",
                f"{REPLACED}what_a_step_replaces_is_put_back[Mappings-train_step]",
                OBJECTS,
                "(MOST_OBJECTS if isinstance(value, dict) else MOST_ITEMS)",
                "MOST_ITEMS",
            ),
            Break(
                "what stands behind long lists of data",
                f"{REPLACED}what_a_step_replaces_is_put_back[Averaged-train_step]",
                REACHED,
                "(data if is_long else todo)",
                "todo",
            ),
            Break(
                "tensors of one number that stand in a list",
                f"{REPLACED}what_a_step_replaces_is_put_back[scalars-loss_fn]",
                KEPT,
                "len(before) != len(now) and getattr",
                "True or getattr",
            ),
            Break(
                "what weak references and weak keys hold",
                f"{REPLACED}what_a_step_replaces_is_put_back[Weakly-train_step]",
                WHOSE,
                '"weakref", ',
                "",
            ),
            Break(
                "what a metaclass keeps",
                f"{REPLACED}what_a_step_replaces_is_put_back[by_metaclass-loss_fn]",
                OBJECTS,
                "in (*kind.__bases__, type(kind)) if",
                "in kind.__bases__ if",
            ),
            Break(
                "what a cached static method gives",
                f"{REPLACED}what_a_step_replaces_is_put_back[by_metaclass-train_step]",
                OBJECTS,
                "(FunctionType, type, CACHED)",
                "(FunctionType, type)",
            ),
            Break(
                "the order of a dict of tensors",
                f"{REPLACED}what_a_step_replaces_is_put_back[Recent-train_step]",
                KEPT,
                "    refill(holder, {name: holder[name] for name in before})",
                "    pass",
            ),
            Break(
                "a list of numbers with attributes that are tensors",
                f"{REPLACED}what_a_step_replaces_is_put_back[Rows-train_step]",
                KEPT,
                "        self.__owner = owner",
                "        self.__owner = None",
            ),
            Break(
                "a count that is met before the object that has it beside a tensor",
                f"{REPLACED}what_a_step_replaces_is_put_back[owned-train_step]",
                KEPT,
                "    return sorted(holders, key=is_container)",
                "    return list(holders)",
            ),
            Break(
                "lists of numbers beside its tensors, such as rewards",
                "torch/snapshot/test_kept.py::test_what_an_object_keeps_of_tensors_and_how_many[Rollout-False-a step]",
                KEPT,
                "same or not (is_owned or any(",
                "same or not (False or any(",
            ),
            Break(
                "a memory of thousands of steps",
                "torch/snapshot/test_kept.py::test_what_an_object_keeps_of_tensors_and_how_many[Long-False-a step]",
                KEPT,
                "_MOST_KEPT = 100_000",
                "_MOST_KEPT = 1_000",
            ),
            Break(
                "what an object keeps in slots",
                "torch/snapshot/test_kept.py::test_what_an_object_keeps_of_tensors_and_how_many[Slotted-False-a step]",
                KEPT,
                "        return slots_of(holder) | ",
                "        return {} | ",
            ),
            Break(
                "arrays of an object",
                "torch/snapshot/test_kept.py::test_what_an_object_keeps_of_tensors_and_how_many[Worth-False-a loop]",
                NOTES,
                "            memory.note(*filter(is_small, self._reached.arrays))",
                "            pass",
            ),
            Break(
                "nets that are replaced",
                f"{REPLACED}what_a_global_name_stands_for",
                NOTES,
                "_KEPT = (nn.Module, ",
                "_KEPT = (",
            ),
            Break(
                "a queue: not filled twice a step",
                "torch/snapshot/test_reach.py::test_a_queue_is_filled_once_a_step",
                BASELINE,
                ", [id(tensor) for tensor in reached.tensors])",
                ",)",
            ),
            Break(
                "what a loss function keeps in objects and containers: once a step",
                "search/test_effects.py::test_what_a_call_changes_is_undone[None-an attribute]",
                "search/effects.py",
                "put_kept(holder, kept, is_kept=None)",
                "pass",
            ),
            Break(
                "what a loss function keeps by a name: once a step",
                "search/test_effects.py::test_what_a_call_changes_is_undone[None-a global]",
                "search/effects.py",
                "            self._names.bind(names)",
                "            pass",
            ),
            Break(
                "generators that only a loss function holds",
                "torch/snapshot/test_reach.py::test_what_the_object_of_a_bound_method_holds",
                TRAINING,
                "        memory.note(*self.generators)",
                "        pass",
            ),
            Break(
                "a teacher: not moved twice a step",
                "torch/snapshot/test_reach.py::test_a_teacher_that_the_loss_function_moves_is_moved_once_a_step",
                BASELINE,
                "            if now[0] == written:",
                "            if True:",
            ),
        ],
        "all this in other files of your own, too, but in no installed library; attributes of functions; what a "
        "`functools.cache`, a `threading.local` or a context variable holds; numbers and small arrays that processes "
        "share": [
            Break(
                "what stands for a thread",
                f"{REPLACED}what_a_step_replaces_is_put_back[Elsewhere-train_step]",
                WHOSE,
                "kind in (SimpleNamespace, threading.local)",
                "kind is SimpleNamespace",
            ),
            Break(
                "what stands for a context",
                f"{REPLACED}what_a_step_replaces_is_put_back[Elsewhere-loss_fn]",
                OBJECTS,
                "        function.set(value)",
                "        pass",
            ),
            Break(
                "numbers that processes share and a step changes",
                f"{REPLACED}what_a_step_replaces_is_put_back[Elsewhere-loop]",
                OBJECTS,
                "    elif type(value).__module__ == SHARED:",
                "    elif False:",
            ),
            Break(
                "what an imported class keeps",
                f"{IMPORTED}[a class-loss_fn]",
                OBJECTS,
                " and not (isinstance(home, str) and is_users(home))",
                "",
            ),
            Break(
                "what a function keeps that is an attribute of an imported module",
                f"{IMPORTED}[a name of a module-loss_fn]",
                OBJECTS,
                "    return kept if len(kept) == len(found) else kept | _in_modules(found, code)",
                "    return kept",
            ),
            Break(
                "what a module keeps that a function imports by itself",
                "torch/snapshot/test_imported.py::test_what_a_function_imports_by_itself",
                OBJECTS,
                "    found |= {name: sys.modules[name] for name in imported",
                "    found |= {name: sys.modules[name] for name in ()",
            ),
            Break(
                "attributes of a function",
                f"{IMPORTED}[attributes of a function-loss_fn]",
                OBJECTS,
                ", *vars(function).items())",
                ",)",
            ),
            Break(
                "attributes of a function that are replaced, and numbers beside them",
                f"{REPLACED}what_a_step_replaces_is_put_back[counted-train_step]",
                KEPT,
                "[value, AttributesOf(value)]",
                "[value]",
            ),
            Break(
                "attributes of a function that a loop calls",
                "torch/snapshot/test_imported.py::test_attributes_of_a_function_that_a_loop_names",
                REACHED,
                "    owned.holders += [each for each in found.holders if isinstance(each, AttributesOf)]",
                "",
            ),
            Break(
                "what a function keeps that has taken the name of a library's",
                f"{IMPORTED}[a wrapper of a library's function-loss_fn]",
                WHOSE,
                " and not (isinstance(written, str) and is_users(written))",
                "",
            ),
            Break(
                "what a cache with a bound takes",
                f"{REACH}what_a_cache_first_takes_in_a_search[0-8]",
                KEPT,
                "    cache.cache_clear()",
                "    pass",
            ),
            Break(
                "what a cache holds",
                f"{IMPORTED}[caches-loss_fn]",
                OBJECTS,
                "each in gc.get_referents(function) if",
                "each in () if",
            ),
        ],
        "what hooks of modules, parameters and optimizers hold, and hooks of all of them, as what a loss function "
        "holds; what parameters have as attributes": [
            Break(
                "tensors that a hook writes into",
                "torch/snapshot/test_hooks.py::test_what_hooks_hold[running_mean-find_lr]",
                TRAINING,
                "self.include(replace(reached, modules=[] if own else reached.modules, loaders=[]))",
                "pass",
            ),
            Break(
                "what a hook of all modules replaces",
                "torch/snapshot/test_hooks.py::test_what_hooks_of_all_modules_and_optimizers_hold",
                HOOKS,
                "            self.functions += filter(callable, hooks.values())",
                "            pass",
            ),
            Break(
                "tensors that a hook replaces",
                "torch/snapshot/test_hooks.py::test_what_hooks_hold[centre-loop]",
                TRAINING,
                "                    self.watched.append(Watched(*called, own=own))",
                "                    pass",
            ),
            Break(
                "what a parameter has as an attribute",
                "torch/snapshot/test_hooks.py::test_what_hooks_hold[attribute-find_lr]",
                STATE,
                "*filter(None, map(vars, parameters)), ",
                "",
            ),
        ],
        "objects of your own that modules hold, with their numbers, and functions; what the classes of "
        "your own modules keep and name": [
            Break(
                "a codebook in an object that a module holds",
                f"{HELD}[codes-criterion]",
                HOOKS,
                "                self.objects.append(each)",
                "                pass",
            ),
            Break(
                "a mean in a function that a module holds",
                f"{HELD}[a function in a list-criterion]",
                HOOKS,
                "                self.functions.append(each)",
                "                pass",
            ),
            Break(
                "numbers of an object that a module holds",
                f"{HELD}[numbers-criterion]",
                KEPT,
                "old is not new and (is_owned or ",
                "old is not new and (",
            ),
            Break(
                "the net of an object that a module holds",
                "torch/snapshot/test_hooks.py::test_what_objects_of_a_module_hold[list-find_lr]",
                TRAINING,
                "                    self.restore += reached.modules if own else []",
                "                    self.restore += []",
            ),
            Break(
                "what the class of a module keeps",
                f"{HELD}[the class-criterion]",
                HOOKS,
                "            called.objects.append(kind)",
                "            pass",
            ),
            Break(
                "what the class of an optimizer keeps",
                "torch/snapshot/test_held.py::test_what_the_class_of_an_optimizer_keeps[criterion]",
                HOOKS,
                "                self.objects.append(type(optimizer))",
                "                pass",
            ),
        ],
        "what the code around a `RangeTest` names: modules, optimizers, generators, trained tensors, and the objects "
        "that hold tensors, small arrays, modules or optimizers, with their numbers; tensors and small arrays that "
        "functions keep which it names": [
            Break(
                "a mean that a function keeps by name",
                "torch/snapshot/test_kept.py::test_what_a_function_that_a_loop_calls_keeps[by_name-False]",
                KEPT,
                " or isinstance(value, BOXES) else []",
                " else []",
            ),
            Break(
                "a list that a function keeps",
                "torch/snapshot/test_kept.py::test_what_a_function_that_a_loop_calls_keeps[in_list-False]",
                REACHED,
                ", *_kept_by_functions(functions, set(map(id, names.values())))",
                "",
            ),
            Break(
                "what a loop holds beside what its test was given",
                "torch/snapshot/test_reach.py::test_what_a_loop_holds_beside_what_its_test_was_given[False-SimpleNamespace]",
                LOOP,
                "        training.include(reached)",
                "        pass",
            ),
            Break(
                "a pool that a loop fills",
                "torch/snapshot/test_kept.py::test_what_an_object_keeps_of_tensors_and_how_many[Pool-False-a loop]",
                LOOP,
                "        training.watched += [Around(reached), ",
                "        training.watched += [",
            ),
            Break(
                "a ring that a loop writes into",
                "torch/snapshot/test_kept.py::test_what_an_object_keeps_of_tensors_and_how_many[Ring-False-a loop]",
                REACHED,
                "(_can_change, (*tensors, *owned.tensors))",
                "(_can_change, tensors)",
            ),
        ],
        "gradients": [
            Break(
                "gradients: present or None",
                f"{MATRIX}[mlp-sgd-fresh]",
                STATE,
                "        self.each(_set_gradient, new.values(), gradients)",
                "",
            ),
            Break(
                "gradients of buffers",
                "torch/snapshot/test_restore_matrix.py::test_the_gradient_of_a_buffer_that_takes_part_in_the_loss",
                STATE,
                "self.note_gradients(leaves, worth)",
                "self.note_gradients(parameters, worth)",
            ),
            Break(
                "gradients: values",
                "torch/snapshot/test_restore_matrix.py::test_gradients_of_parameters_that_the_optimizer_lacks",
                STATE,
                "        self.note(*gradients, worth=worth)",
                "        pass",
            ),
        ],
        "the train or eval flag of every module": [
            Break(
                "train and eval flags",
                f"{IN_FORWARD}[model-train-flag-fresh]",
                STATE,
                "            own.clear()\n",
                "            names = names | {name: own[name] for name in own if name == 'training'}\n"
                "            own.clear()\n",
            ),
            Break(
                "train and eval flags: of a root in eval mode",
                "torch/snapshot/test_restore_matrix.py::test_a_model_in_eval_mode_is_swept_in_train_mode_and_put_back",
                STATE,
                "            own.clear()\n",
                "            names = names | {name: own[name] for name in own if name == 'training'}\n"
                "            own.clear()\n",
            ),
        ],
    },
    "the optimizer": {
        "parameters that only it has": [
            Break(
                "parameters of the optimizer alone",
                "t"
                "orch/snapshot/test_restore_matrix.py::test_a_parameter_that_is_not_the_models[the-optimizers-alone-fresh]",
                NOTES,
                OPTIMIZER,
                "    memory.note({**vars(optimizer), 'param_groups': ()}, objects=True)",
            ),
        ],
        "objects that it holds": [
            Break(
                "objects in an optimizer",
                "torch/snapshot/test_reach.py::test_an_object_in_an_optimizer",
                NOTES,
                "    memory.note(vars(optimizer), objects=True)",
                "    memory.note(vars(optimizer))",
            ),
        ],
        "its state (what the sweep added is removed)": [
            Break(
                "optimizer state: values",
                f"{MATRIX}[mlp-adam-warm]",
                NOTES,
                OPTIMIZER,
                "    memory.note({**vars(optimizer), 'state': ()}, objects=True)",
            ),
            Break(
                "optimizer state: what was created lazily",
                f"{MATRIX}[mlp-adam-fresh]",
                OBJECTS,
                "    target.clear()\n",
                "    if not isinstance(target, dict):\n        target.clear()\n",
            ),
        ],
        "rates, tensors too": [
            Break("rates", f"{MATRIX}[mlp-sgd-fresh]", NOTES, OPTIMIZER, but("lr")),
            Break(
                "rates that are tensors",
                "torch/snapshot/test_restore_matrix.py::test_tensor_rates[SGD]",
                STATE,
                "noted[id(value)] = value",
                "noted[id(value)] = value if value.dim() else value.clone()",
            ),
        ],
        "`initial_lr` and every other setting of its groups": [
            Break(
                "initial_lr",
                "torch/snapshot/test_restore_matrix.py::test_param_group_entries[initial_lr-fresh]",
                NOTES,
                OPTIMIZER,
                but("initial_lr"),
            ),
            Break(
                "other entries of a group",
                "torch/snapshot/test_restore_matrix.py::test_param_group_entries[weight_decay-fresh]",
                NOTES,
                OPTIMIZER,
                but("weight_decay"),
            ),
        ],
        "the flags that schedulers read": [
            Break(
                "the optimizer's flags",
                "torch/snapshot/test_restore_matrix.py::test_an_attached_scheduler[step-fresh]",
                NOTES,
                OPTIMIZER,
                "    memory.note(optimizer.state, optimizer.param_groups)",
            ),
        ],
        "an optimizer inside it": [
            Break(
                "an optimizer inside the optimizer",
                "torch/test_optimizers.py::test_an_optimizer_that_holds_another_is_put_back",
                NOTES,
                "            note_optimizer(inner, memory)",
                "            pass",
            ),
        ],
        "what a wrapper around it knows, and the batches that Accelerate has counted": [
            Break(
                "what a wrapper around the optimizer knows",
                "torch/snapshot/test_reach.py::test_what_a_wrapper_around_an_optimizer_knows",
                TRAINING,
                "memory.note(*self.wrappers, objects=True)",
                "pass",
            ),
            Break(
                "the batches that Accelerate has counted",
                "torch/snapshot/test_reach.py::test_the_batches_that_an_accelerator_has_counted",
                REACHED,
                "            attached.append(StepsCounted(each))",
                "            pass",
            ),
        ],
    },
    "what is in `restore=`": {
        "a module, such as an EMA, as above": [
            Break(
                "an EMA",
                "torch/snapshot/test_hooks.py::test_what_hooks_hold[an_object_with_parts-find_lr]",
                NOTES,
                "        memory.note_modules([stateful])",
                "        pass",
            ),
        ],
        "a gradient scaler, whole": [
            Break(
                "how far a scaler's step has come",
                f"{KINDS}[own-loop-fp16-scaler-interrupt-device]",
                NOTES,
                "isinstance(stateful, GradScaler)",
                "False",
            ),
            Break(
                "the scaler that find_lr is given",
                "torch/snapshot/test_reach.py::test_the_scaler_of_a_wrapper_around_the_optimizer",
                TRAINABLE,
                "        training.restore += taker.remembered()",
                "        pass",
            ),
        ],
        "of anything else, such as a scheduler, all of its `state_dict`": [
            Break(
                "a scheduler in restore=",
                "torch/snapshot/test_statefuls.py::test_a_search_at_any_step_neither_advances_a_scheduler_nor_makes_it_forget"
                "[SequentialLR-0-stepping_in_the_loss]",
                STATE,
                "    load(deepcopy(state))",
                "    pass",
            ),
        ],
    },
    "random numbers": {
        "Python's": [
            Break(
                "Python's random state",
                f"{MATRIX}[mlp-sgd-fresh]",
                UNDOS,
                '    memory.add(partial(random.setstate, random.getstate()), Phase.RANDOM, "Python\'s random state")',
                "    pass",
            ),
        ],
        "NumPy's global ones": [
            Break(
                "NumPy's random state",
                f"{MATRIX}[mlp-sgd-fresh]",
                UNDOS,
                '    memory.add(partial(np.random.set_state, state), Phase.RANDOM, "NumPy\'s random state")',
                "    pass",
            ),
        ],
        "torch's, on the CPU and on the model's device": [
            Break(
                "torch's random state",
                f"{MATRIX}[cnn-sgd-fresh]",
                NOTES,
                "    memory.add(partial(torch.set_rng_state, torch.get_rng_state()), Phase.RANDOM, "
                '"torch\'s random state")',
                "    pass",
            ),
        ],
    },
    "torch's modes": {
        "the grad mode": [
            Break(
                "the grad mode",
                f"{MODE}[grad mode-find_lr]",
                MODES,
                "    (torch.is_grad_enabled, torch.set_grad_enabled),\n",
                "",
            ),
        ],
        "autocast, and what it has cached": [
            Break(
                "whether autocast is on",
                f"{MODE}[autocast-own-loop]",
                MODES,
                "        memory.add(partial(torch.set_autocast_enabled, kind, enabled)",
                "        memory.add(bool",
            ),
            Break(
                "autocast's open blocks",
                f"{MODE}[nested autocast-find_lr]",
                MODES,
                "        torch.autocast_decrement_nesting()\n    torch",
                "        pass\n    torch",
            ),
            Break(
                "the weights that autocast has cached",
                "torch/test_exits.py::test_weights_that_autocast_has_cached_are_not_the_searchs",
                MODES,
                "    torch.clear_autocast_cache()",
                "    pass",
            ),
        ],
        "the detection of anomalies; deterministic algorithms; cuDNN's flags; the precision of products; the default "
        "type": [
            Break(
                "whether anomalies are detected",
                f"{MODE}[anomalies-find_lr]",
                MODES,
                "    (torch.is_anomaly_enabled, lambda on: ",
                "    (torch.is_anomaly_enabled, lambda on: None and ",
            ),
            Break(
                "whether algorithms are deterministic",
                f"{MODE}[determinism-find_lr]",
                MODES,
                "    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),\n",
                "",
            ),
            Break(
                "cuDNN's flags",
                f"{MODE}[cudnn-own-loop]",
                MODES,
                '"benchmark", ',
                "",
            ),
            Break(
                "the precision of products",
                f"{MODE}[precision-find_lr]",
                MODES,
                " if before else None),",
                " if not before else None),",
            ),
            Break(
                "the default type",
                f"{MODE}[default type-find_lr]",
                MODES,
                "    (torch.get_default_dtype, torch.set_default_dtype),\n",
                "",
            ),
        ],
        "the stance of `torch.compile`": [
            Break(
                "the stance of torch.compile",
                f"{MODE}[stance-find_lr]",
                MODES,
                "        dynamo._set_stance(stance or dynamo.DynamoStance())",
                "        pass",
            ),
        ],
    },
    "the data": {
        "the generators of the loader and its samplers": [
            Break(
                "the loader's generator",
                "torch/snapshot/test_restore_matrix.py::test_every_loader_with_every_exit"
                "[nested-sampler-RuntimeError-criterion-0]",
                PLACES,
                "        if not isinstance(self.loader, Remembers):\n            self.remember_loader(memory)",
                "        pass",
            ),
            Break(
                "a generator of NumPy's in a sampler",
                "torch/snapshot/test_restore_matrix.py::test_every_loader[homemade-sampler-fresh-finish]",
                UNDOS,
                "        return partial(_put_bits, value.bit_generator, *_bits_of(value.bit_generator)), "
                '"a NumPy Generator"',
                "        return None",
            ),
        ],
        "those in a collate function, a dataset or its transforms": [
            Break(
                "a generator in a collate function",
                "torch/snapshot/test_reach.py::test_a_generator_in_a_collate_function[numpy]",
                BATCHES,
                "        memory.note(*self._generators)",
                "        pass",
            ),
        ],
        "those that their code names, as a global or as an attribute of a class or a module": [
            Break(
                "a generator that code of a dataset names",
                "torch/snapshot/test_reach.py::test_a_generator_that_code_of_a_dataset_names[static-method]",
                GENERATORS,
                " if code else found",
                " if False else found",
            ),
            Break(
                "a generator that a model's code names",
                "torch/snapshot/test_reach.py::test_a_generator_that_code_of_a_training_names[find_lr-model-holds-the-method]",
                STATE,
                "            self.note(*generators_named(code))",
                "            pass",
            ),
            Break(
                "a generator that an optimizer's code names",
                "torch/snapshot/test_reach.py::test_a_generator_that_code_of_an_inner_optimizer_names[find_lr]",
                NOTES,
                "        memory.note(*generators_named([type(optimizer)]))",
                "        pass",
            ),
        ],
        "the counters, orders and weights of all these": [
            Break(
                "a count that workers share",
                "torch/snapshot/test_reach.py::test_a_count_that_workers_share_is_put_back[number-2]",
                GENERATORS,
                "            holders += shared_bytes(value)",
                "            pass",
            ),
            Break(
                "the passes that a loader has counted",
                "torch/snapshot/test_reach.py::test_the_passes_that_a_wrapped_loader_has_counted_are_put_back[0]",
                BATCHES,
                "    memory.each(refill, attributes, map(dict, attributes))",
                "    pass",
            ),
            Break(
                "an order that a dataset shuffles in place",
                "torch/snapshot/test_reach.py::test_an_order_that_a_dataset_shuffles_in_place_is_put_back[array-alone]",
                OBJECTS,
                "        container[...] = items\n",
                "",
            ),
            Break(
                "an order that a nested sampler turns in place",
                "torch/snapshot/test_reach.py::test_an_order_that_a_nested_sampler_turns_in_place_is_put_back[tensor]",
                BATCHES,
                "                owners.append(value)",
                "                pass",
            ),
            Break(
                "the weights that a sampler draws by",
                "torch/snapshot/test_reach.py::test_weights_that_a_sampler_lowers_in_place_are_put_back[tensor]",
                BATCHES,
                "bytes_of(array) <= SMALL_BYTES or ",
                "",
            ),
            Break(
                "a sampler's order",
                "torch/snapshot/test_restore_matrix.py::test_every_loader[homemade-sampler-fresh-finish]",
                STATE,
                "(list, set, deque)",
                "(set, deque)",
            ),
        ],
        "a loader, or a sampler, that only a loss function, a step or the code around a `RangeTest` names, as the "
        "training's": [
            Break(
                "a second loader that a step draws from",
                "torch/snapshot/test_reach.py::test_a_second_loader_that_a_step_draws_from[train_step-sampler-alone]",
                TRAINING,
                "(*self.loaders, *places)",
                "places",
            ),
            Break(
                "the generator of a loader that the loader's code names",
                "torch/snapshot/test_reach.py::test_a_loader_that_the_code_of_the_loader_names",
                GENERATORS,
                "    if is_plain(value) or str(type(value).__module__).startswith(modules):\n        return [type",
                "    if is_plain(value):\n        return [type",
            ),
        ],
        "and so the order of the batches": [
            Break(
                "the place in the data",
                "torch/snapshot/test_restore_matrix.py::test_a_snapshot_remembers_its_place_in_the_data[global-rng-3]",
                PLACES,
                "                    for _ in range(drawn):",
                "                    for _ in range(0):",
            ),
            Break(
                "the place in the data: how its epoch was shuffled",
                "torch/snapshot/test_restore_matrix.py::test_a_snapshot_remembers_its_place_in_the_data[global-rng-3]",
                PLACES,
                "                    opening.put_back()",
                "                    pass",
            ),
        ],
        "an iterator that you have open in a loader with persistent workers": [
            Break(
                "the user's iterator over persistent workers",
                "torch/snapshot/test_restore_matrix.py::test_worker_processes[persistent-mid-epoch]",
                PLACES,
                "        source = self.opened(self._source)",
                "        source = self._source",
            ),
        ],
        "the batches of a stream that is `rewindable`, and what it draws from the global generators": [
            Break(
                "what a stream draws",
                "torch/snapshot/test_reach.py::test_what_a_stream_draws_from_the_global_generators",
                REWIND,
                "                self._repeat(draws)",
                "                pass",
            ),
            Break(
                "the place in a stream",
                f"{STREAM}[sweep-0]",
                REWIND,
                "            self._at = mark",
                "            pass",
            ),
            Break(
                "the place in a stream: of a RangeTest's second loop",
                f"{STREAM}[loop-0]",
                POINTS,
                "        if id(loader) not in self._loaders:",
                "        if True:",
            ),
            Break(
                "a stream's batches that the training changes in place",
                f"{STREAM}[batches-changed-in-place-0]",
                REWIND,
                "        self._kept[-1] = (copied(batch), *self._kept[-1][1:])",
                "        pass",
            ),
            Break(
                "a stream's batches that come a third time",
                f"{STREAM}[twice-0]",
                REWIND,
                "min([self._at, *self._marks])",
                "self._at",
            ),
        ],
        "the state that Accelerate's loaders share": [
            Break(
                "a wrapped loader's passes, in the middle of one",
                f"{PASSES}[5]",
                BATCHES,
                "        note_samplers(self._sibling[1], memory)",
                "        pass",
            ),
        ],
        "the `state_dict` of a loader that has one": [
            Break(
                "the state dict of a loader",
                "torch/data/test_rewind.py::test_a_loader_with_a_state_dict_is_put_back_by_it[7-sweep-Elsewhere]",
                BATCHES,
                "            note_stateful(self.loader, memory)",
                "            pass",
            ),
        ],
        "the validation loader's place and draws": [
            Break(
                "a validation loader's generator",
                VALIDATION,
                PLACES,
                "            before.put_back()",
                "            pass",
            ),
            Break(
                "the random states, of what draws in eval mode",
                VALIDATION,
                HELD_OUT,
                "            states.put_back()",
                "            pass",
            ),
        ],
    },
    "on every exit": {
        "an error": [
            Break(
                "on an exception",
                "t"
                "orch/snapshot/test_restore_matrix.py::test_every_optimizer_with_every_exit[sgd-RuntimeError-criterion-1]",
                BLOCKS,
                "        self._block.__exit__(None, None, None)",
                "        if _[0] and issubclass(_[0], Exception):\n"
                "            restored.left = self._block\n"
                "            return\n"
                "        self._block.__exit__(None, None, None)",
            ),
        ],
        "Ctrl-C": [
            Break(
                "on Ctrl-C",
                "t"
                "orch/snapshot/test_restore_matrix.py::test_every_optimizer_with_every_exit[sgd-KeyboardInterrupt-optimizer-5]",
                BLOCKS,
                "        self._block.__exit__(None, None, None)",
                "        if _[0] is KeyboardInterrupt:\n"
                "            restored.left = self._block\n"
                "            return\n"
                "        self._block.__exit__(None, None, None)",
            ),
        ],
        "a second Ctrl-C, while things are put back": [
            Break(
                "on a second Ctrl-C, while things are put back",
                "torch/snapshot/test_restore_matrix.py::test_ctrl_c_while_things_are_put_back[second]",
                INTERRUPTS,
                "            waiting.append(number)",
                "            self._handlers[number](number, frame)",
            ),
            Break(
                "on a second Ctrl-C, before it can be held",
                f"{SECOND}[find_lr]",
                FIND,
                "@signals_wait\ndef found(",
                "def found(",
            ),
            Break(
                "on a second Ctrl-C, as a RangeTest's block ends",
                f"{SECOND}[own-loop]",
                LOOP,
                "    @signals_wait\n    def __exit__(",
                "    def __exit__(",
            ),
        ],
    },
    "the objects": {
        "the same ones, so every reference to them stays valid": [
            Break(
                "identity of tensors",
                f"{MATRIX}[mlp-adam-warm]",
                STATE,
                "contents.append(items := dict(value))",
                "contents.append(items := (deepcopy if 'exp_avg' in value else dict)(value))",
            ),
            Break(
                "copies, never aliases",
                f"{MATRIX}[mlp-sgd-fresh]",
                STORES,
                "list(map(store.keep, once))",
                "list(map(list, once))",
            ),
        ],
    },
    "from copies": {
        "on the device": [
            Break(
                "copies on the device",
                f"{KINDS}[plain-finish-device]",
                STORES,
                "list(_clones(tensors))",
                "tensors",
            ),
        ],
        "in the host's memory": [
            Break(
                "copies in the host's memory",
                f"{KINDS}[plain-finish-cpu]",
                STORES,
                'else tensor.to("cpu", copy=True)',
                'else tensor.to("cpu")',
            ),
        ],
        "on disk": [
            Break(
                "copies on disk",
                f"{KINDS}[plain-finish-disk]",
                FILES,
                "            self._fill(_bare(tensor), place.start)",
                "            pass",
            ),
            Break(
                "copies on disk: after a step that ran out of memory",
                "torch/test_exits.py::test_putting_back_takes_no_memory[disk]",
                FILES,
                "        self._file.seek(start)",
                "        self._file.seek(start), torch.empty(1 << 23)",
            ),
            Break(
                "copies on disk: of what a state dict holds",
                "torch/snapshot/test_snapshots.py::test_what_only_a_state_dict_tells_of[disk]",
                STORES,
                "self._store.read(self._copy).clone()",
                "self._store.read(self._copy).clone().zero_()",
            ),
        ],
    },
    "what is left behind": {
        "no worker process": [
            Break(
                "worker processes ended",
                "t"
                "orch/snapshot/test_restore_matrix.py::test_worker_processes_with_an_exception_in_one_of_them[2-workers]",
                BATCHES,
                "        shut_down()",
                "        pass",
            ),
        ],
        "no file": [
            Break(
                "nothing left on disk",
                "torch/snapshot/test_snapshots.py::test_every_store_around_a_loop_of_ones_own[disk-None]",
                BLOCKS,
                "isinstance(self._snapshot, HasClose)",
                "False",
            ),
            Break(
                "nothing left on disk: on a second Ctrl-C",
                f"{SECOND}[find_lr]",
                INTERRUPTS,
                "            waiting.append(number)",
                "            self._handlers[number](number, frame)",
            ),
            Break(
                "nothing left on disk: of a snapshot that fails half way",
                "torch/snapshot/test_snapshots.py::test_a_snapshot_that_fails_half_way_leaves_nothing",
                TRAINING,
                "            memory.close()  # what is only half remembered will not be put back\n            raise",
                "            raise",
            ),
            Break(
                "nothing left on disk: by a process that was killed",
                "torch/snapshot/test_snapshots.py::test_the_file_has_no_name_and_so_nothing_is_left_by_a_process_that_is"
                "_killed",
                FILES,
                "tempfile.TemporaryFile(buffering=0)",
                "tempfile.NamedTemporaryFile(buffering=0, delete=False)",
            ),
        ],
        "no graph of `torch.compile`": [
            Break(
                "no graph added to compiled code",
                "torch/test_compiled.py::test_a_search_adds_no_graph_to_compiled_code[optimizer-rmsprop]",
                "torch/stepping.py",
                "self._step_without_new_graphs if self._may_compile else self._step",
                "self._step",
            ),
        ],
        "no hook": [
            Break(
                "hooks of all modules that a step registers",
                "torch/snapshot/test_hooks.py::"
                "test_a_hook_of_all_modules_or_optimizers_that_a_step_registers_is_taken_away",
                MODES,
                "    *((hooks.copy, partial(refill, hooks)) for hooks in GLOBAL),\n",
                "",
            ),
            Break(
                "the hooks that write the rate",
                f"{KINDS}[own-loop-finish-device]",
                LOOP,
                "        memory = exits.enter_context(Unwritten(restored(self)))\n",
                "        for optimizer in training.swept:  # so early, they are in the snapshot, too\n"
                "            optimizer.register_step_pre_hook(self._before_step)\n"
                "        memory = exits.enter_context(Unwritten(restored(self)))\n",
            ),
        ],
        "no handler of a signal": [
            Break(
                "the user's own handler of Ctrl-C",
                "t"
                "orch/snapshot/test_restore_matrix.py::test_ctrl_c_while_things_are_put_back_reaches_the_users_own_handler",
                INTERRUPTS,
                "                signal.signal(number, self._formers[number])",
                "                pass",
            ),
            Break(
                "the hook for exceptions that Python drops",
                "torch/test_interrupts.py::"
                "test_where_python_drops_what_is_raised_it_waits_for_the_next_step[find_lr-collected]",
                INTERRUPTS,
                "self._hook if is_own else sys.unraisablehook",
                "sys.unraisablehook",
            ),
        ],
    },
    "several processes": {
        "DistributedDataParallel, and the buckets of its reducer": [
            Break(
                "whether a wrapper averages gradients",
                f"{RANKS}[2 exits('ddp', ['sgd'], before=(3,))]",
                PAST,
                "                setattr(module, name, value)\n",
                "                pass\n",
            ),
            Break(
                "hooks that average a wrapper's gradients",
                f"{RANKS}[2 exits('ddp', ['sgd'], before=(3,))]",
                PAST,
                "            handle.remove()\n",
                "            pass\n",
            ),
            Break(
                "a reducer that looks for unused parameters",
                f"{RANKS}[2 ways]",
                PAST,
                "                _make_reducer(module)\n",
                "                pass\n",
            ),
        ],
        "the shards of `fully_shard`": [
            Break(
                "layers that are gathered when the search begins",
                f"{RANKS}[2 sharded_ways]",
                "torch/processes/group.py",
                "            self._stand_ins.reshard()  # what a snapshot notes\n",
                "",
            ),
            Break(
                "hooks that watch a sharded model",
                f"{RANKS}[2 exits('fsdp', ['adamw-foreach'], before=(3,))]",
                "torch/processes/sharded.py",
                "            self._handles.pop().remove()\n",
                "            self._handles.pop()\n",
            ),
        ],
    },
}
BREAKS = [one for things in RESTORED.values() for breaks in things.values() for one in breaks]


OUT_OF_REACH: dict[str, str] = {  # and the test that shows it to be so
    "tensors, arrays and iterators that a dataset changes (its numbers, lists, small dicts and sets, and its arrays of "
    "whole numbers, such as an order, are put back)": f"{REACH}an_array_in_a_dataset",
    "numbers, and lists and dicts of numbers, that a loss function, a step of your own, a hook or a function that the "
    "code around a `RangeTest` names keeps by itself, or in an object without tensors, arrays, modules and optimizers "
    "(a warning names one that has changed, as it does flags and texts)": f"{REACH}a_number_that_a_loss_function_keeps",
    "numbers in a `bytearray`, an `array.array` or an `mmap`": f"{REACH}numbers_in_a_buffer",
    "tensors in a list of more than 1,000 (a warning says how many have changed), and what objects in it keep": (
        f"{REACH}tensors_in_a_long_list"
    ),
    "arrays of more than 1 MiB that a function or an object of yours writes into, such as a replay buffer, and tensors "
    "of that size that are not trained (a warning names these, and an array of which more than a few numbers have "
    "changed)": f"{REACH}a_large_array_or_tensor",
    "what code in another file of yours keeps, more than eight calls away from a function of the training": (
        "torch/snapshot/test_imported.py::test_code_of_a_large_package_is_looked_into_for_eight_calls"
    ),
    "what a `queue.Queue` holds, and a DataFrame or a Series of pandas": f"{REACH}what_pandas_or_a_queue_holds",
    "what a `functools.lru_cache` with a `maxsize` takes during a search, if it was not empty (a warning names it; "
    "what it held before is put back)": f"{REACH}what_a_cache_first_takes_in_a_search",
    "numbers, and tensors that are not trained, that the code around a `RangeTest` names itself, or keeps in a list (a "
    "warning names one that a function of yours uses, too)": (
        "torch/snapshot/test_kept.py::test_what_a_loop_writes_down_by_itself_stays"
    ),
    "an open iterator that a step or a loop of your own draws from by itself, unless it is `rewindable` (a warning "
    "names it)": "torch/snapshot/test_kept.py::test_an_iterator_that_is_drawn_from_is_named",
    "an iterator that a sampler keeps open from one pass to the next (a warning names it)": (
        f"{REACH}a_stream_of_a_sampler"
    ),
    "an iterator that an `IterableDataset` or a loader of your own keeps open from one pass to the next (a warning "
    "names it, unless it is a file)": f"{REACH}a_stream_of_a_dataset",
    "batches that your loss or your model changes in place, if the loader gives the same tensors again": (
        f"{REACH}a_batch_that_is_written_into"
    ),
    "an environment that is not in `restore=`, a file, a logger, an outside service: whatever your forward pass, your "
    "loss or your hooks change outside of the training": f"{REACH}an_environment",
    "the dropout of a recurrent layer on a GPU once the training has begun: cuDNN draws it from a state that can't be "
    "read (a warning names it; before the first step nothing is lost)": (
        "torch/test_cuda_trainings.py::test_dropout_that_cudnn_draws"
    ),
    "a graph that autograd built before the call: its parameters have been written to since, so backward through it is "
    "an error": f"{REACH}a_graph_from_before",
}


def table() -> str:
    """The page's table of what is put back."""
    rows = "".join(f"| {where} | {'; '.join(things)} |\n" for where, things in RESTORED.items())
    return f"| put back | |\n|---|---|\n{rows}"


def out_of_reach() -> str:
    """The page's list of what can't be put back."""
    return "".join(f"- {thing};\n" for thing in OUT_OF_REACH)
