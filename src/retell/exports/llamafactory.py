"""LLaMA-Factory: rows of messages, and the dataset_info.json that tells it how to read them."""

import json
from pathlib import Path

from retell.exports.rows import CHAT, MixRows, write_lines

DATASET = "retell"
"""What the data set is called in dataset_info.json."""
_INFO = {
    DATASET: {
        "file_name": "train.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
}


def write(rows: MixRows, target: Path) -> None:
    """Writes train.jsonl and dataset_info.json: the folder is LLaMA-Factory's `dataset_dir`."""
    write_lines(target / "train.jsonl", ({"messages": row["messages"], "rung": row["rung"]} for row in rows.read(CHAT)))
    (target / "dataset_info.json").write_text(json.dumps(_INFO, indent=2) + "\n", encoding="utf-8")
