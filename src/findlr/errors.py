"""Every exception that findlr raises.

::

    FindlrError
    +-- ConfigurationError (ValueError)     an argument that cannot work: a rate, a count, a pair that excludes itself
    |   +-- OptimizerError                  the optimizer cannot be swept, or does not fit the model
    |   +-- LoaderError                     the loader is empty, one-shot, or gives something unexpected
    |       +-- DataEndedError              a one-shot iterator has no batch left; a sweep with points ends there
    +-- LossError (ValueError)              the loss is no differentiable scalar
    +-- RestoreError (RuntimeError)         something could not be put back; says what
    +-- RankError (RuntimeError)            another process of the training failed, or is gone; says which
    +-- NoSuggestionError (ValueError)      the curve gives no suggestion; says why, and what to change
    +-- FileFormatError (ValueError)        a file that is no Finding, or no data set
    +-- MissingExtraError (ImportError)     an optional dependency is not installed, or can't be imported

Each message says what was wrong, what was seen, and what to do.
"""

from __future__ import annotations

import sys as _sys  # this module is public, and its names are its errors


class FindlrError(Exception):
    """The root of everything that findlr raises by itself."""


_MOST = 1_000  # letters of a message, which may quote an argument that is a whole text


class ConfigurationError(FindlrError, ValueError):
    """An argument that cannot work."""

    def __init__(self, message: str = "", *more: object) -> None:
        if len(message) > _MOST:  # what was wrong stands at its beginning, what to do at its end
            message = f"{message[: _MOST // 2]} ... {message[-_MOST // 3 :]}"
        super().__init__(message, *more)


class OptimizerError(ConfigurationError):
    """The optimizer cannot be swept, or does not fit the model."""


class LoaderError(ConfigurationError):
    """The loader is empty, can be read only once, or gives something unexpected."""


class DataEndedError(LoaderError):
    """A one-shot iterator has ended; a ``Trainable`` raises it from ``step``, and the sweep ends with its points."""


class LossError(FindlrError, ValueError):
    """The loss is not one differentiable number."""


class RestoreError(FindlrError, RuntimeError):
    """Something could not be put back as it was."""


class RankError(FindlrError, RuntimeError):
    """Another process of the same training failed, was interrupted, or is gone; the message names its rank."""

    own: BaseException | None = None
    """This process's own exception, if it is one of those that failed."""

    is_the_trainings = False
    """Whether the training itself raised what failed, on each process that did."""


class NoSuggestionError(FindlrError, ValueError):
    """The curve gives no suggestion."""


class FileFormatError(FindlrError, ValueError):
    """A file is damaged, or of another kind."""


class MissingExtraError(FindlrError, ImportError):
    """An optional dependency is not installed, or can't be imported."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The error for a ``package`` whose import has just failed, naming the extra that brings it."""
        error = _sys.exception()
        root = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if error is None or (root and _sys.modules.get(root) is None):
            return cls(f"{package} is not installed; run: pip install 'findlr[{extra}]'")
        return cls(  # of another version, or what it needs is; or a script of the user's covers it
            f"{package} can't be imported ({error}): rename a file of yours that has its name, or run: pip install "
            f"--upgrade 'findlr[{extra}]'"
        )
