import warnings
from importlib.resources import as_file, files
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from retell.tiny.corpus import documents
from retell.tiny.tokenizer import MAX_TOKENS, SPECIAL_TOKENS, build_tokenizer, render_chat

with as_file(files("retell.tiny").joinpath("policy")) as policy, warnings.catch_warnings():
    warnings.simplefilter("error")
    PACKAGED = AutoTokenizer.from_pretrained(policy)
BUILT = build_tokenizer()

# Arbitrary text, and text made of fragments that the phrases of the vocabulary may split in surprising ways.
fragments = st.sampled_from(
    [" ", ". ", ", ", "(a) ", "(a)", "0", "7", "42", "100", "\\boxed{", "}", "}.", " + ", "\n", "add ", "answer", "é"]
)
texts = st.one_of(st.text(), st.lists(fragments).map("".join))
roles = st.sampled_from(["system", "user"])


def pieces(text: str) -> list[str]:
    return [PACKAGED.decode([token]) for token in PACKAGED.encode(text)]


@given(texts)
def test_any_text_survives(text: str):
    ids = PACKAGED.encode(text)
    assert PACKAGED.decode(ids) == text
    assert BUILT.encode(text) == ids


def test_awkward_texts_survive():
    for text in ("", "\n", " ", "don 't !", "x , y .", "🙂\u200d\u0301", "\u212b", "\ufb01", "\0", "a  b\t\r\n", "007"):
        assert PACKAGED.decode(PACKAGED.encode(text)) == text


def test_every_number_is_one_token():
    ids = {tuple(PACKAGED.encode(str(number))) for number in range(100)}
    assert len(ids) == 100
    assert all(len(tokens) == 1 for tokens in ids)
    assert pieces("(a) 47 + 8 = 55\n") == ["(a) ", "47", " + ", "8", " = ", "55", "\n"]


def test_a_problem_step_is_four_tokens():
    for step in ("(a) add 8. ", "(j) subtract 1. ", "(c) multiply by 3. "):
        assert len(pieces(step)) == 4


def test_the_box_is_one_token():
    assert pieces("So the answer is \\boxed{55}.") == ["So the answer is ", "\\boxed{", "55", "}."]
    assert pieces("Answer: \\boxed{5}") == ["Answer: ", "\\boxed{", "5", "}"]


def test_the_corpus_never_falls_apart_into_letters():
    for document in islice(documents(seed=5), 300):
        for piece in pieces(document.prompt) + pieces(document.response):
            assert len(piece) > 1 or piece.isdigit() or piece in "\n}", piece


def test_the_corpus_fits():
    for document in islice(documents(seed=6), 300):
        assert len(PACKAGED.encode(render_chat(document.messages))) < MAX_TOKENS


@given(st.lists(st.builds(lambda role, text: {"role": role, "content": text}, roles, texts), min_size=1), texts)
def test_the_generation_prompt_is_a_prefix(messages: list[dict[str, str]], response: str):
    prompt = PACKAGED.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = PACKAGED.apply_chat_template([*messages, {"role": "assistant", "content": response}], tokenize=False)
    assert whole == f"{prompt}{response}<|end|>"
    prompt_ids = PACKAGED.encode(prompt)
    assert PACKAGED.encode(whole) == [*prompt_ids, *PACKAGED.encode(response), PACKAGED.eos_token_id]


@given(st.lists(st.builds(lambda role, text: {"role": role, "content": text}, roles, texts), min_size=1), st.booleans())
def test_rendering_is_that_of_the_chat_template(messages: list[dict[str, str]], prompt: bool):
    expected = PACKAGED.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert render_chat(messages, add_generation_prompt=prompt) == expected


def test_special_tokens():
    assert PACKAGED.eos_token == "<|end|>"
    assert PACKAGED.pad_token == "<|pad|>"
    assert PACKAGED.bos_token is None
    assert set(PACKAGED.all_special_tokens) == set(SPECIAL_TOKENS)
    assert all(len(PACKAGED.encode(token)) == 1 for token in SPECIAL_TOKENS)
