"""A search that goes on until a signal comes, and says whether all was put back; started by torchrun."""

import sys

import torch
import torch.distributed as dist

from findlr import find_lr
from tests.ranks.training import Training, by_ddp


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    training = Training(by_ddp())
    before = training.state()

    def tell(step):
        if step.index == 10 and dist.get_rank() == 0:
            sys.stdout.write("searching\n")
            sys.stdout.flush()

    try:
        find_lr(*training.parts, min_lr=1e-8, max_lr=1e-7, num_steps=1_000_000, snapshot="disk", on_step=tell)
    finally:
        sys.stdout.write("put back\n" if training.state() == before else "left\n")
        sys.stdout.flush()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
