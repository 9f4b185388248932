import re
from pathlib import Path

from retell.benchmarks import BENCHMARKS
from retell.recipe import reference

ROOT = Path(__file__).parent.parent


def test_the_recipe_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_benchmarks_are_told_as_they_are() -> None:
    page = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d, or]+) \| `([^`]+)`, (.*) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [
        (
            name,
            " or ".join(f"{rows:,}" for rows in one.rows),
            one.hub,
            ", ".join(part for part in (one.config, one.split) if part),
            one.licence,
        )
        for name, one in BENCHMARKS.items()
    ]
