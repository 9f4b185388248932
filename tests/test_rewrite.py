import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from gate import shut
from scripts import climb_all, coin, loaded, problems, says

from retell.engines.recorded import RecordedEngine
from retell.engines.scripted import ScriptedEngine
from retell.errors import DataError, EngineError
from retell.prompts import Prompter
from retell.recipe import Policy
from retell.records import Completion, Reject, Request
from retell.rewrite import reject_untrainable
from retell.tokens import ChatTokenizer


def rows(folder: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / "rewritten.parquet").to_pylist()
    return table


def length(completion: Completion) -> int:
    return len(completion.text)


def right(request: Request) -> str:
    return f"\\boxed{{{int(request.problem[1:]) + 100}}}"


def test_the_ladder_keeps_self_else_guided_else_expert(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        number = int(request.problem[1:])
        solved = {0: "self", 1: "guided"}.get(number % 3)
        return right(request) + f" {request.rung}" if request.rung == solved else "\\boxed{0}"

    summary = climb_all(tmp_path, problems(9), says(answer), k=4, exhaustive=True)
    assert summary["rungs"] == {"self": 3, "guided": 3, "expert": 3}
    assert summary["samples"] == {"self": 36, "guided": 24}
    assert summary["not_drawn"] == {"self": 0, "guided": 0}
    for number, row in enumerate(rows(tmp_path)):
        assert row["id"] == f"p{number}"
        assert row["rung"] == ("self", "guided", "expert")[number % 3]
        expert = row["rung"] == "expert"
        assert row["response"] == (row["solution"] if expert else f"\\boxed{{{number + 100}}} {row['rung']}")
        assert row["verdict"] == (None if expert else "correct")
        assert (row["samples_self"], row["samples_guided"]) == (4, 0 if row["rung"] == "self" else 4)
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["messages"][-1]["content"] == row["response"]


def test_the_reference_is_in_the_guided_prompt_and_never_in_the_training_prompt(tmp_path: Path) -> None:
    seen: dict[str, str] = {}

    def answer(request: Request) -> str:
        seen[request.rung] = request.prompt.messages[-1]["content"]
        return "\\boxed{0}" if request.rung == "self" else right(request)

    climb_all(tmp_path, problems(1), says(answer), k=1)
    solution = problems(1)[0].solution
    assert solution in seen["guided"]
    assert solution not in seen["self"]
    assert [m["content"] for m in rows(tmp_path)[0]["messages"][:-1]] == [seen["self"]]


def test_the_accepted_sample_of_lowest_index_is_kept(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        return f"{right(request)} number {request.index}" if request.index in (2, 5) else "\\boxed{0}"

    climb_all(tmp_path, problems(3), says(answer), k=8, exhaustive=True)
    assert {row["response"].split()[-1] for row in rows(tmp_path)} == {"2"}
    assert {row["correct_self"] for row in rows(tmp_path)} == {2}


def test_a_truncated_response_is_never_correct(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request, _: Completion(right(request), None, None, "length"))
    summary = climb_all(tmp_path, problems(4), engine, k=2)
    assert summary["rungs"] == {"self": 0, "guided": 0, "expert": 4}
    assert summary["truncated"] == 16


def test_a_retelling_that_speaks_of_the_reference_is_passed_over(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        if request.rung == "self":
            return "\\boxed{0}"
        said = "As the teacher says, " if request.index == 0 else "By adding up, so to say, "
        return said + right(request)

    summary = climb_all(tmp_path, problems(3), says(answer), k=2)
    assert summary["rungs"]["guided"] == 3
    assert summary["leaked"] == 3
    assert all(row["response"].startswith("By adding") for row in rows(tmp_path))
    assert all(row["correct_guided"] == 2 for row in rows(tmp_path))  # one was refused, so the next was drawn


def test_self_solutions_are_not_filtered_for_leaks(tmp_path: Path) -> None:
    summary = climb_all(tmp_path, problems(2), says(lambda r: "As my teacher says, " + right(r)), k=1)
    assert summary["rungs"]["self"] == 2


def test_rows_in_are_rows_out_and_rejects(tmp_path: Path) -> None:
    reject = Reject("x.jsonl:3", "no_gold", "none")
    summary = climb_all(tmp_path, problems(40), rejected=(reject,), k=3)
    assert sum(summary["rungs"].values()) == summary["problems"] == len(rows(tmp_path)) == 40
    assert summary["rejected"] == {"no_gold": 1}
    assert len((tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_batch_order_and_interruption_change_nothing(tmp_path: Path) -> None:
    climb_all(tmp_path / "a", problems(40), ScriptedEngine(coin, batch=64), k=4)

    calls = Counter[str]()

    def failing(request: Request, luck: Any) -> Completion | str:
        calls["n"] += 1
        if calls["n"] > 60:
            raise KeyboardInterrupt
        return coin(request, luck)

    with pytest.raises(KeyboardInterrupt):
        climb_all(tmp_path / "b", problems(40), ScriptedEngine(failing, batch=5), k=4)
    climb_all(tmp_path / "b", problems(40), ScriptedEngine(coin, batch=3), k=4)
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_a_rung_ends_with_the_wave_that_has_an_accepted_sample(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        first = int(request.problem[1:])  # p0 is solved by sample 0, p1 by sample 1, …
        return right(request) + f" {request.index}" if request.index >= first else "\\boxed{0}"

    summary = climb_all(tmp_path, problems(8), says(answer), k=8)
    assert [row["samples_self"] for row in rows(tmp_path)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [row["response"].split()[-1] for row in rows(tmp_path)] == [str(i) for i in range(8)]
    assert summary["samples"]["self"] == 43
    assert summary["not_drawn"]["self"] == 64 - 43


@pytest.mark.parametrize("k", [1, 3, 4, 16])
def test_lazy_and_exhaustive_runs_keep_the_same_rows(tmp_path: Path, k: int) -> None:
    lazy = climb_all(tmp_path / "lazy", problems(60), ScriptedEngine(coin, steps=length), k=k)
    whole = climb_all(tmp_path / "whole", problems(60), k=k, exhaustive=True)
    drawn = {"samples_self", "correct_self", "samples_guided", "correct_guided"}
    kept = [[{n: v for n, v in row.items() if n not in drawn} for row in rows(tmp_path / d)] for d in ("lazy", "whole")]
    assert kept[0] == kept[1]
    assert lazy["rungs"] == whole["rungs"]
    assert sum(lazy["samples"].values()) + sum(lazy["not_drawn"].values()) == sum(whole["samples"].values())
    if k > 2:
        assert sum(lazy["samples"].values()) < sum(whole["samples"].values())


def test_an_exhaustive_start_goes_on_from_a_lazy_one(tmp_path: Path) -> None:
    lazy = climb_all(tmp_path, problems(30), k=8)
    drawn: list[str] = []

    def noting(request: Request, luck: Any) -> Completion | str:
        drawn.append(request.key)
        return coin(request, luck)

    whole = climb_all(tmp_path, problems(30), ScriptedEngine(noting), k=8, exhaustive=True)
    assert len(drawn) == sum(whole["samples"].values()) - sum(lazy["samples"].values()) > 0


def test_a_problem_that_the_engine_failed_on_has_no_row_and_is_tried_again(tmp_path: Path) -> None:
    def answer(request: Request, _: object) -> Completion | str:
        failing = request.problem == "p1" or (request.problem == "p2" and request.index == 0)
        if failing:
            return Completion("", None, None, "error", error="timeout")
        return right(request) if request.rung == "self" else "\\boxed{0}"

    summary = climb_all(tmp_path, problems(4), ScriptedEngine(answer), k=4)
    assert [row["id"] for row in rows(tmp_path)] == ["p0", "p3"]  # the failed one of p2 could have been the first
    assert summary["rungs"] == {"self": 2, "guided": 0, "expert": 0}
    assert summary["samples"] == {"self": 2, "guided": 0}  # what failed is no sample, and nobody was shown a solution
    assert summary["rejected"] == {"engine_failed": 2}
    assert summary["failed"] == 2
    assert "timeout" in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8")
    again = climb_all(tmp_path, problems(4), says(right), k=4)
    assert again["rungs"]["self"] == 4 and again["failed"] == 0


def test_a_run_of_failures_alone_is_an_error(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda *_: Completion("", None, None, "error", error="401: who are you"))
    with pytest.raises(EngineError, match="401: who are you"):
        climb_all(tmp_path, problems(2), engine, k=2)


def test_sigkill_at_random_moments_changes_nothing_and_no_stored_sample_is_drawn_again(tmp_path: Path) -> None:
    climb_all(tmp_path / "whole", problems(150), ScriptedEngine(coin, batch=4, steps=length), k=4)
    script = (
        "import sys; from pathlib import Path; from scripts import climb_all, noting, problems\n"
        "climb_all(Path(sys.argv[1]), problems(150), noting(Path(sys.argv[2])), k=4)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "torn"), str(tmp_path / "asked")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    luck, kills, stored = random.Random(0), 0, set[str]()
    while kills < 50:
        shut(tmp_path / "gate", 12)
        process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path)
        begun = len(lines(tmp_path / "asked"))
        while process.poll() is None and len(lines(tmp_path / "asked")) == begun:
            time.sleep(0.01)  # a kill before the first request would interrupt nothing
        time.sleep(luck.random() * 0.1)
        assert process.poll() is None
        process.kill()
        process.wait()
        kills += 1
        assert not stored & set(lines(tmp_path / "asked")[begun:])
        with contextlib.closing(sqlite3.connect(tmp_path / "torn" / "journal.sqlite")) as journal:
            assert journal.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            now = {key for (key,) in journal.execute("SELECT key FROM samples")}
        assert stored <= now
        stored = now
    assert len(stored) > 0
    subprocess.run(arguments, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert rows(tmp_path / "torn") == rows(tmp_path / "whole")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_larger_k_goes_on_from_what_was_drawn(tmp_path: Path) -> None:
    climb_all(tmp_path, problems(20), k=2)
    drawn: list[int] = []

    def noting(request: Request, luck: Any) -> Completion | str:
        drawn.append(request.index)
        return coin(request, luck)

    climb_all(tmp_path, problems(20), ScriptedEngine(noting), k=5)
    assert {row["rung"] for row in rows(tmp_path)} == {"self", "guided", "expert"}
    assert set(drawn) == {2, 3, 4}


def test_recorded_candidates_are_all_graded_and_one_accepted_is_chosen_by_seed(tmp_path: Path) -> None:
    rights = [f"\\boxed{{100}} version {i}" for i in range(6)]
    base = [replace(problems(1)[0], id=f"q{i}", candidates=("\\boxed{1}", *rights)) for i in range(60)]
    none = replace(problems(1)[0], id="none", candidates=("\\boxed{1}",))
    summary = climb_all(tmp_path, [*base, none], RecordedEngine([*base, none]))
    assert summary["rungs"] == {"self": 60, "guided": 0, "expert": 1}
    assert summary["samples"] == {"self": 60 * 7 + 1, "guided": 0}
    assert summary["tokens"] == {"prompt": None, "generated": None}
    assert summary["tokens_saved"] is None
    chosen = Counter(row["response"] for row in rows(tmp_path) if row["rung"] == "self")
    assert chosen.keys() == set(rights)  # by seed: none of six is left out in sixty draws
    assert all(row["response_token_ids"] is None and row["behaviour_logprobs"] is None for row in rows(tmp_path))


def test_overlong_rows_are_rejected_and_never_cut() -> None:
    tokenizer = ChatTokenizer(tiny_policy())
    prompter = Prompter(Policy(), tokenizer)
    short, long = problems(2)
    long = replace(long, solution=long.solution + " and so on" * 200)
    kept = reject_untrainable(loaded([short, long]), prompter, tokenizer, 200)
    assert kept.problems == (short,)
    assert [(reject.id, reject.reason) for reject in kept.rejected] == [("p1", "overlong")]
    with pytest.raises(DataError, match="overlong"):
        reject_untrainable(loaded([long]), prompter, tokenizer, 200)


def test_a_row_that_spells_out_a_control_token_is_rejected() -> None:
    tokenizer = ChatTokenizer(tiny_policy())
    good, bad, worse = problems(3)
    bad = replace(bad, problem=bad.problem + "<|end|><|assistant|>")
    worse = replace(worse, solution="<|user|>" + worse.solution)
    kept = reject_untrainable(loaded([good, bad, worse]), Prompter(Policy(), tokenizer), tokenizer, 200)
    assert kept.problems == (good,)
    assert [reject.reason for reject in kept.rejected] == ["control_token", "control_token"]


def tiny_policy() -> Path:
    import retell

    return Path(retell.__file__).parent / "tiny" / "policy"
