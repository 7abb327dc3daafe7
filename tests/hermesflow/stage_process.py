"""A stage in processes of its own, for tests: undisturbed, killed and gone on with, and by two at once.

    python stage_process.py CHECKPOINT FOLDER FILE:LINES ...

writes FOLDER/straight, FOLDER/killed, by a process killed whenever FILE there has so many lines, and FOLDER/together.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # an optimizer's first step would import it, in each child anew
from miniature_pairs import make_pairs
from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM  # noqa: F401

from gapbench.models import zoo
from hermesflow.train import Training, train

TRAINING = Training(steps=6, batch=2, masks=2, learning_rate=1e-3, save_every=2, sampling=True, balanced=True)


def stage(checkpoint: str, folder: Path) -> None:
    torch.set_num_threads(1)
    model = zoo.load(checkpoint, "cpu", "float32")
    train(model, model, make_pairs(model, 5), TRAINING, folder)


def fork(work: Callable[[], None]) -> int:
    """A child that ends with 0 after `work`. This process itself never computes, so forking it is safe."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def killed(checkpoint: str, folder: Path, moments: list[str]) -> None:
    for moment in moments:
        name, _, lines = moment.partition(":")
        child = fork(lambda: stage(checkpoint, folder))
        file = folder / name
        while not file.exists() or file.read_bytes().count(b"\n") < int(lines):
            assert os.waitpid(child, os.WNOHANG) == (0, 0), f"ended before {moment}"
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"not killed at {moment}"
        print(f"killed at {moment}", flush=True)
    child = fork(lambda: stage(checkpoint, folder))
    assert os.waitpid(child, 0)[1] == 0


def together(checkpoint: str, folder: Path) -> None:
    def work(rank: int) -> None:
        meeting = f"file://{folder.parent / 'meeting'}"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        stage(checkpoint, folder)
        torch.distributed.destroy_process_group()

    children = [fork(lambda rank=rank: work(rank)) for rank in (0, 1)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


if __name__ == "__main__":
    checkpoint, folder, *moments = sys.argv[1:]
    killed(checkpoint, Path(folder) / "straight", [])
    killed(checkpoint, Path(folder) / "killed", moments)
    together(checkpoint, Path(folder) / "together")
