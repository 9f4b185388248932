"""Where an answer stands in a text: the last closed box, or an explicit marker. Linear in the text's length."""

import re
from collections import deque

_OPEN = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"\\boxed(?:\s+|(?=[\\\d]))(\\[a-zA-Z]+(?:\{[^{}]{0,200}\}){0,2}|[^\s{}$\\]+)")
_THINK = re.compile(r"<(/?)think(?:ing)?>")
_LAST_LINE = re.compile(r"(?:####|A(?:nswer)?:)[^\S\n]*([^\n]*\S)[^\S\n]*")
_SAID = re.compile(
    r"(?:\b(?:answer|option|choice)\s{1,4}(?:is|must\sbe|should\sbe|=)[*_]{0,2}:?"
    r"|^[^\S\n]{0,4}[*_#]{0,6}[^\S\n]?(?:the\s)?(?:final[^\S\n])?answer[*_]{0,3}:"
    r"|^[^\S\n]{0,4}[*_#]{1,6}[^\S\n]?(?:final[^\S\n])?answer[*_]{0,3}$)"
    r"[*_]{0,3}\s{1,4}(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
"""What calls the text after it the answer; in a heading it need not say so."""
_UNMEANT = re.compile(
    r"\b(?:not|suppos\w+|assum\w+|if|whether|wrong|doubt|mistake|claims?|says?|some|true)\b|n't\b",
    re.IGNORECASE,
)
"""Before the answer in its sentence: it is not what the response holds for it."""
_MOST_SAID = 20
"""How many claims are looked at, from the last one back."""
_SENTENCE = re.compile(r"[.!?](?=\s|$)|,?\s\(?(?:because|since)\s|,\s(?:not|as)\s")
_DISPLAY = re.compile(r"(?:\$\$|\\\[)\s{0,4}([^\n]*)")


def last_boxed(text: str) -> str | None:
    """Content of the last ``\\boxed{…}`` (or ``\\fbox``) whose braces close, or None. An escaped brace is no brace."""
    starts = {match.end() - 1 for match in _OPEN.finditer(text)}
    if not starts:
        return None
    found: tuple[int, int] | None = None
    open_braces: list[int] = []
    for match in _BRACE.finditer(text, min(starts)):
        if match[0] == "{":
            open_braces.append(match.start())
        elif match[0] == "}" and open_braces:
            start = open_braces.pop()
            # A box that closes later but opened earlier encloses this one, and only the last opened counts.
            if start in starts and (found is None or start > found[0]):
                found = (start, match.start())
    return text[found[0] + 1 : found[1]].strip() if found else None


def extract_answer(text: str) -> str | None:
    """The answer a response commits to, or None.

    Only what follows a closed think block is read; a block that stays open gives no answer. The answer is the last
    closed box; else the last line, where it starts with ``####``, ``A:`` or ``Answer:``; else the sentence after the
    last "answer is" or "Answer:". A box that was cut off is no answer, and there is no last-number rule: a number that
    is not called the answer is none.
    """
    text = _after_thinking(text)
    boxed = last_boxed(text)
    if boxed:
        return boxed
    if _OPEN.search(text) and boxed is None:
        return None  # a box that does not close was cut off: 12 may have been going to be 123
    bare = _BARE.findall(text)
    if bare:
        return _trimmed(bare[-1])
    marked = _LAST_LINE.fullmatch(text.rstrip().rsplit("\n", 1)[-1].strip())
    if marked:
        return _trimmed(marked[1])
    return _said(text)


def _said(text: str) -> str | None:
    """The sentence after the last "answer is" that is meant."""
    for said in reversed(deque(_SAID.finditer(text), maxlen=_MOST_SAID)):
        before = re.split(r"[.!?;,\n]", text[max(0, said.start() - 100) : said.start()])[-1]
        after = text[said.end() :]
        display = _DISPLAY.match(after)
        line = display[1] if display else after.partition("\n")[0]
        end = _SENTENCE.search(line)
        if not _UNMEANT.search(before) and not (end and end[0] == "?"):
            return _trimmed(line[: end.start()] if end else line)
    return None


def _after_thinking(text: str) -> str:
    tag = _last(_THINK, text)
    if tag is None:
        return text
    return text[tag.end() :] if tag[1] else ""


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _trimmed(text: str) -> str | None:
    """Without the Markdown around it and the full stop after it."""
    return text.strip().strip('*_`"“”').strip().rstrip(".").rstrip() or None


def gold_of_solution(solution: str) -> str | None:
    """The gold answer an expert's solution ends with: its last box, else what follows its last ``####``."""
    boxed = last_boxed(solution)
    if boxed:
        return boxed
    _, marker, rest = solution.rpartition("####")
    return (rest.strip().split("\n")[0].strip() or None) if marker else None
