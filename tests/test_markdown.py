from retell.document import Document, Figure, Items, Listing, Notice, Prose, Section, Table, code
from retell.markdown import fenced, markdown, table


def test_tables_are_aligned_in_a_terminal() -> None:
    lines = table(["", "x", "average"], [["base", "1.0 ± 0.5", "–"], ["guided", "10.0", "2"]])
    assert lines.splitlines() == [
        "|        |         x | average |",
        "| ------ | --------: | ------: |",
        "| base   | 1.0 ± 0.5 |       – |",
        "| guided |      10.0 |       2 |",
    ]


def test_model_text_cannot_leave_its_code_block() -> None:
    text = "```\n<script>alert(1)</script>\n````"
    fence = fenced(text).splitlines()[0].removesuffix("text")
    assert set(fence) == {"`"}
    assert fence not in text


def test_names_cannot_break_a_table() -> None:
    assert table(["a|b", "n"], [["c\nd", "1"]]) == "| a\\|b |   n |\n| ---- | --: |\n| c d  |   1 |"


def test_each_block_is_written_and_a_figure_by_its_table() -> None:
    numbers = Table(["x", "n"], [["a", "1"]], "A note.")
    blocks = [
        Prose("Policy `a*b`, *not* [markup](x) <b>."),
        Items(["one", "two"]),
        Figure([], numbers, "Numbers"),
        Notice("Leaks", "3 of 9."),
        Listing("Row `r`", "text"),
    ]
    page = markdown(Document("A *title*", [Section("Heading", "Short", blocks), Section("Empty", "Empty", [])]))
    assert page.split("\n\n") == [
        "# A \\*title\\*",
        "## Heading",
        "Policy `a*b`, \\*not\\* \\[markup\\](x) \\<b>.",
        "- one\n- two",
        "**Numbers**",
        "| x   |   n |\n| --- | --: |\n| a   |   1 |",
        "A note.",
        "**Leaks.** 3 of 9.",
        "Row `r`:",
        "```text\ntext\n```\n",
    ]


def test_columns_of_words_are_not_numbers() -> None:
    assert table(["a", "b"], [["x", "yes"]], words=True) == "| a   | b   |\n| --- | --- |\n| x   | yes |"


def test_a_value_cannot_leave_its_code() -> None:
    assert code("a`b") == "`a'b`"
