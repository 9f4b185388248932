import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from madeup import evaluation, gap, rewriting, training, whole
from scripts import climb_all, problems, says

from retell.paired import Paired
from retell.paper import LLAMA, PROBLEMS, PUBLISHED, QWEN, Published
from retell.recipe import Policy, Recipe
from retell.report import gap_tables, tables, write_report
from retell.runfolder import RunFolder
from retell.sections.beside import NO_ERRORS, ORIENTATION
from retell.sections.differences import ORDERINGS, in_words

FIVE = tuple(PROBLEMS)


def of(model: str) -> Recipe:
    return Recipe(policy=Policy(model=model))


def report(recipe: Recipe, folder: RunFolder) -> str:
    """Writes the page; returns it as Markdown."""
    write_report(recipe, folder)
    return (folder.path / "report.md").read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """The rows of all tables of a page, heads included."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


def test_the_page_says_which_orderings_hold(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [0] * 40)
        evaluation(folder, "sft", [0] * 30 + [1] * 10)
        evaluation(folder, "dft", [0] * 10 + [1] * 30)
        evaluation(folder, "dr-sft", [0] * 30 + [1] * 9 + [0])
        evaluation(folder, "dr-dft", [0] * 40)
        page = report(Recipe(), folder)
    assert re.search(r"- DFT > SFT: holds \(\+50.0, 95 % interval \+3\d.\d to \+6\d.\d, p < 0.001\)\.", page)
    assert "- DR + SFT > SFT: undecided, within the noise (-2.5, 95 % interval -7.5 to 0.0, p = 1.000)." in page
    assert "- DR + DFT > DFT: does not hold (-75.0, " in page
    assert "the variance between training seeds is left out" in page
    assert page.index("| base") < page.index("| SFT") < page.index("| DR + DFT")


def test_the_page_has_every_difference_that_it_can_have(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [0] * 40)
        evaluation(folder, "sft", [0] * 40)
        evaluation(folder, "dft", [1] * 40)
        evaluation(folder, "dr-dft", [1] * 40)
        evaluation(folder, "guided-dft", [0] * 40)
        evaluation(folder, "mine", [1] * 40)
        page = report(Recipe(), folder)
    found = {row[0]: row[1:] for row in rows(page) if "−" in row[0]}
    assert list(found) == [
        "SFT − base",
        "DFT − base",
        "DR + DFT − base",
        "guided only + DFT − base",
        "mine − base",
        "DFT − SFT",
        "DR + DFT − SFT",
        "DR + DFT − DFT",
        "DR + DFT − guided only + DFT",
    ]
    assert found["mine − base"] == ["+100.0", "+100.0 to +100.0", "< 0.001", "40"]
    assert found["DR + DFT − DFT"] == ["0.0", "0.0 to 0.0", "1.000", "40"]


def test_a_response_that_was_cut_off_is_not_correct(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [0] * 40)
        evaluation(folder, "sft", [1] * 40)
        table = pq.read_table(tmp_path / "eval/sft.parquet").to_pylist()
        cut = [{**row, "stop": "length" if row["id"] in ("p0", "p1") else "stop"} for row in table]
        pq.write_table(pa.Table.from_pylist(cut), tmp_path / "eval/sft.parquet")
        assert ["SFT − base", "+95.0"] in [row[:2] for row in rows(report(Recipe(), folder))]


def test_evaluations_on_different_problems_are_not_compared(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "sft", [1] * 40, ("easy",))
        evaluation(folder, "dft", [1] * 40, ("hard",))
        page = report(Recipe(), folder)
    assert "- DFT > SFT: unknown, since they were evaluated on no common problem." in page
    assert "−" not in page


def test_an_ordering_is_undecided_where_the_interval_includes_0() -> None:
    def words(difference: float, low: float | None, high: float | None) -> str:
        return in_words(Paired(difference, low, high, 0.04, 9))

    assert words(1.9, -0.1, 4.0) == "undecided, within the noise (+1.9, 95 % interval -0.1 to +4.0, p = 0.040)"
    assert words(1.9, 0.0, 4.0).startswith("undecided")
    assert words(-1.9, -4.0, 0.0).startswith("undecided")
    assert words(2.1, 0.1, 4.0).startswith("holds")
    assert words(-2.1, -4.0, -0.1).startswith("does not hold")
    assert words(9.0, None, None).startswith("undecided, since a benchmark has a single problem (+9.0")
    assert "p = 0.001)" in in_words(Paired(1.0, 0.5, 1.5, 0.001, 9))
    assert "p < 0.001)" in in_words(Paired(1.0, 0.5, 1.5, 0.0009, 9))


@pytest.mark.parametrize("paper", PUBLISHED, ids=lambda paper: paper.policy)
def test_the_orderings_are_those_of_the_paper(paper: Published) -> None:
    averages = {**paper.ablation, **paper.average}
    judged = [pair for pair in ORDERINGS if set(pair) <= averages.keys()]
    assert len(judged) == (7 if paper is QWEN else 5)
    assert all(averages[better] > averages[worse] for better, worse in judged)


def test_a_policy_of_the_paper_has_its_figures_and_the_differences_beside(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [1] * 200 + [0] * 300, FIVE)
        evaluation(folder, "dft", [1] * 20 + [0] * 480, FIVE)
        evaluation(folder, "self-dft", [1] * 20 + [0] * 480, FIVE)
        page = tables(of("/models/Qwen2.5-Math-7B"), folder)
    shown = rows(page)
    for benchmark in FIVE:
        start = shown.index([benchmark, "this run", "paper", "difference"])
        theirs = QWEN.accuracy["base"][benchmark]
        assert shown[start + 2] == ["base", "40.0 ± 1.0", f"{theirs:.2f}", f"{40 - theirs:+.1f} ± 1.0"]
        theirs = QWEN.accuracy["dft"][benchmark]
        assert shown[start + 3] == ["DFT", "4.0 ± 1.0", f"{theirs:.2f}", f"{4 - theirs:+.1f} ± 1.0"]
        assert shown[start + 4][0] != "self only + DFT"  # of which the paper has the average alone
    assert ["base", "40.0 ± 0.5", "21.67", "+18.3 ± 0.5"] in shown
    assert ["self only", "4.0 ± 0.5", "38.83", "-34.8 ± 0.5"] in shown
    assert NO_ERRORS in page
    assert "minerva_math 500 instead of 272, olympiadbench 500 instead of 675, aime24 500 instead of 30" in page
    assert "math500 500 instead" not in page
    assert ORIENTATION not in page
    assert "paper, " not in page


def test_only_benchmarks_of_the_same_name_are_laid_beside_the_paper(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [1, 0], (*FIVE, "gsm8k"))
        evaluation(folder, "sft", [1, 0], ("math500",))
        evaluation(folder, "dft", [1, 0], ("gsm8k", "Math500"))
        page = tables(of("Qwen/Qwen2.5-Math-7B"), folder)
    heads = [row[0] for row in rows(page) if row[1:] == ["this run", "paper", "difference"]]
    assert heads == list(FIVE)  # and no average, which is of other benchmarks
    shown = rows(page)
    start = shown.index(["math500", "this run", "paper", "difference"])
    assert [row[0] for row in shown[start + 2 : start + 5]] == ["base", "SFT", "minerva_math"]
    assert page.count("The average is of other benchmarks than the paper's five") == 1


def test_an_average_of_other_benchmarks_has_no_paper_beside_it(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        for name in ("dft", "dr-dft"):
            evaluation(folder, name, [1, 0], ("gsm8k",))
        page = tables(of("Qwen/Qwen2.5-Math-7B"), folder)
    of_accuracy, of_rungs = page.split("## Table 4")
    assert "No benchmark here has the name of one of the paper's: math500, minerva_math" in of_accuracy
    assert "The average is of other benchmarks than the paper's five" in of_rungs
    assert "difference" not in page
    assert "36.61" not in page


def test_another_policy_has_the_paper_for_orientation_apart_from_its_own_figures(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        rewriting(folder, 6, 3, 1)
        gap(folder, ["self"], [[-1.0]], [[-0.5]])
        for name in ("base", "dft", "dr-dft"):
            evaluation(folder, name, [1, 0], FIVE)
        page = tables(of("Qwen/Qwen2.5-Math-1.5B"), folder)
    shown = rows(page)
    for number, section in enumerate(page.split("## ")[1:], start=1):
        assert section.startswith(f"Table {number}")
        assert ORIENTATION in section
    assert "this run |" not in page
    start = shown.index(["paper, Qwen2.5-Math-7B", *FIVE, "average"])
    assert shown[start + 2] == ["base", "39.90", "14.43", "17.16", "7.50", "29.38", "21.67"]
    start = shown.index(["paper, Llama-3.1-8B-Instruct", *FIVE, "average"])
    assert shown[start + 6] == ["DR + DFT", "47.91", "24.72", "16.52", "4.99", "26.09", "24.05"]
    assert ["paper, Qwen2.5-Math-7B", "28,752 (59.9%)", "11,620 (24.2%)", "7,634 (15.9%)", "48,006"] in shown
    assert ["paper, Llama-3.1-8B-Instruct", "-193.01 → -127.67", "-341.57 → -303.44", "-388.17"] in shown
    start = shown.index(["paper, Qwen2.5-Math-7B", "average"])
    assert shown[start + 2 : start + 6] == [
        ["none", "36.61"],
        ["self only", "38.83"],
        ["guided only", "38.36"],
        ["full", "42.03"],
    ]


def test_table_4_of_the_other_policy_of_the_paper_is_for_orientation(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        for name in ("dft", "dr-dft"):
            evaluation(folder, name, [1, 0], FIVE)
        page = tables(of("meta-llama/Llama-3.1-8B-Instruct"), folder)
    of_accuracy, of_rungs = page.split("## Table 4")
    assert f"Paper: {LLAMA.policy}" in of_accuracy and ORIENTATION not in of_accuracy
    assert f"paper, {QWEN.policy}" in of_rungs and ORIENTATION in of_rungs


def test_rungs_are_compared_by_their_share_of_the_rows(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        rewriting(folder, 50, 30, 20)
        page = tables(of("Qwen/Qwen2.5-Math-7B"), folder)
    assert ["rows", "50 (50.0%)", "30 (30.0%)", "20 (20.0%)", "100"] in rows(page)
    assert ["self", "50.0 ± 5.0", "59.89", "-9.9 ± 5.0"] in rows(page)
    assert ["expert", "20.0 ± 4.0", "15.90", "+4.1 ± 4.0"] in rows(page)
    assert "(28,752 self, 11,620 guided, 7,634 expert)" in page


def test_summed_logprobs_are_compared_with_their_error_over_rows(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        expert = [[-100.0, -80.0], [-182.0], [-5.0, -5.0]]
        rewritten = [[-40.0, -40.0], [-30.0, -30.0, -30.0], [-5.0, -5.0]]
        gap(folder, ["self", "self", "expert"], expert, rewritten)
        page = tables(of("Qwen/Qwen2.5-Math-7B"), folder)
    start = rows(page).index(["summed log-prob", "this run", "paper", "difference"])
    assert rows(page)[start + 2 :] == [
        ["self: expert's text", "-181.0 ± 1.0", "-184.44", "+3.4 ± 1.0"],
        ["self: rewritten", "-85.0 ± 5.0", "-83.36", "-1.6 ± 5.0"],
        ["expert: expert's text", "-10.0", "-296.03", "+286.0"],
    ]


def test_the_tables_alone_are_those_of_the_page_and_write_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        assert tables(Recipe(), folder) == ""
        rewriting(folder, 1, 1, 1)
        evaluation(folder, "dft", [1, 0])
        evaluation(folder, "dr-dft", [1, 0])
        before = sorted(tmp_path.rglob("*"))
        found = tables(Recipe(), folder)
        assert sorted(tmp_path.rglob("*")) == before
        climb_all(tmp_path / "other", problems(1), says(lambda r: "\\boxed{100}"), k=1)
        (tmp_path / "other/rewritten.parquet").rename(tmp_path / "rewritten.parquet")
        page = report(Recipe(), folder)
    assert re.findall("## (.*?):", found) == ["Table 1", "Table 2", "Table 4"]
    assert all(section in page for section in re.split(r"\n\n(?=## )", found))


def test_what_is_out_of_date_is_not_shown(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "sft", [1] * 40)
        evaluation(folder, "dft", [1] * 40)
        folder.begin("train/sft")
        page = report(Recipe(policy=Policy(model="Qwen2.5-Math-7B")), folder)
    assert "| DFT" in page
    assert "| SFT" not in page


def test_control_characters_of_model_text_do_not_reach_a_terminal(tmp_path: Path) -> None:
    climb_all(tmp_path, problems(1), says(lambda r: "\x1b[2J \u202e \\boxed{100}"), k=1)
    with RunFolder(tmp_path) as folder:
        rewriting(folder, 1, 0, 0)
        page = report(Recipe(), folder)
    assert "\\boxed{100}" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_a_rewriting_alone_has_its_table_and_examples_side_by_side(tmp_path: Path) -> None:
    climb_all(tmp_path, problems(3), says(lambda r: f"Mine: \\boxed{{{int(r.problem[1:]) + 100}}}"), k=1)
    with RunFolder(tmp_path) as folder:
        rewriting(folder, 3, 0, 0)
        page = report(Recipe(), folder)
    assert ["rows", "3 (100.0%)", "0 (0.0%)", "0 (0.0%)", "3"] in rows(page)
    assert re.search(r"Adding gives \\boxed\{100\}\.\s+\| Mine: \\boxed\{100\}", page)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == page


def test_what_weakens_the_scores_is_said_beside_them(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [0, 1], ("easy", "hard"))
        summary = folder.read_json("eval/base.json")
        assert summary
        summary |= {"rounded": True, "context": 4096, "max_tokens": 5000}
        summary["benchmarks"] = {
            "easy": summary["benchmarks"]["easy"],
            "hard": summary["benchmarks"]["hard"] | {"truncated": 12.25, "shortened": 2},
        }
        folder.write_json("eval/base.json", summary)
        found = {
            "easy": {"problems": 2, "known": 1, "equal": 0, "dropped": True},
            "hard": {"problems": 2, "known": 0, "equal": 0, "dropped": True},
        }
        folder.write_json("contamination.json", {"benchmarks": found, "overlaps": []})
        page = report(Recipe(), folder)
    assert "each run's accuracy is rounded to one decimal" in page
    assert "The context of 4,096 tokens leaves less than 5,000 for a response: hard 2 problems." in page
    assert "At most 12.2 % of a benchmark's responses were cut off and score 0." in page
    assert "overlap training problems: easy 1 of 2 (0 equal, dropped); looked for in easy, hard." in page


def test_evaluations_with_other_settings_are_named_and_not_compared(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        for name in ("base", "sft", "dft", "dr-dft"):
            evaluation(folder, name, [0, 1, 1])
        for name, changes in {
            "sft": {"k": 4},
            "dft": {"temperature": 0.2, "grader": "other"},
            "dr-dft": {"prompt": "Solve {problem}"},
        }.items():
            summary = folder.read_json(f"eval/{name}.json")
            assert summary
            folder.write_json(f"eval/{name}.json", summary | changes)
        page = report(Recipe(), folder)
    assert "SFT was evaluated otherwise than base: k 4." in page
    assert "DFT was evaluated otherwise than base: temperature 0.2, grader other." in page
    assert "DR + DFT was evaluated otherwise than base: another prompt." in page
    assert [row[0] for row in rows(page) if " − " in row[0]] == ["SFT − base"]


def test_problems_are_paired_by_their_text(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [0, 1])
        evaluation(folder, "sft", [1, 1])
        for name, change in {"base": {}, "sft": {"id": "another"}}.items():
            path = tmp_path / f"eval/{name}.parquet"
            pq.write_table(pa.Table.from_pylist([row | change for row in pq.read_table(path).to_pylist()]), path)
        assert "| SFT − base |" in report(Recipe(), folder).replace("  ", "")
        path = tmp_path / "eval/sft.parquet"
        others = [row | {"problem": row["problem"] + "!"} for row in pq.read_table(path).to_pylist()]
        pq.write_table(pa.Table.from_pylist(others), path)
        assert "SFT − base" not in report(Recipe(), folder)


def test_what_the_gap_stage_measured_besides_is_shown_with_what_it_rests_on(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        gap(folder, ["self", "expert"], [[-1.0, -1.0], [-2.0]], [[-0.5], [-2.0]])
        told = folder.read_json("gap.json")
        assert told
        matched = {"share": 0.25, "expert": -9.0, "rewritten": -8.5, "difference": 0.5, "stderr": 0.25}
        told["self"] |= {
            "matched": matched | {"expert_tokens": 40.0, "rewritten_tokens": 41.0},
            "sequence": {"rows": 30, "ess": 0.4, "pareto_k": 0.82, "reliable": False, "kl": -0.5, "kl_stderr": 0.125},
        }
        told["expert"] |= {"matched": None, "sequence": None}
        short = {"rows": 3, "ess": 0.4, "pareto_k": None, "note": "fewer than 25 rows", "kl": 1.0, "kl_stderr": None}
        told["all"] |= {"matched": None, "sequence": short}
        for side in ("expert", "rewritten"):
            for rung in ("self", "expert", "all"):
                told[rung][side]["perplexity"] = 2.5
        folder.write_json("gap.json", told)
        drift = {"kl": 0.01234, "stderr": 0.001, "problems": 1200, "tokens": 9, "reason": None}
        none = {"kl": None, "stderr": None, "problems": 0, "tokens": 0, "reason": "no samples"}
        folder.write_json("gap/dr-dft.json", told | {"drift": {"new": drift, "old": none}})
        folder.finished("gap/dr-dft", 1, ["gap/dr-dft.json"])
        page = report(Recipe(), folder)
        measured = gap_tables(Recipe(), folder)
    shown = rows(page)
    assert ["rung", "rows", "summed log-prob", "per token", "perplexity", "tokens"] in shown
    assert ["self", "25.0%", "-9.00 → -8.50", "0.50 ± 0.25", "40.0 → 41.0"] in shown
    assert "both weighted to one distribution of token lengths" in page
    assert ["self", "30", "0.400", "0.82 (not reliable)", "-0.500 ± 0.125"] in shown
    assert ["all", "3", "0.400", "fewer than 25 rows", "1.000"] in shown
    assert "conditional on acceptance" in page
    assert ["DR + DFT: self", "1", "-2.00 → -0.50", "-1.000 → -0.500", "1.000 → 1.000"] in shown
    assert ["DR + DFT: new", "0.01234 ± 0.00100", "1,200", "9"] in shown
    assert ["DR + DFT: old", "–", "0", "0"] in shown
    assert "DR + DFT: old: no samples." in page
    assert re.findall("## (.*)", measured) == [
        "Table 3: log-probs under the policy before training",
        "Weights",
        "After training: log-probs and drift",
    ]
    assert [row for row in rows(measured) if row not in shown] == []


def test_the_cost_is_what_was_recorded(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        whole(folder)
        shown = rows(report(Recipe(), folder))
    assert ["rewriting", "52", "60", "1,000", "≈ 3,000 (75%)", "2.00"] in shown
    assert ["training SFT", "–", "–", "300", "–", "0.25"] in shown
    assert ["evaluating base", "26", "–", "–", "–", "–"] in shown


def test_warnings_come_first_and_what_is_in_order_is_said_too(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        whole(folder)
        page = report(Recipe(), folder).split("## Warnings")[1].split("##")[0]
    said = re.findall(r"\*\*(\w+)\.\*\* (.*)", page)
    assert said == [
        ("Truncation", "1 of 52 samples (1.9%) were cut off at the length limit, and are never correct."),
        ("Leaks", "1 of 52 samples (1.9%) are correct retellings that were refused, for they leak the reference."),
        ("Undecided", "No sample was without a verdict."),
        ("Evaluation", "No response was cut off, undecided or left out."),
    ]


def test_curves_are_told_by_some_of_their_updates(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        training(folder, "sft", [1.0 - i / 1000 for i in range(450)])
        training(folder, "dft", [0.5, 0.25])
        page = report(Recipe(), folder)
    shown = [row for row in rows(page) if row[0].isdigit()]
    assert len(shown) == 9
    assert shown[0] == ["1", "1.000 / 2.000", "0.500 / 1.500"]
    assert shown[-1] == ["450", "0.551 / 1.551", "–"]
    assert "A point of a long curve is the mean of up to 3 updates in a row." in page


def test_rows_in_are_rows_out_and_rejected(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        whole(folder)
        page = report(Recipe(), folder)
    assert "Rejected rows, kept with their reasons in `rejected.jsonl`: 2 overlong." in page
    assert ["self", "10", "40.0 ± 5.0"] in rows(page)
