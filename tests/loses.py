"""An executor that loses each run."""

from concurrent.futures import BrokenExecutor, Executor, Future


class Loses(Executor):
    """So all runs of a race are made at home, one after another."""

    def submit(self, fn, /, *args, **kwargs):
        task = Future()
        task.set_exception(BrokenExecutor())
        return task
