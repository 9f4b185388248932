"""Imports run one way: a module imports only from floors below its own."""

import ast
from pathlib import Path

import retell

ROOT = Path(retell.__file__).parent

# fmt: off
FLOORS = (
    ("errors", "hashing", "answers", "stats", "dryrun.spans", "dryrun.offline", "head", "packing", "losses",
     "document", "legend", "shell"),
    ("records", "plugins", "schedule", "processes", "tables", "hub", "charts", "flow", "markdown",
     "matching", "ratios", "weights", "estimates", "sections.beside", "dryrun.footprint"),
    ("recipe", "methods", "card", "journal", "shards", "problemtable", "trainrows",
     "leaks", "meter", "progress", "paired", "paper", "spread", "advice",
     "graders.base", "graders.latex", "graders.qwen_text"),
    ("policy", "tokens", "problems", "store", "runfolder", "graders.expressions", "graders.units", "graders.pieces"),
    ("prompts", "logprobs", "benchmarks", "results", "parts", "graders.values"),
    ("sections.overview", "sections.rungs", "sections.logprobs", "sections.training", "sections.accuracy",
     "sections.cost", "sections.provenance", "sections.examples"),
    ("sections.weights", "sections.differences", "sections.caveats"),
    ("sections.tuned",),
    ("mixes", "contamination", "dryrun.lengths", "engines.base", "engines.draw", "engines.balance", "engines.dialects",
     "engines.warden", "graders.forms", "graders.rounding"),
    ("exports.rows", "exports.licence", "engines.slots", "engines.recorded", "engines.scripted", "engines.window",
     "engines.replies", "graders.wording", "graders.realsets"),
    ("exports.trl", "exports.llamafactory", "exports.axolotl", "exports.verl", "exports.hf", "exports.datacard",
     "engines.transformers", "engines.vllm", "engines.endpoint", "graders.reading", "trainer"),
    ("exports.named", "engines.server"),
    ("engines.named", "graders.equality"),
    ("graders.math", "graders.qwen", "graders.custom"),
    ("graders.named",),
    ("graders.worker", "graders.pool"),
    ("rollout",),
    ("ladder", "executor", "rows", "firsts"),
    ("tally", "scores", "browse", "finder"),
    ("webpage",),
    ("rewrite", "evaluate", "gap", "drift", "train", "report", "comparison", "export", "grade",
     "regrade", "online", "view",
     "checks.base"),
    ("preview", "drawing", "leases"),
    ("worker", "connection"),
    ("cluster",),
    ("steps",),
    ("showing", "previewing", "measuring"),
    ("pipeline", "present", "checks.installation", "checks.template", "checks.servers", "checks.cluster",
     "checks.sample"),
    ("checks.model", "dryrun.inputs"),
    ("doctor", "dryrun.forecast"),
    ("commands",),
    ("cli",),
)
# fmt: on
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
OUTSIDE = {"__init__", "__main__", "engines", "graders", "checks", "dryrun", "exports", "sections"}
HEAVY = {
    "torch", "transformers", "datasets", "plotly", "huggingface_hub", "vllm", "openai", "starlette", "uvicorn",
    "arviz_stats", "ray",
}  # fmt: skip


def modules() -> dict[str, Path]:
    paths = [path for path in ROOT.rglob("*.py") if "tiny" not in path.relative_to(ROOT).parts]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return found


def own(path: Path) -> set[str]:
    names = {name.removeprefix("retell.") for name in imports(path) if name.startswith("retell.")}
    return {name for name in names if name in FLOOR}


def test_every_module_has_a_floor() -> None:
    assert modules().keys() - OUTSIDE == FLOOR.keys()


def test_no_module_imports_upwards_or_sideways() -> None:
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        if name not in OUTSIDE
        for other in own(path)
        if FLOOR[other] >= FLOOR[name]
    ]
    assert wrong == []


def test_the_rest_of_the_package_does_not_know_the_tiny_policy() -> None:
    knowing = [name for name, path in modules().items() if any(i.startswith("retell.tiny") for i in imports(path))]
    assert knowing == []


def test_heavy_libraries_stay_out_of_the_command_line() -> None:
    light = {"cli", "commands", "present", "recipe", "runfolder", "errors", "hashing", "progress", "records"}
    wrong = [f"{name} imports {i}" for name in light for i in imports(modules()[name]) if i.split(".")[0] in HEAVY]
    assert wrong == []
