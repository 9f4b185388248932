"""What several processes do in tests/test_processes.py: python -m torch.distributed.run … together.py WHAT …"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from test_train import apart, gate_updates, one_update, rows
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from retell import cli, pipeline
from retell.errors import DataError, RunFolderError
from retell.processes import agreed, first_to_fail, gathered, joined, rank, world
from retell.records import TrainRow
from retell.runfolder import RunFolder
from retell.trainer import WeightedTrainer

CASES = (
    ("dft", torch.float32, 13),
    ("dft", torch.float64, 13),
    ("dft", torch.float64, 1),
    ("iw_sft", torch.float64, 13),
)
"""Losses of tokens and of whole responses, in both precisions; an update of several rows and one of a single row."""


def gradient(
    folder: Path, loss: str, dtype: torch.dtype, given: list[TrainRow], tokens: int, *, packed: bool
) -> torch.Tensor:
    """The gradient of one update, whole in every process."""
    trainer, found = one_update(folder, loss, dtype, tokens, given, packed=packed)
    assert trainer.accelerator.num_processes == world()
    assert isinstance(trainer.model_wrapped, DistributedDataParallel) == (world() > 1)
    return found


def gradients(folder: Path, tokens: int, *, packed: bool) -> dict[str, torch.Tensor]:
    """Of every case."""
    return {
        f"{loss} {dtype} {n}": gradient(folder, loss, dtype, rows(n), tokens, packed=packed) for loss, dtype, n in CASES
    }


def several_gradients(folder: Path) -> None:
    """gradients.pt, with what packing and padding give in several processes."""
    with joined():
        assert torch.distributed.get_world_size() == world() == 2
        found = {}
        for packed in (True, False):
            for name, value in gradients(folder, 300, packed=packed).items():
                assert apart(value, agreed(lambda value=value: value)) == 0, "the processes do not agree"
                found[f"{name} {'packed' if packed else 'padded'}"] = value
        if rank() == 0:
            torch.save(found, folder / "gradients.pt")


def small_talk(folder: Path) -> None:
    """What they tell each other."""
    with joined():
        asked: list[int] = []

        def find() -> str:
            asked.append(rank())
            return "found"

        assert agreed(find) == "found"
        assert asked == ([0] if rank() == 0 else [])
        assert gathered([f"{rank()}a", f"{rank()}b"]) == ["0a", "0b", "1a", "1b"]
        firsts = gathered([first_to_fail(), first_to_fail()])
        assert sorted(firsts) == [False, False, False, True]
        assert not RunFolder(folder).is_fresh("gap", "the same for all")
        wrong = pytest.raises(
            RunFolderError, match="process 1 finds another model, data or recipe for gap than process 0"
        )
        with wrong if rank() else nullcontext():
            assert not RunFolder(folder).is_fresh("gap", f"what process {rank()} sees")


def sharded(arguments: list[str]) -> None:
    """`retell …` with the model divided over the processes (FSDP2), which accelerate does on GPUs only if it is let."""
    environment = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    environment |= {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    os.environ.update(environment)
    begin, step = AcceleratorState.__init__, WeightedTrainer.training_step

    def divide(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            assert self.distributed_type == DistributedType.MULTI_CPU
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    def look(self: WeightedTrainer, model: torch.nn.Module, *rest: Any) -> torch.Tensor:
        assert isinstance(model, FSDPModule)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
        return step(self, model, *rest)

    AcceleratorState.__init__ = divide
    WeightedTrainer.training_step = look  # type: ignore[method-assign]
    sys.exit(cli.main(arguments))


def failing(folder: Path, which: int, how: str) -> None:
    """`retell train` where one process fails and the other waits for it."""

    def fail(*_: object) -> Iterator[None]:
        if rank() != which:
            agreed(lambda: None)  # a lead goes on to its next exchange, another waits here
            torch.distributed.barrier()
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError("the disk of this machine is on fire") if how == "told" else ValueError("nobody foresaw it")

    pipeline.run_train = fail  # type: ignore[assignment]
    sys.exit(cli.main(["train", str(folder), "--loss", "sft", "--data", "rewritten"]))


def gated(gate: Path, arguments: list[str]) -> None:
    """`retell …` whose lead passes a gate after every update."""
    if rank() == 0:
        gate_updates(gate)
    sys.exit(cli.main(arguments))


if __name__ == "__main__":
    what, place, *more = sys.argv[1:]
    if what == "gradients":
        several_gradients(Path(place))
    elif what == "talk":
        small_talk(Path(place))
    elif what == "sharded":
        sharded([place, *more])
    elif what == "gated":
        gated(Path(place), more)
    else:
        failing(Path(place), int(more[0]), more[1])
