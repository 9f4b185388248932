"""verl: the rows for its SFT trainer, and the same problems with their golds for reinforcement learning."""

from pathlib import Path

import pyarrow as pa

from retell.exports.rows import CHAT, MixRows
from retell.tables import TableWriter

_CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SFT = pa.schema([("id", pa.string()), ("rung", pa.string()), ("messages", _CHAT)])
_RL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", _CHAT),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64()), ("id", pa.string())])),
    ]
)


def write(rows: MixRows, target: Path) -> None:
    """Writes sft.parquet (for verl's MultiTurnSFTDataset) and rl.parquet (for its RLHFDataset).

    ``data_source``, by which verl chooses a reward function, is the row's source, or `retell` where it has none.
    """
    with TableWriter(target / "sft.parquet", _SFT) as sft, TableWriter(target / "rl.parquet", _RL) as rl:
        for index, row in enumerate(rows.read((*CHAT, "id", "source", "answer"))):
            sft.add({"id": row["id"], "rung": row["rung"], "messages": row["messages"]})
            rl.add(
                {
                    "data_source": row["source"] or "retell",
                    "prompt": row["messages"][:-1],
                    "ability": "math",
                    "reward_model": {"style": "rule", "ground_truth": row["answer"]},
                    "extra_info": {"split": "train", "index": index, "id": row["id"]},
                }
            )
