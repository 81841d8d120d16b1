"""The public names, by what they are for, and the page of the site that tells of them."""

# What a user calls, and in which order it is read.
PUBLIC = {
    "Find a rate": ("findlr.find_lr", "findlr.RangeTest", "findlr.rewindable"),
    "What comes back": ("findlr.Finding", "findlr.Suggestion", "findlr.Curve", "findlr.Plan"),
    "What it says": ("findlr.Verdict", "findlr.Stop"),
    "Rules": tuple(f"findlr.rules.{name}" for name in ("quick", "article", "valley", "slide", "steep", "minimum")),
    "Several runs": ("findlr.compare",),
    "Schedulers from a Finding": ("findlr.torch.one_cycle", "findlr.torch.cyclic"),
    "Trackers": tuple(f"findlr.trackers.{name}" for name in ("tensorboard", "wandb", "mlflow", "stream")),
    "Errors": ("findlr.errors",),
}
# What ends the page on adding a framework.
EXTENDING = (
    "findlr.find",
    "findlr.TorchTrainable",
    "findlr.testing.TrainableConformance",
    "findlr.testing.TrainingConformance",
)
# A framework's own calls end its page, where its room is there.
ROOMS = {
    "huggingface": ("find_lr", "FindLR"),
    "lightning": ("find_lr", "FindLR"),
    **dict.fromkeys(("accelerate", "fastai", "ignite", "skorch", "keras", "jax"), ("find_lr",)),
    "ray": ("executor",),
}
