"""The names of arguments: what other finders call ours, and what was probably meant."""

from __future__ import annotations

from difflib import get_close_matches

_ELSEWHERE = {
    "num_it": "num_steps",
    "num_iter": "num_steps",
    "num_training": "num_steps",
    "n_iter": "num_steps",
    "max_iter": "num_steps",
    "steps": "num_steps",
    "start_lr": "min_lr",
    "init_value": "min_lr",
    "lr_min": "min_lr",
    "end_lr": "max_lr",
    "final_value": "max_lr",
    "lr_max": "max_lr",
    "step_mode": "spacing",
    "mode": "spacing",
    "smooth_f": "smoothing",
    "beta": "smoothing",
    "diverge_th": "divergence_threshold",
    "early_stop_threshold": "divergence_threshold",
    "suggest_funcs": "rule",
    "data": "loader",
    "train_loader": "loader",
    "train_dataloader": "loader",
    "train_dataloaders": "loader",
    "dataloader": "loader",
    "validation": "validation_loader",
    "val_data": "validation_loader",
    "val_loader": "validation_loader",
    "val_dataloaders": "validation_loader",
    "loss_func": "loss_fn",
    "loss": "criterion",
    "net": "model",
    "network": "model",
    "opt": "optimizer",
    "optim": "optimizer",
    "amp": "autocast",
    "amp_config": "autocast",
    "mixed_precision": "autocast",
    "fp16": "autocast",
    "bf16": "autocast",
    "grad_scaler": "scaler",
    "memory_cache": "snapshot",
    "cache_dir": "snapshot",
    "precision": "autocast",
    "accumulate": "accumulation_steps",
    "accumulate_grad_batches": "accumulation_steps",
    "gradient_accumulation_steps": "accumulation_steps",
    "gradient_clip_val": "clip_grad_norm",
    "grad_clip": "clip_grad_norm",
    "max_grad_norm": "clip_grad_norm",
    "callback": "on_step",
    "verbose": "progress",
    "pool": "executor",
    "workers": "executor",
    "n_jobs": "executor",
    "max_steps": "total_steps",
    "num_training_steps": "total_steps",
}
_NOT_NEEDED = {
    "device": "the batches go to the device that the model is on",
    "batch_size": "the batches are those of the loader",
    "steps_per_epoch": "an epoch is as long as the loader",
    "non_blocking_transfer": "batches are moved without waiting",
    "stop_div": "a sweep ends where its loss explodes, and divergence_threshold says when",
    **dict.fromkeys(("lr", "learning_rate"), "the rates that are tried run from min_lr to max_lr"),
    **dict.fromkeys(("show_plot", "plot", "log_lr"), "finding.plot() or finding.show() shows what was found"),
    **dict.fromkeys(("skip_start", "skip_end"), "the rules look at the whole curve"),
    **dict.fromkeys(("update_attr", "attr_name"), "finding.apply(optimizer) writes the rate"),
    "callbacks": "no callback takes part in a search",
    "validation_split": "and give those examples as validation_data instead",
    **dict.fromkeys(("seed", "random_state"), "the random states are those of your script, and are put back"),
}
_ALIKE = 0.75  # of the letters: a name that is less like it was not meant
_EPOCHS = ("epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs")


def unknown_name(name: str, known: list[str]) -> str:
    """The message for an unknown argument, with the one that was probably meant."""
    meant = _ELSEWHERE.get(name)
    if meant not in known:  # what it is elsewhere has no namesake here
        meant = None if meant else next(iter(get_close_matches(name, known, 1, _ALIKE)), None)
    if name in _EPOCHS and "total_steps" in known:
        hint = "; give total_steps='5 epochs', say"
    elif name in _NOT_NEEDED:
        hint = f": leave it out, {_NOT_NEEDED[name]}"
    else:
        hint = f"; it is called {meant!r} here" if meant else f"; there are {', '.join(known)}"
    return f"there is no argument {name!r}{hint}"
