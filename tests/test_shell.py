import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.shell import asset, escaped, json_block, page, visible


@given(st.text())
def test_a_data_object_says_what_was_put_in_and_cannot_end_its_element(text: str) -> None:
    block = json_block("x", {"text": text})
    inside = re.fullmatch(r'<script type="application/json" id="x">(.*)</script>', block, re.DOTALL)
    assert inside
    assert not set("<>&\u2028\u2029") & set(inside[1])
    assert json.loads(inside[1]) == {"text": text}
    block.encode()


@given(st.text())
def test_escaped_text_has_no_markup_and_nothing_invisible(text: str) -> None:
    safe = escaped(text)
    assert not set("<>\"'") & set(safe)
    assert len(visible(text)) == len(text)
    safe.encode()


def test_what_steers_is_replaced_and_what_is_seen_stays() -> None:
    assert visible("a\u202eb\x1b[2J\u200b") == "a�b�[2J�"
    assert visible("é 1\u00a0000 ≤ ∑\n\t日本") == "é 1\u00a0000 ≤ ∑\n\t日本"


def test_a_page_connects_to_its_own_server_only_if_it_is_asked_to() -> None:
    assert "connect-src 'none';" in page("a", "")
    assert "connect-src 'self';" in page("a", "", connect=True)
    assert "script-src 'none';" in page("a", "")


def test_a_script_that_html_would_change_is_refused() -> None:
    with pytest.raises(AssertionError, match="</script"):
        page("a", "", scripts=["x = '</script>'"])


def test_the_base_style_sheet_is_packaged() -> None:
    assert asset("base.css") in page("a", "")
