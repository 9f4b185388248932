import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gaps import TINY, measured, rewritten_rows, scripted, tokenizer, written
from gate import shut
from transformers import AutoModelForCausalLM

from retell.errors import DataError, PolicyError
from retell.gap import measured_before, statistics, summarise
from retell.logprobs import row_logprobs
from retell.packing import Pair
from retell.tables import read_rows
from retell.tokens import ChatTokenizer


def test_statistics_equal_their_definitions() -> None:
    rows = [[math.log(0.5), math.log(0.05)], [math.log(0.8)]]
    found = statistics(rows)
    assert found is not None
    weights = [0.5, 0.05, 0.8]
    mean = sum(weights) / 3
    assert found["sum_logprob"] == pytest.approx((math.log(0.025) + math.log(0.8)) / 2)
    assert found["mean_token_logprob"] == pytest.approx(math.log(0.02) / 3)
    assert found["perplexity"] == pytest.approx(0.02 ** (-1 / 3))
    assert found["token_ess"] == pytest.approx(sum(weights) ** 2 / (3 * sum(w * w for w in weights)))
    assert found["token_weight_variance"] == pytest.approx(sum((w - mean) ** 2 for w in weights) / 3)
    assert found["share_below_0.1"] == pytest.approx(1 / 3)
    assert found["mean_tokens"] == pytest.approx(1.5)
    assert statistics([]) is None


def test_rungs_are_told_apart_and_an_empty_one_has_no_statistics() -> None:
    summary = summarise(["self", "expert", "self"], [[-1.0], [-2.0], [-3.0]], [[-0.5], [-2.0], [-0.1]])
    assert {rung: entry["rows"] for rung, entry in summary.items()} == {"self": 2, "guided": 0, "expert": 1, "all": 3}
    assert summary["self"]["expert"]["sum_logprob"] == pytest.approx(-2.0)
    assert summary["self"]["rewritten"]["sum_logprob"] == pytest.approx(-0.3)
    assert summary["guided"] == {"rows": 0, "expert": None, "rewritten": None, "matched": None, "sequence": None}
    assert summary["all"]["rewritten"]["sum_logprob"] == pytest.approx(-2.6 / 3)
    assert summary["self"]["matched"]["difference"] == pytest.approx(1.7)
    assert summary["all"]["sequence"] is None


# --------------------------------------------------------------------------------------------------------- the stage


def plainly(model: torch.nn.Module, messages: Sequence[dict[str, str]]) -> list[float]:
    """The response's log-probs by transformers alone, from the logits of the whole conversation."""
    reader = tokenizer().tokenizer
    prompt, whole = (
        reader(
            reader.apply_chat_template(part, tokenize=False, add_generation_prompt=opened), add_special_tokens=False
        ).input_ids
        for part, opened in ((messages[:-1], True), (messages, False))
    )
    end = len(whole) - whole[::-1].index(reader.eos_token_id)  # nothing after the end token
    assert whole[: len(prompt)] == prompt
    ids = torch.tensor([whole[:end]])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logp.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0].tolist()


def test_logprobs_of_200_rows_are_those_of_a_plain_forward_pass(tmp_path: Path) -> None:
    rows = rewritten_rows(200)
    written(tmp_path / "rewritten.parquet", rows)
    model = AutoModelForCausalLM.from_pretrained(TINY / "policy", dtype=torch.float32).eval()
    plain = AutoModelForCausalLM.from_pretrained(TINY / "policy", dtype=torch.float32).eval()
    summary = measured(tmp_path, partial(row_logprobs, model))
    table = list(read_rows(tmp_path / "gap.parquet"))
    assert [(row["id"], row["rung"]) for row in table] == [(row["id"], row["rung"]) for row in rows]
    for row, found in zip(rows, table, strict=True):
        kept = plainly(plain, row["messages"])
        expert = plainly(plain, [*row["messages"][:-1], {"role": "assistant", "content": row["solution"]}])
        assert found["rewritten_logprobs"] == pytest.approx(kept, abs=1e-4)
        assert found["expert_logprobs"] == pytest.approx(expert, abs=1e-4)
        behaviour = row["behaviour_logprobs"]
        if behaviour is None:
            assert found["log_ratio"] is None
        else:
            assert found["log_ratio"] == pytest.approx(sum(kept) - sum(behaviour), abs=1e-3)
    assert summary["all"]["rows"] == 200 and summary["all"]["rejected"] == 0
    for side, names in (("expert", "expert_logprobs"), ("rewritten", "rewritten_logprobs")):
        assert summary["all"][side]["sum_logprob"] == pytest.approx(np.mean([sum(row[names]) for row in table]))
        guided = [row[names] for row in table if row["rung"] == "guided"]
        assert summary["guided"][side] == pytest.approx(statistics(guided))
    recorded = [row["log_ratio"] for row in table if row["log_ratio"] is not None]
    assert summary["all"]["sequence"]["rows"] == len(recorded) == 67
    assert summary["all"]["sequence"]["kl"] == pytest.approx(-np.mean(recorded))
    assert summary["expert"]["sequence"] is None


def test_a_response_that_is_the_experts_own_is_scored_once(tmp_path: Path) -> None:
    seen: list[Pair] = []

    def noting(pairs: Sequence[Pair]) -> Iterator[tuple[int, list[float]]]:
        seen.extend(pairs)
        yield from scripted(pairs)

    rows = rewritten_rows(12)
    written(tmp_path / "rewritten.parquet", rows)
    measured(tmp_path, noting)
    assert len(seen) == len(set(seen)) == 12 + sum(row["rung"] != "expert" for row in rows)
    table = list(read_rows(tmp_path / "gap.parquet"))
    assert all((row["expert_logprobs"] == row["rewritten_logprobs"]) == (row["rung"] == "expert") for row in table)


def test_blocks_change_nothing_and_no_more_than_one_is_held(tmp_path: Path) -> None:
    sizes: list[int] = []

    def noting(pairs: Sequence[Pair]) -> Iterator[tuple[int, list[float]]]:
        sizes.append(len(pairs))
        yield from scripted(pairs)

    rows = rewritten_rows(50)
    for run in ("whole", "parts"):
        written(tmp_path / run / "rewritten.parquet", rows)
    whole = measured(tmp_path / "whole")
    assert figures(measured(tmp_path / "parts", noting, block=8)) == pytest.approx(figures(whole))
    assert len(sizes) == 7 and max(sizes) <= 16
    assert pq.read_table(tmp_path / "whole/gap.parquet").equals(pq.read_table(tmp_path / "parts/gap.parquet"))
    assert figures(measured_before(tmp_path / "parts/gap.parquet", 0)) == pytest.approx(figures(whole))


def figures(summary: dict[str, Any], above: str = "") -> dict[str, Any]:
    """All figures of a summary by their path."""
    found: dict[str, Any] = {}
    for name, value in summary.items():
        found |= figures(value, f"{above}{name}/") if isinstance(value, dict) else {above + name: value}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


class Refusing(ChatTokenizer):
    """Takes no conversation whose response is long."""

    most = 50

    def training_ids(self, messages: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        prompt, response = super().training_ids(messages)
        if len(response) > self.most:
            raise DataError("too long for this template")
        return prompt, response


def test_rows_that_the_chat_template_refuses_are_counted(tmp_path: Path) -> None:
    rows = rewritten_rows(60)
    written(tmp_path / "rewritten.parquet", rows)
    reader = Refusing(TINY / "policy")
    summary = measured(tmp_path, reader=reader, block=16)
    kept = {row["id"] for row in read_rows(tmp_path / "gap.parquet")}
    assert summary["all"]["rows"] == len(kept)
    assert summary["all"]["rejected"] == 60 - len(kept) > 0
    assert summary["all"]["expert"]["mean_tokens"] <= 50


def test_a_block_of_which_no_row_is_left_changes_nothing(tmp_path: Path) -> None:
    rows = sorted(rewritten_rows(40), key=lambda row: len(row["solution"]), reverse=True)
    written(tmp_path / "rewritten.parquet", rows)
    summary = measured(tmp_path, reader=Refusing(TINY / "policy"), block=2)
    kept = list(read_rows(tmp_path / "gap.parquet"))
    assert [row["id"] for row in kept[-2:]] == [row["id"] for row in rows[-2:]]
    assert summary["all"]["rows"] == len(kept) < 38


def test_where_no_row_fits_it_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    written(tmp_path / "rewritten.parquet", rewritten_rows(5))
    reader = Refusing(TINY / "policy")
    reader.most = 0
    with pytest.raises(DataError, match=r"none of the 5 rows of .* fits the chat template"):
        measured(tmp_path, reader=reader)
    assert not (tmp_path / "gap.parquet").exists()


def test_a_model_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "rewritten.parquet", rewritten_rows(3))
    with pytest.raises(PolicyError, match="no numbers"):
        measured(tmp_path, lambda pairs: ((n, [math.nan] * len(r)) for n, (_, r) in enumerate(pairs)))
    assert not (tmp_path / "gap.parquet").exists()


def test_sigkill_at_random_moments_costs_one_block_and_changes_nothing(tmp_path: Path) -> None:
    rows = rewritten_rows(160)
    for run in ("whole", "torn"):
        written(tmp_path / run / "rewritten.parquet", rows)
    whole = measured(tmp_path / "whole", block=16)
    script = "import sys; from pathlib import Path; from gaps import measured, slowly\n"
    script += "measured(Path(sys.argv[1]), slowly, block=16)"
    command = [sys.executable, "-c", script, str(tmp_path / "torn")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    luck, kept = random.Random(0), dict[str, int]()
    for _ in range(3):
        shut(tmp_path / "gate", 72)  # enough for two blocks, and not for three
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path)
        while process.poll() is None and len(parts_in(tmp_path / "torn")) < len(kept) + 2:
            time.sleep(0.01)
        time.sleep(luck.random() * 0.1)
        assert process.poll() is None
        process.kill()
        process.wait()
        found = parts_in(tmp_path / "torn")
        assert {name: found[name] for name in kept} == kept  # none is made again
        assert not (tmp_path / "torn/gap.parquet").exists()
        kept = found
    assert 6 <= len(kept) < 10
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    for name in ("gap.json", "gap.parquet"):
        assert (tmp_path / "torn" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert whole["all"]["rows"] == 160
    assert sorted(path.name for path in (tmp_path / "torn").iterdir()) == [
        ".lock",
        "gap.json",
        "gap.parquet",
        "rewritten.parquet",
    ]


def parts_in(run: Path) -> dict[str, int]:
    """The finished parts, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (run / ".gap/scripted").glob("[!.]*.parquet")}
