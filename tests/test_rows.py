import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import TINY, TOKENIZER, make_run, said, scores, state

from retell.cli import main
from retell.errors import DataError
from retell.journal import Journal
from retell.recipe import Recipe
from retell.records import Attempt, Completion, Outcome, Request, Sample, Stop, Verdict
from retell.rows import Rows, _chosen, shades
from retell.runfolder import RunFolder
from retell.showing import open_rows
from retell.tables import IdIndex, read_rows

GOLD = {"own": "7", "retold": "8", "lost": "9", "cut": "10"}
PROBLEMS = [{"id": one, "problem": f"The {one} one?", "solution": f"It is \\boxed{{{GOLD[one]}}}."} for one in GOLD]


def answer(request: Request) -> Completion:
    """`own` is right at the second try, `retold` when it sees the solution, `lost` and `cut` never."""
    right = f"I find \\boxed{{{GOLD[request.problem]}}} é日."
    wrong = said(f"{request.rung} {request.index}: I find \\boxed{{{request.index}}} 👩‍👧.")
    if request.problem == "own":
        return said(right) if request.index == 1 else wrong
    if request.problem == "retold":
        return said(right) if request.rung == "guided" and request.index == 1 else wrong
    if request.problem == "cut":
        ids, logprobs = (wrong.ids or ())[:-1], (wrong.logprobs or ())[:-1]
        return Completion(wrong.text, ids, logprobs, "length")
    return wrong


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("rows") / "run", PROBLEMS, answer)


def opened(path: Path) -> Rows:
    folder = RunFolder(path)
    recipe = folder.recipe()
    assert recipe
    return Rows(folder, open_rows(recipe, folder))


@pytest.fixture
def rows(run: Path) -> Iterator[Rows]:
    with opened(run) as table:
        yield table


def told(rows: Rows) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows.read(range(len(rows)))}


def spelt(response: dict[str, Any]) -> list[str]:
    """The texts of the tokens, as the page takes them from the lengths."""
    units = (response.get("spelt") or response["text"]).encode("utf-16-le")
    ends = [sum(response["lengths"][: place + 1]) for place in range(len(response["lengths"]))]
    return [units[2 * a : 2 * b].decode("utf-16-le") for a, b in zip([0, *ends], ends, strict=False)]


def test_a_row_shows_what_each_of_the_three_wrote(rows: Rows) -> None:
    own, retold, lost = (told(rows)[one] for one in ("own", "retold", "lost"))
    assert [row["rung"] for row in (own, retold, lost)] == ["self", "guided", "expert"]
    assert own["self"]["text"] == "I find \\boxed{7} é日."
    assert own["guided"] is None
    assert retold["self"]["text"] == "self 0: I find \\boxed{0} 👩‍👧."
    assert retold["guided"]["text"] == "I find \\boxed{8} é日."
    assert lost["expert"]["text"] == "It is \\boxed{9}."
    assert lost["guided"]["text"] == "guided 0: I find \\boxed{0} 👩‍👧."
    kept = [
        [name for name in ("expert", "self", "guided") if row[name] and row[name]["kept"]]
        for row in (own, retold, lost)
    ]
    assert kept == [["self"], ["guided"], ["expert"]]
    assert (own["answer"], own["problem"], own["row"], lost["row"]) == ("7", "The own one?", 0, 2)


def test_verdicts_have_what_was_read_and_why(rows: Rows) -> None:
    row = told(rows)["retold"]
    assert (row["guided"]["outcome"], row["guided"]["extracted"]) == ("correct", "8")
    assert (row["self"]["outcome"], row["self"]["extracted"], row["self"]["reason"]) == ("wrong", "0", "another number")
    assert "outcome" not in row["expert"]
    cut = told(rows)["cut"]
    assert (cut["self"]["outcome"], cut["self"]["reason"], cut["self"]["stop"]) == (
        "wrong",
        "stopped for length",
        "length",
    )


def test_every_attempt_that_a_row_rests_on_is_listed(rows: Rows) -> None:
    found = {
        name: [(one["rung"], one["index"], one["outcome"], one["kept"], one["shown"]) for one in row["attempts"]]
        for name, row in told(rows).items()
    }
    assert found["own"] == [("self", 0, "wrong", False, False), ("self", 1, "correct", True, True)]
    assert found["retold"] == [
        ("self", 0, "wrong", False, True),
        ("self", 1, "wrong", False, False),
        ("guided", 0, "wrong", False, False),
        ("guided", 1, "correct", True, True),
    ]
    assert [one[1] for one in found["lost"]] == [0, 1, 0, 1]
    assert told(rows)["retold"]["counts"] == {"self": [0, 2], "guided": [1, 2]}
    assert {name: row["verdicts"] for name, row in told(rows).items()} == {
        "own": ["correct", "wrong"],
        "retold": ["correct", "wrong"],
        "lost": ["wrong"],
        "cut": ["wrong"],
    }


def test_samples_that_a_row_does_not_rest_on_are_no_attempts(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", PROBLEMS[:1], answer, k=4)
    with opened(path) as rows, Journal(path / "journal.sqlite") as journal:
        before = told(rows)["own"]["attempts"]
        (row,) = read_rows(rows.path)
        keys = rows._keys(row, "self")
        assert [key in journal.samples(keys) for key in keys] == [True, True, False, False]
        journal.add_samples([Sample(keys[2], "own", "self", 0, 2, said("drawn beside them"))])
        assert told(rows)["own"]["attempts"] == before


def test_the_kept_attempt_is_the_first_that_was_right_and_says_the_same() -> None:
    def attempt(index: int, text: str, stop: Stop, outcome: Outcome) -> Attempt:
        completion = Completion(text, None, None, stop)
        return Attempt(Sample(str(index), "p", "self", 0, index, completion), Verdict(outcome, None, ""))

    tries = [
        attempt(0, "same", "length", "wrong"),
        attempt(1, "other", "stop", "correct"),
        attempt(2, "same", "stop", "correct"),
        attempt(3, "same", "stop", "correct"),
    ]
    assert _chosen({"response": "same", "response_token_ids": None}, tries) is tries[2]
    assert _chosen({"response": "none", "response_token_ids": None}, tries) is None


def test_logprobs_of_another_row_are_never_taken(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IdIndex, "places", lambda self, hashes: np.zeros(len(hashes), np.int64))
    with opened(run) as rows:
        measured = [name for name, row in told(rows).items() if "logprob" in row["expert"]]
    assert measured == ["cut"], "the others have the hash of the first row of gap.parquet, and are not it"


def test_an_attempt_can_be_had_by_itself(rows: Rows) -> None:
    other = rows.attempt(0, "self", 0)
    assert other is not None
    assert other["text"] == "self 0: I find \\boxed{0} 👩‍👧."
    assert other["sampled"]
    kept = rows.attempt(0, "self", 1)
    assert kept == told(rows)["own"]["self"]
    for nowhere in ((0, "self", 9), (0, "expert", 0), (0, "", 0), (99, "self", 0)):
        assert rows.attempt(*nowhere) is None


def test_logprobs_are_of_the_policy_where_they_are_measured_and_else_of_the_sample(rows: Rows) -> None:
    own, retold = told(rows)["own"], told(rows)["retold"]
    ids = said(own["self"]["text"]).ids
    assert ids
    hundredths = [round(-100 * score) for score in scores(ids)]
    assert own["self"]["logprobs"] == hundredths
    assert own["self"]["logprob"] == pytest.approx(sum(scores(ids)), abs=0.005)
    assert "sampled" not in own["self"]
    assert "logprobs" not in retold["expert"], "the second row was not measured"
    assert retold["guided"]["sampled"]
    assert retold["guided"]["logprobs"] == [
        round(-100 * score) for score in scores(said(retold["guided"]["text"]).ids or ())
    ]
    assert told(rows)["lost"]["self"]["sampled"]


def test_tokens_make_up_the_text_and_no_character_is_torn(rows: Rows) -> None:
    for row in told(rows).values():
        for response in filter(None, (row["expert"], row["self"], row["guided"])):
            if "lengths" in response:
                assert "".join(spelt(response)) == response["text"]
                assert len(response["lengths"]) == len(response["logprobs"]) == response["scored"]
    assert "日" in spelt(told(rows)["own"]["self"])
    assert told(rows)["own"]["self"]["ends"]
    assert not told(rows)["cut"]["self"]["ends"]


def test_rows_are_found_by_id_and_by_number(rows: Rows) -> None:
    assert [rows.place(of) for of in ("lost", "1", "4", "5", "0", "-1", "", "²", "9" * 30)] == [2, 0, 3] + [None] * 6


def test_rows_come_in_the_order_asked_for(rows: Rows) -> None:
    assert [row["row"] for row in rows.read([3, 0, 2])] == [3, 0, 2]
    assert rows.read([]) == []


def test_without_the_policy_the_texts_are_there_and_the_page_says_what_is_not(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = (copy / "recipe.resolved.toml").read_text(encoding="utf-8")
    (copy / "recipe.resolved.toml").write_text(
        recipe.replace(str(TINY / "policy"), "/nowhere/at/all"), encoding="utf-8"
    )
    with opened(copy) as rows:
        assert "there is no model folder /nowhere/at/all" in rows.notes[0]
        own, lost = told(rows)["own"], told(rows)["lost"]
        assert rows.attempt(0, "self", 0) is None
    assert (own["self"]["text"], own["self"]["outcome"], own["attempts"]) == ("I find \\boxed{7} é日.", "correct", None)
    assert "lengths" not in own["self"]
    assert own["self"]["logprob"] < 0
    assert own["verdicts"] == ["correct", "wrong"]
    assert (lost["self"], lost["guided"], lost["verdicts"]) == (None, None, ["wrong"])


def test_without_measured_logprobs_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    with opened(make_run(tmp_path / "run", PROBLEMS[:1], answer, gap=False)) as rows:
        assert rows.notes == [
            f"The log-probs of the expert's texts are not known: `retell gap {tmp_path / 'run'}` measures them."
        ]
        assert told(rows)["own"]["self"]["sampled"]
        assert "logprob" not in told(rows)["own"]["expert"]


def test_recorded_responses_are_attempts_without_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "run"
    row = {"id": "a", "problem": "1 + 1?", "solution": "\\boxed{2}", "candidates": ["\\boxed{3}", "\\boxed{2}"]}
    data.write_text(json.dumps(row), encoding="utf-8")
    rewriting = ["rewrite", "--engine", "recorded", "--data", str(data), "--out", str(out)]
    assert main(rewriting) == 0
    with opened(out) as rows:
        (one,) = rows.read([0])
    assert [(at["index"], at["outcome"], at["kept"]) for at in one["attempts"]] == [
        (0, "wrong", False),
        (1, "correct", True),
    ]
    assert one["self"]["text"] == "\\boxed{2}"
    # A model that is named afterwards, such as for the log-probs, does not hide them.
    recipe = (out / "recipe.resolved.toml").read_text(encoding="utf-8")
    named = recipe.replace("[policy]", f'[policy]\nmodel = "{TINY / "policy"}"')
    (out / "recipe.resolved.toml").write_text(named, encoding="utf-8")
    with opened(out) as rows:
        assert len(rows.read([0])[0]["attempts"]) == 2


def test_looking_changes_nothing_in_the_folder(run: Path) -> None:
    before = state(run)
    with opened(run) as rows:
        told(rows)
    assert state(run) == before


def test_a_run_without_rows_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "rewritten.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"cannot read .*rewritten\.parquet"):
        Rows(RunFolder(tmp_path), open_rows(Recipe(), RunFolder(tmp_path)))


@given(st.text(max_size=40), st.data())
def test_shades_are_of_all_tokens_in_units_that_a_browser_counts(text: str, data: st.DataObject) -> None:
    ids = TOKENIZER.training_ids([{"role": "user", "content": "?"}, {"role": "assistant", "content": text}])[1]
    logprobs = data.draw(st.lists(st.floats(-1e6, 0), min_size=len(ids), max_size=len(ids)))
    shaded = shades(text, ids, logprobs, TOKENIZER)
    assert sum(shaded["lengths"]) == len(text.encode("utf-16-le")) // 2
    assert "".join(spelt({"text": text} | shaded)) == text
    assert all(0 <= one <= 9999 for one in shaded["logprobs"])
    assert shaded["logprob"] == pytest.approx(sum(logprobs), abs=0.006)


def test_shades_without_tokens_have_the_sum_and_what_is_no_number_is_none() -> None:
    assert shades("a", None, [-1.0, -0.5], None) == {"scored": 2, "logprob": -1.5}
    assert shades("a", [1, 2, 3], [-1.0], TOKENIZER) == {"scored": 1, "logprob": -1.0}
    assert shades("a", None, None, None) == {}
    odd = shades("", [TOKENIZER.training_end], [-math.inf], TOKENIZER)
    assert (odd["logprob"], odd["logprobs"], odd["ends"]) == (None, [9999], True)


def test_tokens_that_do_not_say_the_text_are_shown_as_they_are() -> None:
    completion = said("one")
    shaded = shades("two", completion.ids, completion.logprobs, TOKENIZER)
    assert shaded["spelt"] == "one"
    assert "".join(spelt({"text": "two"} | shaded)) == "one"
