"""The Ray cluster: whether it can be used, what it has, and how many workers there would be."""

from collections.abc import Iterator

from retell.checks.base import Finding, Patient, say
from retell.connection import connected, team
from retell.drawing import Task
from retell.recipe import Recipe


def cluster(patient: Patient) -> Iterator[Finding]:
    """Connects to the cluster that ``--ray`` names; whether its machines see the model, their workers find out."""
    settings = patient.settings
    if settings.ray is None:
        return
    say("connecting to the Ray cluster")
    with connected(settings.ray) as ray:
        crew = team(ray, Task("rewrite", Recipe(rewrite=settings), patient.policy, ""))
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (int(sum(machine.get(kind, 0) for machine in machines)) for kind in ("CPU", "GPU"))
        says = f"Ray {ray.__version__}, {len(machines)} machine(s) with {cpus} CPUs and {gpus} GPUs in all"
    # Only now: while Ray is connected, nothing that is printed is seen.
    yield Finding("cluster", "ok", f"{says}: {crew.workers} worker(s) of {crew}")
