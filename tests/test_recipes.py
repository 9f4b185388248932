"""The recipes beside the package: the paper's experiments are whole, and run to the end on the packaged policy."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import retell
from retell.cli import main
from retell.mixes import run_named
from retell.recipe import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
PAPER = sorted((RECIPES / "paper").glob("*.toml"))
TINY = Path(retell.__file__).parent / "tiny"
SMALL = {
    "policy.model": [TINY / "policy"],
    "data.data": [TINY / "data/train.jsonl"],
    "data.sample": [32],
    "data.max-length": [320],
    "rewrite.engine": ["transformers"],
    "rewrite.k": [2],
    "rewrite.max-tokens": [100],
    "rewrite.guided-template": [TINY / "guided.txt"],
    "train.batch-size": [8],
    "train.dtype": ["float32"],
    "evaluate.engine": ["transformers"],
    "evaluate.benchmark": [TINY / f"data/bench-{number}.jsonl" for number in range(1, 6)],
    "evaluate.limit": [2],
    "evaluate.k": [2],
    "evaluate.max-tokens": [60],
}
"""What a GPU and a network are needed for otherwise, and sizes."""


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_paper_recipe_says_what_the_paper_says(path: Path) -> None:
    recipe = load_recipe(path)
    assert (recipe.data.path, recipe.data.sample, recipe.data.max_length) == ("AI-MO/NuminaMath-CoT", 50_000, 2048)
    assert [run_named(run).name for run in recipe.train.runs] == [
        "sft", "dft", "dr-sft", "dr-dft", "self-dft", "guided-dft",
    ]  # fmt: skip
    train = recipe.train
    assert (train.batch_size, train.epochs, train.warmup_ratio, train.weight_decay) == (256, 1, 0.1, 0.01)
    assert (train.beta1, train.beta2, train.max_grad_norm, train.dtype) == (0.9, 0.95, 1.0, "bfloat16")
    evaluation = recipe.evaluate
    assert evaluation.benchmark == ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")
    assert (evaluation.k, evaluation.temperature, evaluation.top_p, evaluation.max_tokens) == (16, 1.0, 1.0, 4096)
    assert evaluation.grader == "qwen" and recipe.rewrite.grader == "math"


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_every_value_of_a_paper_recipe_is_the_papers_or_a_stated_choice(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    document = tomllib.loads(text)
    stated = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    following = stated.index(next(line for line in stated if "paper, as all that follows" in line))
    ends = next(i for i, line in enumerate(stated) if line.startswith("seed") and i > following)
    own_title = sum(line.startswith("title") for line in stated)
    silent = [line for i, line in enumerate(stated) if "# paper" not in line and "# choice" not in line.lower()]
    assert len(stated) == sum(len(keys) for keys in document.values())
    assert len(silent) == ends - following - 1 + own_title, silent


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_paper_recipe_is_dry_run_without_a_network(path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    # What this machine lacks is no fault of the recipe.
    engines = ["--rewrite.engine", "transformers", "--evaluate.engine", "transformers"]
    command = [sys.executable, "-m", "retell", "run", str(path), "--dry-run", "--json", *engines]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {check["what"] for check in found["checks"] if check["state"] == "unknown"} >= {"model", "data"}
    assert not [check for check in found["checks"] if check["state"] == "wrong"]
    [rewriting] = [step for step in found["steps"] if step["stage"] == "rewrite"]
    assert rewriting["samples"] == [50_000, 800_000]
    evaluations = [step["samples"] for step in found["steps"] if step["stage"].startswith("evaluate/")]
    assert evaluations == [[16 * (500 + 272 + 674 + 30 + 40), 16 * (500 + 272 + 675 + 30 + 40)]] * 7


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_commands_in_a_paper_recipe_are_ones(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text(encoding="utf-8").replace(" \\\n#", "")
    commands = re.findall(r"^#\s+retell (run .*?)(?:\s+#.*)?$", text, re.MULTILINE)
    assert len(commands) == 3
    for line in commands:
        words = [word for word in line.split() if word != "--dry-run"]
        assert str(path).endswith(words[1])
        assert main([*words[:1], str(path), *words[2:], "--dry-run"]) in (0, 2)
        assert "Unknown option" not in capsys.readouterr().err


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_paper_recipe_runs_to_the_end_and_fills_every_table(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = [str(word) for flag, values in SMALL.items() for word in (f"--{flag}", *values)]
    assert main(["run", str(path), "--out", str(out), *flags]) == 0, capsys.readouterr().err
    page = (out / "report.md").read_text(encoding="utf-8")
    for part in ("Table 1", "Table 2", "Table 3", "Table 4", "Figure 3", "Figure 4"):
        assert part in page
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert {"rows", "base", "SFT", "DFT", "DR + SFT", "DR + DFT", "self only", "guided only", "full"} <= rows
