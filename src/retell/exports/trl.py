"""TRL: prompt and completion as lists of messages, whose completions alone are trained on."""

from pathlib import Path

from retell.exports.rows import CHAT, MixRows, write_lines


def write(rows: MixRows, target: Path) -> None:
    """Writes train.jsonl; TRL's SFTTrainer takes its rows as they are (docs of TRL: dataset formats)."""
    # No ids: whoever reads JSON infers types, and ids that look like dates would become times.
    lines = (
        {"prompt": row["messages"][:-1], "completion": row["messages"][-1:], "rung": row["rung"]}
        for row in rows.read(CHAT)
    )
    write_lines(target / "train.jsonl", lines)
