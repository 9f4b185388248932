"""The card of an exported data set: where its rows come from, how they were drawn, and on what terms."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from retell.exports.licence import Licence
from retell.recipe import PACKAGED, Recipe

_PAPER = "https://arxiv.org/abs/2509.15157"
_LOCAL = ("/", "~")
_HERE = (*_LOCAL, PACKAGED)
"""What a source begins with that is no data set of the hub."""
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
_MIXES = {
    "rewritten": "each problem has a correct solution of the policy's own (`self`), else one that it retold with the "
    "expert's in sight (`guided`), else the expert's (`expert`)",
    "expert": "every response is the expert's solution (`expert`), the other half of a comparison",
    "self_only": "each problem has a correct solution of the policy's own (`self`), else the expert's (`expert`)",
    "guided_only": "a problem that the policy solved only with the expert's solution in sight has its retelling "
    "(`guided`), every other the expert's text (`expert`)",
}
_COLUMNS = {
    "id, source, problem, answer, solution": "the problem, its gold answer and the expert's solution",
    "rung": "whose text the response is: `self`, `guided` or `expert`",
    "response, messages": "what is trained on, and the conversation that ends with it",
    "response_token_ids": "the tokens that the policy drew, its end token included; null where the text was not drawn",
    "behaviour_logprobs": "their log-probs under the distribution that drew them, of `guided` rows with the expert's "
    "solution in the prompt",
    "samples_self, correct_self, samples_guided, correct_guided": "samples drawn for the problem, and correct ones",
    "verdict": "the grader's on the response; null for the expert's text, which was not graded",
    "policy, seed": "fingerprint of the policy, and the seed of all its samples",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """What a card tells: the recipe, rewrite.json and contamination.json of the run, the licence if it is known, and
    the name on the hub if it has one.
    """

    recipe: Recipe
    rewritten: Mapping[str, Any]
    contamination: Mapping[str, Any]
    licence: Licence | None
    repo: str | None


def dataset_card(origin: Origin, mix: str, rungs: Mapping[str, int], rejected: Mapping[str, int], content: str) -> str:
    """README.md of the data set, with the metadata that the hub reads; ``content`` is a digest of its files.

    Text from elsewhere stands in quotes or in code, which it cannot end.
    """
    rows = sum(rungs.values())
    shares = [f"| `{rung}` | {n:,} | {n / rows:.1%} |" for rung, n in rungs.items()]
    left_out = [f"Left out: {', '.join(f'{n:,} `{_line(why)}`' for why, n in rejected.items())}.", ""]
    lines = [
        *_metadata(rows, origin.licence, content),
        f"# {(origin.repo or 'retell/rewritten').partition('/')[2]}",
        "",
        f"Problems with solutions to fine-tune on, made by retell {version('retell')} as in "
        f"[arXiv {_PAPER.rpartition('/')[2]}]({_PAPER}): {_MIXES[mix]}.",
        "",
        "| rung | rows | share |",
        "|---|---:|---:|",
        *shares,
        f"| all | {rows:,} | |",
        "",
        *(left_out if rejected else []),
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("{origin.repo or "FOLDER_OF_THIS_FILE"}", split="train")',
        "```",
        "",
        "| column | |",
        "|---|---|",
        *(f"| {names} | {meaning} |" for names, meaning in _COLUMNS.items()),
        "",
        "## How it was made",
        "",
        *(f"- {what}: {said}" for what, said in _making(origin).items()),
        "",
        "## Benchmarks among the problems",
        "",
        *_overlaps(origin.contamination),
        "",
        "## Licence",
        "",
        *_terms(origin.licence),
    ]
    return "\n".join(lines) + "\n"


def _metadata(rows: int, licence: Licence | None, content: str) -> list[str]:
    size = next((name for most, name in _SIZES if rows < most), "n>10M")
    return [
        "---",
        *(_licence_metadata(licence) if licence else []),
        "task_categories: [text-generation]",
        "tags: [retell, data-rewriting, sft]",
        f"size_categories: [{_quoted(size)}]",
        "configs:",
        "- config_name: default",
        # `datasets` keeps a folder in its cache by its path and this section: other rows must not have the same.
        f"  description: {_quoted(f'files {content}')}",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        "---",
        "",
    ]


def _licence_metadata(licence: Licence) -> list[str]:
    ids = [_quoted(one) for one in licence.ids]
    lines = [f"license: {ids[0]}"] if len(ids) == 1 else ["license:", *(f"- {one}" for one in ids)]
    own = {"license_name": licence.name, "license_link": licence.link}
    return lines + [f"{key}: {_quoted(value)}" for key, value in own.items() if value]


def _making(origin: Origin) -> dict[str, str]:
    policy, data, rewrite = origin.recipe.policy, origin.recipe.data, origin.recipe.rewrite
    rewritten = origin.rewritten
    revision = f"revision {_code(policy.revision)}" if policy.revision else "no revision named"
    drew = rewritten.get("policy")
    named = f"{_code(_name(policy.model))}, {revision}" if policy.model else "not named"
    said = {"policy": named + (f", fingerprint {_code(drew)}" if drew else "")}
    source = data.path or ""
    of_hub = [] if source.startswith(_HERE) else [("split", data.split), ("config", data.config)]
    said["problems"] = ", ".join([_code(_name(source)), *(f"{key} {_code(value)}" for key, value in of_hub if value)])
    said["prompt"] = f"template {_code(_name(policy.template))}"
    if policy.system is not None:
        said["prompt"] += f", system message {_code(policy.system)}"
    if rewrite.engine == "recorded":
        said["sampling"] = "none: the responses had been recorded before"
    else:
        said["sampling"] = (
            f"{'' if rewrite.exhaustive else 'until one is accepted, at most '}{rewrite.k} samples per rung by "
            f"{_code(rewrite.engine)}, temperature {rewrite.temperature:g}, top_p {rewrite.top_p:g}, at most "
            f"{rewrite.max_tokens:,} tokens, seed {rewrite.seed}"
        )
        said["guided prompt"] = (
            f"template {_code(_name(rewrite.guided_template))}, at most {rewrite.max_copied:.0%} copied from the expert"
        )
    said["longest row"] = f"{data.max_length:,} tokens"
    said["grader"] = _code(rewritten["grader"]) if rewritten.get("grader") else "not recorded"
    rejected = ", ".join(f"{n:,} {_code(why)}" for why, n in rewritten.get("rejected", {}).items())
    said["problems that gave no row"] = rejected or "none"
    return said


def _overlaps(contamination: Mapping[str, Any]) -> list[str]:
    benchmarks = contamination.get("benchmarks", {})
    if not benchmarks:
        return ["No benchmark was looked for among the problems."]
    return [
        "A problem overlaps a benchmark's if it equals it, or has at least half of its 13-grams of words.",
        "",
        "| benchmark | its problems | of them found | equal | training problems | |",
        "|---|---:|---:|---:|---:|---|",
        *(
            f"| {_code(_name(name)).replace('|', '¦')} | {one['problems']:,} | {one['known']:,} | "
            f"{one['equal']:,} | {one['training_problems']:,} | {'dropped' if one['dropped'] else 'kept'} |"
            for name, one in benchmarks.items()
        ),
    ]


def _terms(licence: Licence | None) -> list[str]:
    policy = "Responses of the policy may be under terms of its own licence too, which is not recorded here."
    if licence is None:
        return [f"The licence of the source is unknown: ask its owner before you pass this on. {policy}"]
    own = "".join(f", {_code(part)}" for part in (licence.name, licence.link) if part)
    return [f"{', '.join(map(_code, licence.ids))}{own}, as {licence.source} says. {policy}"]


def _name(source: str) -> str:
    """A source as others may know it: of a path on this machine only the last part."""
    return os.path.basename(source.rstrip("/")) if source.startswith(_LOCAL) else source


def _code(text: str) -> str:
    return f"`{_line(text)}`"


def _line(text: str) -> str:
    """Text from elsewhere as one line of code, which it cannot end."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.replace("`", "'").split())).strip() or "-"


def _quoted(text: str) -> str:
    """A text as YAML has it in double quotes; JSON's are the same."""
    return json.dumps("".join(c for c in text if c.isprintable()), ensure_ascii=False)
