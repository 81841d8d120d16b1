"""What a race over workers is compared with."""

from concurrent.futures import Executor, Future

from findlr.search.workers import make


class TakesNoRun(Executor):
    """An executor that takes no run, so that the race makes all of them in this process."""

    def submit(self, function, /, *args, **kwargs):
        if function is make:
            raise RuntimeError("it takes no run")
        return Future()


HOME_ALONE = TakesNoRun()
