"""`retell doctor`: what is installed, reachable and wrong; the checks in order, from cheap to expensive."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from retell.checks import cluster, installation, model, sample, servers, template
from retell.checks.base import Check, Finding, Patient, guarded
from retell.checks.sample import end_of

CHECKS: tuple[tuple[str, Check], ...] = (
    ("Python", installation.python),
    ("installation", installation.installed),
    ("grader", installation.graders),
    ("accelerator", installation.accelerators),
    ("options", model.options),
    ("model", model.model),
    ("tokenizer", model.tokenizer),
    ("configuration", model.configuration),
    ("prompt", template.prompt),
    ("chat template", template.template),
    ("end tokens", template.ends),
    ("server", servers.servers),
    ("cluster", cluster.cluster),
    ("sample", sample.sample),
    ("log-probs", sample.logprobs),
)


def examine(patient: Patient) -> Iterator[Finding]:
    """Makes every check, in order."""
    for what, check in CHECKS:
        yield from guarded(what, check(patient))


def summary(patient: Patient, findings: Sequence[Finding]) -> dict[str, Any]:
    """All findings, how many are wrong, the prompt and the reply; the latter two are None where there are none."""
    prompt, reply = patient.prompt, patient.reply
    return {
        "findings": [asdict(finding) for finding in findings],
        "wrong": sum(finding.state == "wrong" for finding in findings),
        "prompt": prompt
        and {
            "messages": [dict(message) for message in prompt.messages],
            "text": patient.rendered,
            "tokens": None if prompt.ids is None else len(prompt.ids),
        },
        "reply": reply
        and {
            "text": reply.text.encode("utf-8", "replace").decode(),
            "stop": reply.stop,
            "tokens": reply.tokens,
            "end": end_of(patient, reply),
        },
    }
