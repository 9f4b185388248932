"""axolotl: rows of messages, for a dataset of type `chat_template`."""

from pathlib import Path

from retell.exports.rows import CHAT, MixRows, write_lines


def write(rows: MixRows, target: Path) -> None:
    """Writes train.jsonl; axolotl's `field_messages` is `messages` by default."""
    write_lines(target / "train.jsonl", ({"messages": row["messages"], "rung": row["rung"]} for row in rows.read(CHAT)))
