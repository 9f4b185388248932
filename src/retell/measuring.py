"""The gap from the command on: which model scores the rewritten rows, and what its drift is measured on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from retell.drawing import LocalPolicy, asked
from retell.errors import RunFolderError
from retell.firsts import Group, of_evaluation, of_rewriting
from retell.hashing import digest, file_digest
from retell.parts import Parts, Scorer
from retell.policy import default_device, fingerprint, load_model, require_same_model, resolve_policy
from retell.prompts import Prompter
from retell.ratios import lacks_tails
from retell.recipe import Policy, Recipe, overlay
from retell.report import gap_tables
from retell.runfolder import RunFolder
from retell.steps import digest_of, do_stage, own_policy, rewritten_path, stored_in

Summary = dict[str, Any]


def run_gap(recipe: Recipe, folder: RunFolder) -> Summary:
    """Log-probs and weights of expert and rewritten responses under the policy: gap.parquet, gap.json."""
    policy = own_policy(recipe, folder)
    return _gap(recipe, folder, policy, policy, "gap", lambda score, parts: {})


def run_tuned_gap(recipe: Recipe, folder: RunFolder, tuned: Policy) -> Summary:
    """The same under a checkpoint of the policy, and its drift from there: gap/NAME.parquet, gap/NAME.json."""
    from retell.drift import measure_drift

    recipe = overlay(recipe, Recipe(policy=Policy(trust_remote_code=tuned.trust_remote_code)))
    base, model = own_policy(recipe, folder), resolve_policy(tuned)
    require_same_model(model, base.folder, tuned.trust_remote_code)
    # Its own tokenizer may not have been saved with it, and what is scored are the base's tokens.
    checkpoint = LocalPolicy(model, fingerprint(model), base.tokenizer)

    def drift(score: Scorer, parts: Parts) -> Summary:
        with stored_in(folder) as journal:
            return {"drift": measure_drift(_first_samples(recipe, folder, base), journal, score, parts)}

    return _gap(recipe, folder, base, checkpoint, f"gap/{checkpoint_name(tuned)}", drift)


def run_gap_tables(recipe: Recipe, folder: RunFolder) -> Summary:
    """The log-probs that were measured, as Markdown; nothing is written."""
    if not any(stage.split("/")[0] == "gap" for stage in folder.stages()):
        raise RunFolderError(
            f"{folder.path} has no log-probs that are up to date: run `retell gap {folder.path}` first"
        )
    return {"tables": gap_tables(recipe, folder)}


def checkpoint_name(tuned: Policy) -> str:
    """What a checkpoint's results are called: its folder's name."""
    return Path(tuned.model or "").name


def is_own_policy(policy: Policy, folder: RunFolder) -> bool:
    """Whether a model is the one that the folder's data was rewritten for, wherever it lies now."""
    return (folder.read_json("rewrite.json") or {}).get("policy") == fingerprint(resolve_policy(policy))


def _gap(
    recipe: Recipe,
    folder: RunFolder,
    base: LocalPolicy,
    scored: LocalPolicy,
    stage: str,
    more: Callable[[Scorer, Parts], Summary],
) -> Summary:
    """Scores the rewritten rows under ``scored`` with the base's tokens; ``more`` adds to the summary."""
    from retell.gap import RULES, measure_gap, measured_before
    from retell.logprobs import row_logprobs

    rewritten, table = rewritten_path(folder), f"{stage}.parquet"
    inputs = [RULES, base.fingerprint, scored.fingerprint, file_digest(rewritten)]
    if scored is not base:
        prompter = _evaluated_as(recipe, base)
        evaluated = [digest_of(folder.path / "eval/base.json"), "evaluate/base" in folder.stages()]
        inputs += [*evaluated, prompter.system, prompter.solve_template.user]

    def work() -> Summary:
        model = load_model(scored.folder, "auto", default_device(), recipe.policy.trust_remote_code).eval()
        score = partial(row_logprobs, model, batch_tokens=recipe.gap.batch_tokens)
        parts = Parts(folder, f".gap/{scored.fingerprint[:12]}", digest(inputs))
        summary = measure_gap(rewritten, base.tokenizer, score, parts, folder, table) | more(score, parts)
        folder.write_json(f"{stage}.json", summary)
        parts.discard()
        return summary

    known = folder.read_json(f"{stage}.json") if folder.is_fresh(stage, inputs) else None
    if known and lacks_tails(known):
        folder.write_json(f"{stage}.json", known | measured_before(folder.path / table, known["all"]["rejected"]))
    return do_stage(folder, stage, inputs, [f"{stage}.json", table], work)


def _evaluated_as(recipe: Recipe, base: LocalPolicy) -> Prompter:
    """What makes the prompts of an evaluation of the base."""
    return Prompter(asked(recipe.policy, recipe.evaluate), base.tokenizer)


def _first_samples(recipe: Recipe, folder: RunFolder, base: LocalPolicy) -> dict[str, Group | str]:
    """Where the base's own samples are: on the new prompts, which it was tuned on, and on the old of its evaluation."""
    rewritten, drew = rewritten_path(folder), (folder.read_json("rewrite.json") or {}).get("policy")
    prompter = _evaluated_as(recipe, base)
    new = of_rewriting(rewritten, recipe.rewrite, base.fingerprint, drew, base.tokenizer)
    return {"new": new} | of_evaluation(folder, prompter, base.fingerprint)
