"""Recipe and versions."""

import platform
from importlib.metadata import PackageNotFoundError, version

from retell.document import Listing, Section, Table
from retell.legend import title
from retell.recipe import dump_recipe
from retell.results import Results

_PACKAGES = ("retell", "torch", "transformers", "accelerate", "vllm", "math-verify", "numpy", "pyarrow", "plotly")


def provenance(results: Results) -> Section:
    """What identifies the inputs, the versions of what wrote the page, and the resolved recipe."""
    known = [
        *_identity(results),
        ["Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"],
        *([name, found] for name in _PACKAGES if (found := _version(name))),
    ]
    note = "Versions are those of the machine that wrote this page."
    return Section(
        "Recipe and versions",
        "Recipe",
        [
            Table(["what", "which"], known, note, words=True),
            Listing("recipe.resolved.toml", dump_recipe(results.recipe).rstrip(), folded=True),
        ],
    )


def _identity(results: Results) -> list[list[str]]:
    summary, found = results.rewrite or {}, []
    for name, key in (
        ("policy's fingerprint", "policy"),
        ("grader of rewriting", "grader"),
        ("recipe's hash", "recipe_sha"),
    ):
        if summary.get(key):
            found.append([name, str(summary[key])])
    graders: dict[str, list[str]] = {}
    for name, one in results.evaluations.items():
        graders.setdefault(one["grader"], []).append(title(name))
    found += [
        [f"grader of {', '.join(names) if len(graders) > 1 else 'evaluation'}", grader]
        for grader, names in graders.items()
    ]
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
