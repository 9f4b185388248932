"""What is installed, and whether graders work."""

import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from retell.checks.base import Finding, Patient, State, installed_version, say
from retell.graders.base import Case
from retell.graders.custom import CustomGrader
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.records import Verdict

RIGHT = Case("Simplify x + 3 + 4.", "It is \\boxed{x + 7}.", "7 + x")
"""Needs a grading process: the texts differ, and neither is a number."""
WRONG = Case("Simplify x + 3 + 4.", "It is \\boxed{x + 8}.", "7 + x")
PARTS = (
    ("engine transformers", ("torch", "transformers"), "local"),
    ("engine vllm", ("vllm",), "vllm"),
    ("engine server", ("openai",), "server"),
    ("engine recorded", (), ""),
    ("training", ("accelerate",), "local"),
    ("hub data sets", ("datasets",), "hub"),
    ("charts", ("plotly",), "report"),
    ("drawing on a cluster", ("ray",), "ray"),
)
"""What retell can do, the packages it takes, and the extra that brings them."""
NVIDIA = Path("/dev/nvidiactl")


def python(patient: Patient) -> Iterator[Finding]:
    """Python, retell and the system."""
    machine = f"{platform.system()} {platform.machine()}"
    yield Finding("Python", "ok", f"Python {platform.python_version()}, retell {version('retell')}, {machine}")


def installed(patient: Patient) -> Iterator[Finding]:
    """The packages of each part."""
    for what, packages, extra in PARTS:
        missing = [package for package in packages if not installed_version(package)]
        if missing:
            state: State = "wrong" if what == f"engine {patient.engine}" else "note"
            yield Finding(what, state, f"{', '.join(missing)}: not installed", f"pip install 'retell[{extra}]'")
        else:
            yield Finding(what, "ok", ", ".join(map(installed_version, packages)) or "needs nothing else")


def graders(patient: Patient) -> Iterator[Finding]:
    """Whether grading processes start and judge right."""
    grader = grader_named(patient.settings.grader)
    started = time.monotonic()
    verdicts: dict[str, Verdict] = {}
    with GraderPool(grader, 1) as pool:
        pool.submit("right", RIGHT)
        pool.submit("wrong", WRONG)
        while pool.pending:
            verdicts.update(pool.collect(wait=True))
    said = verdicts["right"].outcome, verdicts["wrong"].outcome
    if said == ("correct", "wrong"):
        yield Finding("grader", "ok", f"{grader.name} judges in {time.monotonic() - started:.1f} s")
        return
    # Somebody's own grader need not be made for such answers.
    state: State = "note" if isinstance(grader, CustomGrader) else "wrong"
    reasons = "; ".join(verdict.reason for verdict in verdicts.values())
    judged = f"the right answer {RIGHT.response!r} is {said[0]} and the wrong one {WRONG.response!r} {said[1]}"
    yield Finding("grader", state, f"{grader.name}: {judged} ({reasons})")


def accelerators(patient: Patient) -> Iterator[Finding]:
    """What torch sees to compute on."""
    if not installed_version("torch"):
        return
    say("importing torch")
    import torch

    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    if found:
        names = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in found)
        yield Finding("accelerator", "ok", names)
    elif NVIDIA.exists():
        says = f"there is one by NVIDIA, and torch {torch.__version__} cannot use it"
        yield Finding("accelerator", "note", says, "install a torch for the CUDA version of its driver (nvidia-smi)")
    else:
        yield Finding("accelerator", "note", f"no accelerator: CPU, {os.cpu_count()} cores")
