"""Runs cases on several processes, each a fork of this one, with a watchdog.

Each child is a rank of a gloo group, whose store this process holds, as torchrun's agent does.
"""

import faulthandler
import json
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

SECONDS = 60  # of a case


def begin():
    """A case begins: if it hangs, the rank ends, and says where it was."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)


def run(case, world, folder, *, own_store=False):
    """What ``case(rank, world)`` gives on each rank: a value, or text that says how it ended."""
    store = None if own_store else dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = free_port() if store is None else store.port
    children = []
    for rank in range(world):
        out = Path(folder, f"{rank}.json")
        out.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _be(rank, world, case, port, out, own_store)
        children.append((child, out))
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
    del store
    return [
        json.loads(out.read_text()) if out.exists() else f"ended with {end}"
        for end, (_, out) in zip(ends, children, strict=True)
    ]


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _be(rank, world, case, port, out, own_store):
    """Be a rank, and end."""
    code = 1
    try:
        begin()
        torch.set_num_threads(1)
        store = dist.TCPStore("127.0.0.1", port, is_master=own_store and rank == 0, timeout=timedelta(seconds=30))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
        result = case(rank, world)
        out.with_suffix(".tmp").write_text(json.dumps(result))
        out.with_suffix(".tmp").rename(out)
        code = 0
    except BaseException:  # noqa: BLE001 - the parent is told by the code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
