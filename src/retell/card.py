"""The model card of a checkpoint: what it is, made from what, with which figures."""

from collections.abc import Mapping
from typing import Any

_PAPER = "https://arxiv.org/abs/2509.15157"


def model_card(name: str, summary: Mapping[str, Any], facts: Mapping[str, str]) -> str:
    """README.md of a checkpoint, with the metadata that model hubs read."""
    first, last = summary["first"], summary["last"]
    settings = [name for name in ("learning_rate", "batch_size", "epochs", "seed") if name not in facts]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [retell, data-rewriting, sft]",
        "---",
        "",
        f"# {name}",
        "",
        f"Trained with the loss `{summary['loss']}` by [retell]({_PAPER}).",
        "",
        *(f"- {what}: `{_line(value)}`" for what, value in facts.items()),
        *(f"- {what.replace('_', ' ')}: {summary[what]}" for what in settings),
        f"- updates: {summary['updates']}, {summary['tokens']:,} response tokens",
        "",
        "| per token | first update | last update |",
        "|---|---:|---:|",
        *(f"| {key.replace('_', ' ')} | {first[key]:.4f} | {last[key]:.4f} |" for key in first),
        "",
        "`metrics.jsonl` has them for every update. What the model can do, its training does not tell: evaluate it.",
    ]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """Text from elsewhere as one line of code, which it cannot end."""
    return " ".join(text.replace("`", "'").split())
