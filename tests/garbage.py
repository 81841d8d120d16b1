"""What waits for Python's garbage collector."""

import gc


def kinds_of_garbage(*packages):
    """The classes of these packages of which objects wait to be collected, by name."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        kinds = {type(each) for each in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    return sorted(kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] in packages)
