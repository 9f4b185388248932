import json
import os
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scripts import climb_all, coin, problems

import retell
from retell.cli import main
from retell.engines.base import Engine
from retell.engines.scripted import ScriptedEngine
from retell.errors import EngineError
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.ladder import Climb, Ladder
from retell.meter import Meter
from retell.preview import Look, Scored, climb_some, gap_of, summarise
from retell.prompts import Prompter
from retell.recipe import Policy, Rewrite
from retell.records import Completion, Problem, Request, Row
from retell.rollout import Stream

TINY = Path(retell.__file__).parent / "tiny"
POLICY = ["--model", str(TINY / "policy"), "--guided-template", str(TINY / "guided.txt")]
SIZES = ["--data", str(TINY / "data/train.jsonl"), "--max-length", "320", "--k", "2", "--max-tokens", "100"]
ASKED = [*POLICY, *SIZES]


def climbs_of(engine: Engine, some: list[Problem], **settings: Any) -> list[Climb]:
    chosen = Rewrite(**settings)
    with Journal(Path(":memory:")) as journal, GraderPool(MathGrader(), 1) as graders:
        ladder = Ladder(chosen, Prompter(Policy(), None, "guided"), engine, "scripted", 2048)
        stream = Stream("rewrite", "scripted", chosen.seed)
        return climb_some(some, ladder, engine, graders, journal, stream, Meter())


def look(engine: Engine, some: list[Problem], everything: int, rejected: int = 0, **settings: Any) -> dict[str, Any]:
    """The summary of a preview by a scripted engine, without log-probs."""
    rows = [climb for climb in climbs_of(engine, some, **settings) if isinstance(climb.result, Row)]
    counts = {"overlong": rejected} if rejected else {}
    return summarise(Look(rows, counts, everything, bool(settings.get("exhaustive")), None, 50.0))


def thirds(request: Request) -> Completion:
    """Of three problems the first is solved, the second retold, the third neither; ten tokens each."""
    number = int(request.problem[1:])
    right = request.rung == ("self", "guided", "none")[number % 3]
    return Completion(f"\\boxed{{{number + 100 + (not right)}}}", tuple(range(10)), None, "stop")


def test_counts_and_projections_have_their_closed_forms() -> None:
    engine = ScriptedEngine(lambda request, _: thirds(request))
    found = look(engine, problems(30), 3000, k=4)
    assert (found["problems"], found["of"]) == (30, 3000)
    assert found["rungs"] == {"self": 10, "guided": 10, "expert": 10}
    assert found["samples"] == {"self": 10 + 20 * 4, "guided": 10 + 10 * 4}
    assert found["pass_rate"]["self"]["value"] == pytest.approx(100 / 3)
    assert found["pass_rate"]["guided"]["value"] == pytest.approx(50)
    for rung in ("self", "guided", "expert"):
        assert found["shares"][rung]["value"] == pytest.approx(100 / 3)
        assert found["shares"][rung]["low"] < 25 and found["shares"][rung]["high"] > 45
    whole = found["whole"]
    assert whole["rows"] == {"value": 3000, "low": 3000, "high": 3000}
    assert whole["samples"]["self"]["value"] == pytest.approx(100 * 90)
    assert whole["samples"]["guided"]["value"] == pytest.approx(100 * 50)
    assert whole["tokens"]["generated"]["value"] == pytest.approx(100 * 1400)
    # A problem takes 10, 50 or 80 tokens, a third of them each; 50 tokens a second.
    spread = np.std([10] * 10 + [50] * 10 + [80] * 10, ddof=1)
    half = 1.96 * spread * (3000 * 2970 / 30) ** 0.5
    assert whole["tokens"]["generated"]["high"] == pytest.approx(140_000 + half)
    assert whole["hours"]["generated"]["value"] == pytest.approx(140_000 / 50 / 3600)
    assert whole["tokens"]["prompt"] is None and whole["hours"]["scored"] is None
    assert whole["disk_bytes"]["journal"][0] < 14_000 * 300 + 140_000 * 25 < whole["disk_bytes"]["journal"][1]
    assert whole["disk_bytes"]["all"] is None


def test_of_all_problems_everything_is_known() -> None:
    found = look(ScriptedEngine(lambda request, _: thirds(request)), problems(30), 30, k=4)
    assert found["shares"]["self"] == pytest.approx({"value": 100 / 3, "low": 100 / 3, "high": 100 / 3})
    assert found["whole"]["tokens"]["generated"] == {"value": 1400, "low": 1400, "high": 1400}


def test_rejected_problems_take_nothing_and_are_in_no_share() -> None:
    found = look(ScriptedEngine(lambda request, _: thirds(request)), problems(30), 4000, rejected=10, k=4)
    assert (found["problems"], found["rejected"]) == (40, {"overlong": 10})
    assert found["shares"]["self"]["value"] == pytest.approx(100 / 3)
    assert found["whole"]["rows"]["value"] == pytest.approx(3000)
    assert found["whole"]["rows"]["low"] < 2700 and found["whole"]["rows"]["high"] > 3300
    assert found["whole"]["tokens"]["generated"]["value"] == pytest.approx(140_000)


def test_the_whole_lies_in_the_intervals_as_often_as_they_say(tmp_path: Path) -> None:
    everything = problems(600)
    truth = climb_all(tmp_path, everything, k=4)
    climbs = climbs_of(ScriptedEngine(coin), everything, k=4)
    rng, inside = random.Random(0), Counter[str]()
    for _ in range(60):
        found = summarise(Look(rng.sample(climbs, 100), {}, 600, False, None, None))
        wanted = {"pass": (found["pass_rate"]["self"], truth["pass_rate"]["self"]["percent"])}
        wanted |= {rung: (found["shares"][rung], n / 6) for rung, n in truth["rungs"].items()}
        wanted |= {f"drawn {rung}": (found["whole"]["samples"][rung], n) for rung, n in truth["samples"].items()}
        inside.update(name for name, (told, right) in wanted.items() if told["low"] <= right <= told["high"])
    assert len(inside) == 6
    assert min(inside.values()) >= 52  # of 60; 57 are expected, with a standard deviation of 1.7
    assert max(inside.values()) >= 55


def test_all_samples_of_an_exhaustive_preview_count_for_the_pass_rate() -> None:
    engine = ScriptedEngine(coin)
    lazy, exhaustive = (look(engine, problems(40), 4000, k=8, exhaustive=whole) for whole in (False, True))
    widths = [one["pass_rate"]["self"]["high"] - one["pass_rate"]["self"]["low"] for one in (lazy, exhaustive)]
    assert widths[1] < widths[0] / 1.5
    assert lazy["shares"] == exhaustive["shares"]


def test_problems_the_engine_fails_on_are_left_out() -> None:
    def answer(request: Request, _: random.Random) -> Completion:
        number = int(request.problem[1:])
        return thirds(request) if number % 2 else Completion("", None, None, "error", "no room", lasting=True)

    found = look(ScriptedEngine(answer), problems(12), 1200, k=1)
    assert (found["problems"], sum(found["rungs"].values())) == (6, 6)
    with pytest.raises(EngineError, match="every problem"):
        look(ScriptedEngine(answer), problems(1), 1200, k=1)


def test_the_gap_has_its_definitions() -> None:
    rng = np.random.default_rng(0)
    logp = [[-rng.exponential(1.0, rng.integers(2, 9)) for _ in range(3)] for _ in range(50)]
    sums = [
        [[len(t), t.sum(), np.exp(t).sum(), np.exp(2 * t).sum(), (np.exp(t) < 0.1).sum()] for t in texts]
        for texts in logp
    ]
    found = gap_of(Scored(np.array(sums, dtype=float), np.ones(50), 1.0, 0))
    tokens = {name: np.concatenate([texts[at] for texts in logp]) for at, name in enumerate(("expert", "rewritten"))}
    weights = np.exp(tokens["expert"])
    expert = {name: one.value for name, one in found["expert"].items()}
    assert expert["mean_token_logprob"] == pytest.approx(tokens["expert"].mean())
    assert expert["perplexity"] == pytest.approx(np.exp(-tokens["expert"].mean()))
    assert expert["share_below_0.1"] == pytest.approx((weights < 0.1).mean())
    assert expert["token_ess"] == pytest.approx(weights.sum() ** 2 / (weights.size * (weights**2).sum()))
    assert expert["sum_logprob"] == pytest.approx(tokens["expert"].sum() / 50)
    assert expert["mean_tokens"] == pytest.approx(tokens["expert"].size / 50)
    difference = tokens["rewritten"].mean() - tokens["expert"].mean()
    assert found["difference"]["rewritten"].value == pytest.approx(difference)
    for one in (*found["expert"].values(), *found["difference"].values()):
        assert one.low < one.value < one.high


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    status = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    summary: dict[str, Any] = json.loads(out)
    return summary


def keys(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "journal.sqlite")) as journal:
        return {key for (key,) in journal.execute("SELECT key FROM samples")}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal but for what depends on time."""
    passing = {"tokens_per_second", "hours"}
    wholes = [{key: value for key, value in two["whole"].items() if key not in passing} for two in (one, other)]
    return wholes[0] == wholes[1] and one | {"whole": 0} == other | {"whole": 0}


def test_a_preview_of_the_tiny_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a rewriting of all 40: nothing is drawn twice or in vain, and the same rows come out."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    limited = [*ASKED, "--limit", "40"]
    found = run(capsys, "gap", both, "--preview", "10", *limited)
    assert json.loads((both / "preview.json").read_text(encoding="utf-8")) == found
    assert (found["problems"], found["of"], sum(found["rungs"].values())) == (10, 40, 10)
    assert found["whole"]["tokens_per_second"]["generated"] > 0
    assert found["gap"]["difference"]["rewritten"]["value"] > 0
    previewed = keys(both)
    assert len(previewed) == sum(found["samples"].values())

    run(capsys, "rewrite", *limited, "--out", alone)
    whole = run(capsys, "rewrite", "--out", both)
    assert keys(both) == keys(alone) > previewed
    rows = [pq.read_table(place / "rewritten.parquet").drop_columns("behaviour_logprobs") for place in (both, alone)]
    assert rows[0] == rows[1]
    total = found["whole"]["samples"]
    assert total["self"]["low"] <= whole["samples"]["self"] <= total["self"]["high"]

    assert run(capsys, "gap", both, "--preview", "10") == found  # up to date, though all is rewritten now
    measured = run(capsys, "gap", both)["all"]
    every = run(capsys, "gap", both, "--preview", "40")
    for text in ("expert", "rewritten"):
        for name in ("mean_token_logprob", "token_ess", "share_below_0.1", "sum_logprob", "mean_tokens"):
            assert every["gap"][text][name]["value"] == pytest.approx(measured[text][name], rel=1e-4), (text, name)
    assert every["whole"]["hours"]["generated"] is None  # nothing was drawn


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    found = run(capsys, "gap", "--preview", "3", *ASKED)
    assert found["of"] == 2048 and not os.listdir(tmp_path)
    assert main(["gap", "--preview", "3", *ASKED]) == 0
    page = capsys.readouterr().out
    for said in ("3 of 2,048 problems", "correct at one try", "tokens generated", "token ESS", "docs/advice.md"):
        assert said in page


def test_a_preview_that_ended_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(capsys, "gap", tmp_path / "whole", "--preview", "8", *ASKED)
    stopped = ["gap", str(tmp_path / "stopped"), "--preview", "8", *ASKED, "--engine-args.batch-size", "2"]
    assert main([*stopped, "--max-tokens-total", "100", "--json"]) != 0
    assert "max_tokens_total" in capsys.readouterr().err
    before = keys(tmp_path / "stopped")
    assert before and not (tmp_path / "stopped/preview.json").exists()
    assert same(run(capsys, *stopped), whole)
    assert keys(tmp_path / "stopped") == keys(tmp_path / "whole") > before


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def test_what_a_preview_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert "at least 1" in refused(capsys, "gap", out, "--preview", "0", *ASKED)
    assert "the data has 2,048" in refused(capsys, "gap", out, "--preview", "5000", *ASKED)
    assert "no policy named" in refused(capsys, "gap", out, "--preview", "3", *SIZES)
    assert "no data named" in refused(capsys, "gap", "--preview", "3", *POLICY)
    assert "name the folder" in refused(capsys, "gap", "--preview", "3", *ASKED, "--max-hours", "1")
    assert not out.exists()
    assert "'runs/one' (of --ray" in refused(capsys, "gap", "--preview", "3", *ASKED, "--ray", "runs/one")
    assert "--tables has no effect" in refused(capsys, "gap", "--preview", "3", "--tables", *ASKED)
    assert "which run?" in refused(capsys, "gap")
    assert "--k has no effect" in refused(capsys, "gap", "--k", "3")
    assert "--data has no effect" in refused(capsys, "gap", out, "--data", "x.jsonl")
    run(capsys, "gap", out, "--preview", "2", *ASKED)
    assert "another temperature" in refused(capsys, "gap", out, "--preview", "2", "--temperature", "0.5")
    assert "holds no rewritten.parquet" in refused(capsys, "gap", out)


def test_recorded_responses_need_no_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"problem": f"{i} + 1?", "solution": f"\\boxed{{{i + 1}}}", "candidates": [f"\\boxed{{{i + i % 2}}}"]}
        for i in range(10)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{torn\n", encoding="utf-8")
    asked = ["--preview", "4", "--engine", "recorded", "--data", data]
    found = run(capsys, "gap", *asked)
    assert (found["rungs"]["guided"], found["gap"], found["unusable"]) == (0, {}, {"broken_line": 1})
    assert found["advice"]["rewrite"] == found["advice"]["loss"] == "unknown"
    assert main(["gap", *map(str, asked)]) == 0
    assert "the gap is unknown" in capsys.readouterr().out


def test_one_problem_says_little(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "gap", "--preview", "1", *ASKED)
    assert found["whole"]["tokens"]["generated"]["high"] is None
    assert max(one["high"] - one["low"] for one in found["shares"].values()) > 75
    assert (found["advice"]["rewrite"], found["advice"]["loss"]) == ("unknown", "unknown")
    assert main(["gap", "--preview", "1", *ASKED]) == 0
    assert "≥" in capsys.readouterr().out


def test_a_damaged_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = iter([(0, [float("nan")])])
    monkeypatch.setattr("retell.logprobs.row_logprobs", lambda *_: scored)
    assert "damaged" in refused(capsys, "gap", tmp_path, "--preview", "1", *ASKED)
    assert not (tmp_path / "preview.json").exists()


def test_a_restart_discards_a_preview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    run(capsys, "gap", out, "--preview", "2", *ASKED, "--limit", "4")
    run(capsys, "rewrite", "--out", out, "--temperature", "0.5", "--restart")
    assert not (out / "preview.json").exists()


def test_a_preview_is_made_again_where_other_problems_can_be_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preview = ["gap", str(tmp_path / "run"), "--preview", "6", *ASKED, "--json"]
    assert main(preview) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["rejected"] == {}
    preview[preview.index("--max-length") + 1] = "100"
    assert main(preview) == 0
    shorter = json.loads(capsys.readouterr().out)
    assert shorter["rejected"].keys() == {"overlong"}


def test_a_preview_is_made_again_where_responses_may_be_of_another_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though the same problems can be trained on: responses that are too long are not kept."""
    preview = ["gap", str(tmp_path / "run"), "--preview", "3", *ASKED]
    assert main(preview) == main(preview) == 0
    assert "nothing to do" in capsys.readouterr().err
    longest = preview.index("--max-length") + 1
    preview[longest] = str(int(preview[longest]) - 1)
    assert main([*preview, "--json"]) == 0
    output = capsys.readouterr()
    assert "nothing to do" not in output.err
    assert json.loads(output.out)["rejected"] == {}


def test_a_preview_leaves_the_recipe_of_a_rewriting_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "six.jsonl"
    lines = (TINY / "data/train.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    data.write_text("\n".join(lines), encoding="utf-8")
    asked = [*POLICY, "--data", str(data), "--max-length", "320", "--max-tokens", "100"]
    assert main(["rewrite", "--out", str(tmp_path / "run"), *asked, "--k", "1"]) == 0
    before = (tmp_path / "run/recipe.resolved.toml").read_bytes()
    assert main(["gap", str(tmp_path / "run"), "--preview", "3", *asked, "--k", "2"]) == 0
    assert (tmp_path / "run/recipe.resolved.toml").read_bytes() == before
