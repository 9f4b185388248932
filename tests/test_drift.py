import json
import math
import shutil
import sqlite3
from array import array
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from gaps import TINY, tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from retell import ratios
from retell.cli import main
from retell.drift import drift_statistics, measure_drift, token_kl
from retell.firsts import of_evaluation, of_rewriting
from retell.journal import Journal
from retell.parts import Parts
from retell.prompts import Prompter
from retell.recipe import Policy, Rewrite, load_recipe
from retell.runfolder import RunFolder
from retell.tables import read_rows

PROBABILITIES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda ps: [p / sum(ps) for p in ps])


# ------------------------------------------------------------------------------------------------------ the estimator
@given(PROBABILITIES, PROBABILITIES)
def test_the_expected_estimate_of_a_token_is_the_kl_of_two_categoricals(base: list[float], tuned: list[float]) -> None:
    kl = sum(p * math.log(p / q) for p, q in zip(base, tuned, strict=True))
    estimates = [token_kl([math.log(p)], [math.log(q)]) for p, q in zip(base, tuned, strict=True)]
    assert all(estimate >= 0 for estimate in estimates)
    assert sum(p * one for p, one in zip(base, estimates, strict=True)) == pytest.approx(kl, abs=1e-12)


@given(st.lists(PROBABILITIES, min_size=8, max_size=8))
def test_the_expected_estimate_of_a_response_is_the_kl_of_whole_responses(rows: list[list[float]]) -> None:
    """Two chains of three tokens: where they begin, and what follows each token."""
    chains = [(one[0], one[1:]) for one in (rows[:4], rows[4:])]

    def probabilities(chain: tuple[list[float], list[list[float]]], response: tuple[int, ...]) -> list[float]:
        begin, then = chain
        return [begin[response[0]], *(then[before][after] for before, after in pairwise(response))]

    kl = estimate = 0.0
    for response in product(range(3), repeat=3):
        base, tuned = (probabilities(chain, response) for chain in chains)
        kl += math.prod(base) * math.log(math.prod(base) / math.prod(tuned))
        estimate += math.prod(base) * token_kl(*([math.log(p) for p in one] for one in (base, tuned)))
    assert estimate == pytest.approx(kl, abs=1e-10)


def test_the_error_of_a_ratio_of_means_is_that_of_the_jackknife() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 60, 400)
    kl = tokens * generator.gamma(2, 0.05, 400)
    found = drift_statistics(kl, tokens, missing=3)
    left_out = (kl.sum() - kl) / (tokens.sum() - tokens)
    jackknife = math.sqrt(399 / 400 * float(((left_out - left_out.mean()) ** 2).sum()))
    assert found["kl"] == pytest.approx(kl.sum() / tokens.sum())
    assert found["stderr"] == pytest.approx(jackknife, rel=0.02)
    assert found["kl_per_response"] == pytest.approx(kl.mean())
    assert (found["problems"], found["tokens"], found["missing"]) == (400, tokens.sum(), 3)


def test_one_problem_has_no_error_and_none_no_figure() -> None:
    one = drift_statistics(np.array([0.5]), np.array([10]), 0)
    assert (one["kl"], one["stderr"], one["reason"]) == (0.05, None, None)
    none = drift_statistics(np.zeros(0), np.zeros(0, dtype=np.int64), 7)
    assert (none["kl"], none["problems"], none["missing"]) == (None, 0, 7)
    assert none["reason"]


# ---------------------------------------------------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rewritten dataset of 24 problems and the base's evaluation on two benchmarks of six."""
    folder = tmp_path_factory.mktemp("drift")
    document = {
        "policy": {"model": str(TINY / "policy")},
        "data": {"path": str(TINY / "data/train.jsonl"), "limit": 24, "max_length": 320},
        "rewrite": {"k": 2, "max_tokens": 100, "guided_template": str(TINY / "guided.txt")},
        "train": {"runs": []},
        "evaluate": {
            "benchmark": [str(TINY / f"data/bench-{n}.jsonl") for n in (1, 2)],
            "limit": 6,
            "k": 2,
            "max_tokens": 12,
            "prompt": "boxed",
        },
    }
    (folder / "recipe.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    assert main(["run", str(folder / "recipe.toml"), "--out", str(folder / "run")]) == 0
    tuned = Path(shutil.copytree(TINY / "policy", folder / "tuned"))
    model = AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    model.save_pretrained(tuned)
    return folder


@pytest.fixture(scope="module")
def measured(run: Path) -> dict[str, Any]:
    """gap/tuned.json."""
    assert main(["gap", str(run / "run"), "--model", str(run / "tuned"), "--json"]) == 0
    return json.loads((run / "run/gap/tuned.json").read_text(encoding="utf-8"))


def stored(run: Path, rung: str) -> dict[str, tuple[list[int], list[float]]]:
    """Ids and log-probs of the first samples by problem."""
    with sqlite3.connect(run / "run/journal.sqlite") as journal:
        rows = journal.execute("SELECT problem, ids, logprobs FROM samples WHERE rung = ? AND idx = 0", (rung,))
        return {problem: (list(array("I", ids)), list(array("f", logps))) for problem, ids, logps in rows.fetchall()}


def by_hand(run: Path, rung: str, prompts: dict[str, list[dict[str, str]]]) -> tuple[float, int]:
    """Σ (r − 1 − log r) over all tokens of the first samples, and their number, with transformers alone."""
    model = AutoModelForCausalLM.from_pretrained(run / "tuned", dtype=torch.float32).eval()
    reader, total, tokens = tokenizer().tokenizer, 0.0, 0
    for problem, (ids, base) in stored(run, rung).items():
        text = reader.apply_chat_template(prompts[problem], tokenize=False, add_generation_prompt=True)
        prompt = reader(text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logp = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        ratio = logp.gather(-1, torch.tensor(ids)[:, None])[:, 0].double() - torch.tensor(base, dtype=torch.float64)
        total += float((ratio.exp() - 1 - ratio).sum())
        tokens += len(ids)
    return total, tokens


def test_drift_is_measured_on_the_first_samples_whatever_came_of_them(run: Path, measured: dict[str, Any]) -> None:
    prompts = {row["id"]: row["messages"][:-1] for row in read_rows(run / "run/rewritten.parquet")}
    total, tokens = by_hand(run, "self", prompts)
    new = measured["drift"]["new"]
    assert new["problems"] == len(prompts) == 24 and new["missing"] == 0
    assert new["tokens"] == tokens
    assert new["kl"] == pytest.approx(total / tokens, rel=1e-3)
    assert new["stderr"] > 0


def test_old_prompts_are_those_of_the_bases_evaluation(run: Path, measured: dict[str, Any]) -> None:
    assert list(measured["drift"]) == ["new", "old/bench-1", "old/bench-2"]
    boxed = Prompter(Policy(template="boxed"), None)
    for name in ("bench-1", "bench-2"):
        rows = [row for row in read_rows(run / "run/eval/base.parquet") if row["benchmark"] == name]
        prompts = {row["id"]: [dict(m) for m in boxed.solve(row["problem"]).messages] for row in rows}
        total, tokens = by_hand(run, name, prompts)
        old = measured["drift"][f"old/{name}"]
        assert (old["problems"], old["tokens"], old["missing"]) == (6, tokens, 0)
        assert old["kl"] == pytest.approx(total / tokens, rel=1e-3)


def test_a_checkpoint_is_measured_beside_the_policy(
    run: Path, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = run / "run"
    own = json.loads((out / "gap.json").read_text(encoding="utf-8"))
    assert measured.keys() - own.keys() == {"drift"}
    assert measured["all"]["rows"] == own["all"]["rows"] == 24
    assert measured["all"]["rewritten"]["sum_logprob"] < own["all"]["rewritten"]["sum_logprob"]
    assert own["self"]["sequence"]["kl"] == pytest.approx(0, abs=1e-3)
    assert measured["self"]["sequence"]["kl"] > 0.01
    assert {"gap", "gap/tuned"} < set(RunFolder(out).stages())
    assert not (out / ".gap").exists()
    assert load_recipe(out / "recipe.resolved.toml").policy.model == str(TINY / "policy")
    capsys.readouterr()
    assert main(["gap", str(out), "--model", str(run / "tuned")]) == 0
    said = capsys.readouterr()
    assert "gap/tuned: nothing to do" in said.err
    assert "old/bench-2" in said.out and said.out.splitlines()[-1] == str(out / "gap/tuned.json")


def test_the_tables_are_printed_from_what_was_measured(
    run: Path, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in (run / "run").rglob("*")}
    assert main(["gap", str(run / "run"), "--tables"]) == 0
    page = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (run / "run").rglob("*")} == before
    assert "## Table 3: log-probs under the policy before training" in page and "| tuned: all" in page
    row = next(line for line in page.splitlines() if line.startswith("| all"))
    own = json.loads((run / "run/gap.json").read_text(encoding="utf-8"))["all"]
    assert f"{own['expert']['sum_logprob']:.2f} ± " in row and f"{own['rewritten']['perplexity']:.3f}" in row
    assert main(["gap", str(run / "run"), "--tables", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"] + "\n" == page


def test_the_policy_may_have_moved(run: Path, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    moved = Path(shutil.copytree(TINY / "policy", run / "moved"))
    out = Path(shutil.copytree(run / "run", run / "other"))
    capsys.readouterr()
    assert main(["gap", str(out), "--model", str(moved)]) == 0
    assert "gap: nothing to do" in capsys.readouterr().err
    assert not (out / "gap/moved.json").exists()
    assert load_recipe(out / "recipe.resolved.toml").policy.model == str(moved)


def test_tails_are_fitted_later_without_scoring_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(run / "run", run / "later"))
    whole = (out / "gap.json").read_text(encoding="utf-8")
    lacking = json.loads(whole)
    for rung in ("self", "all"):
        lacking[rung]["sequence"] |= {"reliable": None, "note": ratios._NOT_INSTALLED}
    (out / "gap.json").write_text(json.dumps(lacking), encoding="utf-8")
    capsys.readouterr()
    assert main(["gap", str(out)]) == 0
    assert "gap: nothing to do" in capsys.readouterr().err
    assert (out / "gap.json").read_text(encoding="utf-8") == whole


def test_another_evaluation_of_the_base_is_another_drift(
    run: Path, measured: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(run / "run", run / "evaluated"))
    again = ["gap", str(out), "--model", str(run / "tuned"), "--json"]
    assert main(again) == 0
    assert "gap/tuned: nothing to do" in capsys.readouterr().err
    assert main(["evaluate", "--out", str(out), "--benchmark", str(TINY / "data/bench-1.jsonl")]) == 0
    capsys.readouterr()
    assert main(again) == 0
    output = capsys.readouterr()
    assert "gap/tuned: nothing to do" not in output.err
    drift = json.loads(output.out)["drift"]
    assert list(drift) == ["new", "old/bench-1"]
    assert drift["old/bench-1"] == measured["drift"]["old/bench-1"]


def test_another_model_is_no_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(run / "tuned", run / "deeper"))
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}), encoding="utf-8")
    assert main(["gap", str(run / "run"), "--model", str(other)]) == 2
    assert "rms_norm_eps" in capsys.readouterr().err
    assert not (run / "run/gap/deeper.json").exists()


def test_a_checkpoint_of_replaced_data_does_not_stand_for_its_method(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outdated = Path(shutil.copytree(run / "tuned", run / "run/checkpoints/sft"))
    assert main(["gap", str(run / "run"), "--model", str(outdated)]) == 2
    assert "has been replaced" in capsys.readouterr().err


# --------------------------------------------------------------------------------- where nothing can be said, and why


def nobody(pairs: Any) -> Any:
    assert not pairs
    return iter(())


def reasons(run: Path, **changes: Any) -> dict[str, Any]:
    base = json.loads((run / "run/rewrite.json").read_text(encoding="utf-8"))["policy"]
    settings = load_recipe(run / "run/recipe.resolved.toml").rewrite.model_copy(update=changes)
    group = of_rewriting(run / "run/rewritten.parquet", settings, base, base, tokenizer())
    with RunFolder(run / "nothing") as folder, Journal(run / "run/journal.sqlite") as journal:
        return measure_drift({"new": group}, journal, nobody, Parts(folder, ".gap/x", "y"))["new"]


def test_samples_of_another_distribution_are_not_the_policys(run: Path) -> None:
    for changes, says in (({"temperature": 0.7}, "temperature 0.7"), ({"top_p": 0.9}, "top_p 0.9")):
        found = reasons(run, **changes)
        assert found["kl"] is None and says in found["reason"]


def test_samples_of_another_setting_are_not_taken_for_these(run: Path) -> None:
    for changes in ({"seed": 1}, {"max_tokens": 99}):
        found = reasons(run, **changes)
        assert (found["problems"], found["missing"]) == (0, 24)
        assert "the journal has none" in found["reason"]


def test_who_drew_must_be_known() -> None:
    where = Path("nowhere")
    assert "recorded" in str(of_rewriting(where, Rewrite(), "base", None, tokenizer()))
    assert "served:x" in str(of_rewriting(where, Rewrite(), "base", "served:x", tokenizer()))


def test_an_evaluation_with_another_prompt_or_none_is_told(run: Path, tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        assert "retell evaluate" in str(of_evaluation(folder, Prompter(Policy(), None), "base")["old"])
    found = of_evaluation(RunFolder(run / "run"), Prompter(Policy(), None), "base")
    assert found.keys() == {"old/bench-1", "old/bench-2"}
    assert all("another prompt" in str(one) for one in found.values())
