"""The log-probs of given responses beside those that vLLM has of the same tokens as a prompt."""

from itertools import count

import pytest
from gaps import rewritten_rows
from transformers import PreTrainedModel

from retell.engines.vllm import VllmEngine
from retell.logprobs import row_logprobs
from retell.mixes import expert_ids, kept_ids
from retell.packing import Pair
from retell.tokens import ChatTokenizer


def test_logprobs_of_given_responses_are_vllms_of_the_same_prompt(
    engine: VllmEngine, tokenizer: ChatTokenizer, model: PreTrainedModel
) -> None:
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    rows = [make(row, tokenizer) for row in rewritten_rows(30) for make in (expert_ids, kept_ids)]
    pairs: list[Pair] = [(row.prompt, row.response) for row in rows]
    numbers = count()

    async def theirs(prompt: tuple[int, ...], response: tuple[int, ...]) -> list[float]:
        asked = SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0, detokenize=False)
        whole = tokens_input([*prompt, *response])
        (answer,) = [part async for part in engine._llm.generate(whole, asked, f"given-{next(numbers)}")]
        places = answer.prompt_logprobs[len(prompt) :]
        return [place[token].logprob for place, token in zip(places, response, strict=True)]

    for number, own in row_logprobs(model, pairs):
        assert engine._loop.run_until_complete(theirs(*pairs[number])) == pytest.approx(own, abs=1e-2)
