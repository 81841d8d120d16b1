"""The names of arguments: what other finders call ours, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from inspect import signature

from findlr.errors import ConfigurationError

_OTHER_NAMES = {
    "num_steps": ("num_it", "num_iter", "num_training", "n_iter", "max_iter", "steps"),
    "min_lr": ("start_lr", "init_value", "lr_min"),
    "max_lr": ("end_lr", "final_value", "lr_max"),
    "spacing": ("step_mode", "mode"),
    "smoothing": ("smooth_f", "beta"),
    "divergence_threshold": ("diverge_th", "early_stop_threshold"),
    "rule": ("suggest_funcs",),
    "loader": ("data", "train_loader", "train_dataloader", "train_dataloaders", "dataloader"),
    "validation_loader": ("validation", "val_data", "val_loader", "val_dataloaders"),
    "loss_fn": ("loss_func",),
    "criterion": ("loss",),
    "model": ("net", "network"),
    "optimizer": ("opt", "optim"),
    "autocast": ("amp", "amp_config", "mixed_precision", "fp16", "bf16", "precision"),
    "scaler": ("grad_scaler",),
    "snapshot": ("memory_cache", "cache_dir"),
    "accumulation_steps": ("accumulate", "accumulate_grad_batches", "gradient_accumulation_steps"),
    "clip_grad_norm": ("gradient_clip_val", "grad_clip", "max_grad_norm"),
    "on_step": ("callback",),
    "progress": ("verbose",),
    "executor": ("pool", "workers", "n_jobs"),
    "total_steps": ("max_steps", "num_training_steps"),
}
_ELSEWHERE = {other: name for name, others in _OTHER_NAMES.items() for other in others}
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
_PLANNED = ("schedule", "total_steps", "warmup", "momentum", "pretrained")
_EPOCHS = ("epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs")


def refuse(others: Iterable[str], owner: type) -> None:
    """Refuse keywords that a class does not have, and collects as ``**others`` only to say what they are called here.

    Raises:
        ConfigurationError: there is one; the message says what was probably meant.
    """
    for name in others:
        known = [each for each in signature(owner).parameters if each != "others"]
        raise ConfigurationError(f"{owner.__name__}: {unknown_name(name, known)}")


def unknown_name(name: str, known: list[str]) -> str:
    """The message for an unknown argument, with the one that was probably meant."""
    meant = _ELSEWHERE.get(name)
    if meant not in known:  # what it is elsewhere has no namesake here
        meant = None if meant else next(iter(get_close_matches(name, known, 1, _ALIKE)), None)
    if "plan" in known and (name in _EPOCHS or _ELSEWHERE.get(name, name) in _PLANNED):
        hint = "; give plan=Plan('one_cycle', total_steps=1000), say"
    elif name in _EPOCHS and "total_steps" in known:
        hint = "; give total_steps='5 epochs', say"
    elif name in _NOT_NEEDED:
        hint = f": leave it out, {_NOT_NEEDED[name]}"
    else:
        hint = f"; it is called {meant!r} here" if meant else f"; there are {', '.join(known)}"
    return f"there is no argument {name!r}{hint}"
