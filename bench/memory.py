"""What a snapshot adds to the peak of a training's memory: a process per mode.

    python bench/memory.py

Once as most loops call it, after ``optimizer.zero_grad()``; once with the last step's gradients still there, which stay
where they are while the sweep makes its own.

The peak is VmHWM of /proc/self/status, so it needs Linux. Exits with 1 if a mode takes more than it may.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_MODES = ("device", "cpu", "disk")
_STEPS = 3
_WIDTH, _LAYERS = 2560, 5  # weights of 26 MB each
_SLACK = 1.02


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(mode: str, gradients: str) -> None:
    """Train, then sweep with a snapshot of ``mode``; print what that added to the peak, and what there was to copy."""
    import torch
    from torch import nn, optim

    from findlr import find_lr

    torch.set_num_threads(1)
    net = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH) for _ in range(_LAYERS)))
    optimizer = optim.Adam(net.parameters(), lr=1e-4, foreach=False)
    batch = torch.randn(2, _WIDTH)

    def loss_fn(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return model(inputs).square().mean()

    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss_fn(net, batch).backward()
        optimizer.step()
    if gradients == "none":
        optimizer.zero_grad()
    trained = peak()
    tensors = [*net.parameters(), *(p.grad for p in net.parameters() if p.grad is not None)]
    tensors += [moment for state in optimizer.state.values() for moment in state.values()]
    sizes = [tensor.nbytes for tensor in tensors]
    own = 0 if gradients == "none" else sum(p.nbytes for p in net.parameters())
    del tensors
    find_lr(
        *(net, optimizer),
        loader=[batch],
        loss_fn=loss_fn,
        num_steps=_STEPS,
        control_variate=False,
        snapshot=mode,  # type: ignore[arg-type]
    )
    print(json.dumps({"added": peak() - trained, "state": sum(sizes), "largest": max(sizes), "own": own}))


def main() -> int:
    """Print the table; return the exit code."""
    failed = False
    print(
        "| snapshot | gradients | to copy, MB | added to the peak, MB | less the sweep's gradients, MB | may be, MB |"
    )
    print("|---|---|---|---|---|---|")
    for gradients in ("none", "present"):
        for mode in _MODES:
            command = [sys.executable, __file__, mode, gradients]
            seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            most = 64e6 + seen["largest"] if mode == "disk" else _SLACK * seen["state"]
            kept = seen["added"] - seen["own"]
            failed |= kept > most
            megabytes = (f"{size / 1e6:.0f}" for size in (seen["state"], seen["added"], kept, most))
            print(f"| {mode} | {gradients} | {' | '.join(megabytes)} |")
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
    else:
        sys.exit(main())
