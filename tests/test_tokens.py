import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import retell
from retell.errors import DataError, PolicyError
from retell.prompts import Prompter
from retell.recipe import Policy
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny" / "policy"
TOKENIZER = ChatTokenizer(TINY)


def with_template(folder: Path, template: str) -> ChatTokenizer:
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return ChatTokenizer(folder)


def turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@given(st.text(max_size=60), st.text(max_size=60))
def test_training_ids_are_the_prompt_then_the_response_then_one_end_token(question: str, answer: str) -> None:
    prompt, response = TOKENIZER.training_ids(turn(question, answer))
    assert prompt == TOKENIZER.prompt_ids(turn(question, answer)[:1])
    assert response[-1] in TOKENIZER.end_ids
    assert not TOKENIZER.end_ids.intersection(response[:-1])
    assert TOKENIZER.decode(response) == answer


def test_control_tokens_in_a_response_are_spelled_out() -> None:
    _, response = TOKENIZER.training_ids(turn("Hello", "one<|end|>two"))
    assert TOKENIZER.decode(response[:-1]) == "one<|end|>two"
    assert not TOKENIZER.end_ids.intersection(response[:-1])


def test_a_template_that_breaks_the_prefix_is_refused_with_the_place(tmp_path: Path) -> None:
    template = "{{ messages|length }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    tokenizer = with_template(tmp_path / "policy", template)
    with pytest.raises(DataError, match="prefix: at character 0"):
        tokenizer.training_ids(turn("a", "b"))


def test_a_template_that_changes_the_response_is_refused(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path / "policy", "{% for m in messages %}{{ m.content|upper }}{% endfor %}")
    with pytest.raises(DataError, match="changes the response"):
        tokenizer.training_ids(turn("A", "b"))


def test_what_a_template_writes_after_the_end_token_is_not_trained(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    _, response = with_template(tmp_path / "policy", template).training_ids(turn("a", "b"))
    assert response[-1] in TOKENIZER.end_ids
    assert len(response) == 2


def test_what_a_template_opens_a_response_with_is_trained_on(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}(a) {% endif %}{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = with_template(tmp_path / "policy", template)
    prompt, response = tokenizer.training_ids(turn("a", "47"))
    assert tokenizer.decode(prompt).endswith("<|assistant|>")
    assert tokenizer.decode(response) == "(a) 47"


def test_a_prompt_is_the_same_on_any_day(tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %B %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = with_template(tmp_path / "policy", template)
    assert tokenizer.render(turn("a", "b")[:1], prompt=True) == "26 July 2024a"


def test_the_token_that_closes_a_turn_ends_a_response_beside_the_models_own(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|user|>{% endfor %}"
    tokenizer = with_template(tmp_path / "policy", template + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    names = set(tokenizer.tokenizer.convert_ids_to_tokens(list(tokenizer.end_ids)))
    assert names == {"<|user|>", "<|end|>"}
    _, response = tokenizer.training_ids(turn("a", "b"))
    assert tokenizer.tokenizer.convert_ids_to_tokens(response[-1]) == "<|user|>"


def test_control_tokens_spelled_out_are_found() -> None:
    assert TOKENIZER.control_token("say <|assistant|> twice") == "<|assistant|>"
    assert TOKENIZER.control_token("say <assistant> twice") is None


def test_a_template_that_refuses_a_role_is_a_clear_error(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path / "policy", "{{ raise_exception('no system role') }}")
    with pytest.raises(PolicyError, match="no system role"):
        tokenizer.prompt_ids(turn("a", "b")[:1])


def test_a_training_row_always_has_an_end(tmp_path: Path) -> None:
    """A turn that the template closes with no control token ends with the tokenizer's, else with the only one named."""
    folder = tmp_path / "policy"
    shutil.copytree(TINY, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "generation_config.json").unlink(missing_ok=True)

    def change(file: str, **values: object) -> None:
        held = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(held | values), encoding="utf-8")

    opened = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    change("tokenizer_config.json", chat_template=opened, eos_token=None)
    change("config.json", eos_token_id=3)
    assert ChatTokenizer(folder).training_ids(turn("What?", "Seven."))[1][-1] == 3
    change("config.json", eos_token_id=[2, 3])
    with pytest.raises(PolicyError, match="more than one end-of-sequence token: set eos_token"):
        ChatTokenizer(folder)
    change("config.json", eos_token_id=None)
    with pytest.raises(PolicyError, match="no end-of-sequence token"):
        ChatTokenizer(folder)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
REQUEST = "1 + 1?\nPlease reason step by step, and put your final answer within \\boxed{}."


@pytest.mark.parametrize(
    ("template", "name", "prompt"),
    [
        (
            CHATML,
            "qwen-boxed",
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{REQUEST}<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            LLAMA_3,
            "boxed",
            f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{REQUEST}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_the_papers_prompts_are_rendered_to_the_letter(tmp_path: Path, template: str, name: str, prompt: str) -> None:
    tokenizer = with_template(tmp_path / "policy", template)
    messages = Prompter(Policy(template=name), tokenizer).solve("1 + 1?").messages
    assert tokenizer.render(messages, prompt=True) == prompt


def test_the_begin_token_stands_once_where_the_tokenizer_would_add_it_too(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(TINY, folder)
    plain = AutoTokenizer.from_pretrained(folder)
    begin = plain.convert_ids_to_tokens(plain.all_special_ids[0])
    plain.bos_token = begin
    plain.chat_template = "{{ bos_token }}" + plain.chat_template
    plain._tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, plain.bos_token_id)]
    )
    plain.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).encode("a")[0] == plain.bos_token_id
    ids = ChatTokenizer(folder).prompt_ids([{"role": "user", "content": "Hello"}])
    assert ids[0] == plain.bos_token_id and plain.bos_token_id not in ids[1:3]


@given(st.lists(st.integers(0, len(TOKENIZER.tokenizer) - 1), max_size=30))
def test_pieces_are_one_for_each_id_and_make_up_the_text(ids: list[int]) -> None:
    pieces = TOKENIZER.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == TOKENIZER.decode(ids)


def test_a_character_is_never_torn_over_its_tokens() -> None:
    ids = TOKENIZER.training_ids(turn("?", "é 日本 👩‍👩‍👧!"))[1]
    pieces = TOKENIZER.pieces(ids)
    assert "\ufffd" not in "".join(pieces)
    assert [piece for piece in pieces if piece] == [
        "é",
        " ",
        "日",
        "本",
        " ",
        "👩",
        "\u200d",
        "👩",
        "\u200d",
        "👧",
        "!",
    ]
    assert pieces[-1] == ""
