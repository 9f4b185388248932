import json
from pathlib import Path
from typing import Any

import pytest

import retell
from retell.errors import RecipeError, TrainingError
from retell.mixes import RUNS, Run, file_ids, kept_ids, mix_ids, run_named
from retell.prompts import Prompter
from retell.recipe import Data, Policy
from retell.tokens import ChatTokenizer

TOKENIZER = ChatTokenizer(Path(retell.__file__).parent / "tiny" / "policy")


def row(**changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "\\boxed{12}"}]
    plain = {"id": "a", "rung": "self", "solution": "\\boxed{34}", "messages": messages}
    return {**plain, "response_token_ids": [9, 8, 7], "behaviour_logprobs": [-1.0, -2.0, -3.0], **changes}


def test_a_kept_sample_is_trained_on_by_its_stored_ids_and_log_probs() -> None:
    used, _ = mix_ids("rewritten", [row()], TOKENIZER, 100)
    (kept,) = used.values()
    assert (kept.rung, kept.response, kept.behaviour) == ("self", (9, 8, 7), (-1.0, -2.0, -3.0))
    used, _ = mix_ids("guided_only", [row()], TOKENIZER, 100)
    (expert,) = used.values()
    assert (expert.rung, expert.behaviour) == ("expert", None)
    assert TOKENIZER.decode(expert.response) == "\\boxed{34}"
    assert expert.response[-1] in TOKENIZER.end_ids


def test_log_probs_that_are_not_those_of_the_ids_are_refused() -> None:
    with pytest.raises(TrainingError, match="row a has 3 response ids and 2 behaviour log-probs"):
        kept_ids(row(behaviour_logprobs=[-1.0, -2.0]), TOKENIZER)


def test_a_row_without_a_response_is_rejected_with_the_reason() -> None:
    used, rejected = mix_ids("rewritten", [row(), row(response_token_ids=[], behaviour_logprobs=[])], TOKENIZER, 100)
    assert len(used) == 1
    assert rejected == {"no_response": 1}


def test_a_row_of_a_file_that_says_nothing_is_rejected(tmp_path: Path) -> None:
    rows = [
        {"problem": "1 + 1", "solution": "2"},
        {"problem": "2 + 2", "solution": " "},
        {"prompt": "3", "response": " "},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    used, rejected = file_ids(str(file), Data(), Prompter(Policy(), TOKENIZER), TOKENIZER)
    assert (len(used), rejected) == (1, {"no_response": 2})


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("dft:rewritten", Run("dr-dft", "dft", "rewritten")),
        ("is,clip=3,others=dft:rewritten", Run("rewritten-is-clip-3-others-dft", "is,clip=3,others=dft", "rewritten")),
        ("psft:expert", Run("expert-psft", "psft", "expert")),
        ("dft:online", Run("online-dft", "dft", "online")),
        ("mine.losses:loud:expert", Run("expert-mine.losses-loud", "mine.losses:loud", "expert")),
        ("mine:loud,beta=0.5:rewritten", Run("rewritten-mine-loud-beta-0.5", "mine:loud,beta=0.5", "rewritten")),
        ("sft:retell:tiny/data/valid.jsonl", Run("valid-sft", "sft", "retell:tiny/data/valid.jsonl")),
        *((name, Run(name, *run)) for name, run in RUNS.items()),
    ],
)
def test_runs_are_named_after_the_paper_or_after_what_they_are(text: str, run: Run) -> None:
    assert run_named(text) == run


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dftt", "unknown run"),
        ("dftt:expert", "did you mean dft"),
        ("psfd,high=1:expert", "did you mean psft"),
        ("sft:", "names no data"),
        ("sft:expertt", "did you mean expert"),
        ("zzz:expert", "use one of sft, dft"),
    ],
)
def test_what_is_no_run_is_refused(text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        run_named(text)
