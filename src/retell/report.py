"""A run folder → report.html and report.md: the paper's tables and figures for this run, and what holds of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from retell.document import Document, Section
from retell.markdown import joined, markdown, section
from retell.recipe import Recipe
from retell.results import Results, results_of
from retell.runfolder import RunFolder
from retell.sections.accuracy import ablation, accuracy
from retell.sections.caveats import caveats
from retell.sections.cost import cost
from retell.sections.differences import differences
from retell.sections.examples import examples
from retell.sections.logprobs import Spreads, histograms, logprobs
from retell.sections.overview import overview
from retell.sections.provenance import provenance
from retell.sections.rungs import rungs
from retell.sections.training import training
from retell.sections.tuned import tuned
from retell.sections.weights import weights
from retell.spread import spreads
from retell.webpage import webpage


def write_report(recipe: Recipe, folder: RunFolder, rows: Mapping[str, Any] | None = None) -> None:
    """Writes report.html and report.md from whatever stages the folder holds.

    ``rows`` are those that can be read in the page: a `retell.browse.Embedded` as a dict.
    """
    document = report(results_of(recipe, folder), rows)
    folder.write_text("report.html", webpage(document))
    folder.write_text("report.md", markdown(document))


def report(results: Results, rows: Mapping[str, Any] | None = None) -> Document:
    """The page of a run, its sections in the order of the method."""
    spread = _spreads(results)
    sections = (
        overview(results),
        rungs(results),
        logprobs(results),
        histograms(spread),
        weights(results, spread),
        training(results),
        tuned(results),
        accuracy(results),
        differences(results),
        ablation(results),
        cost(results),
        caveats(results),
        provenance(results),
        examples(results, rows),
    )
    return Document(results.recipe.report.title, _there(sections))


def tables(recipe: Recipe, folder: RunFolder) -> str:
    """Tables 1 to 4 of the run as Markdown, the paper's beside them; empty where the folder has nothing for any."""
    results = results_of(recipe, folder)
    found = (rungs(results), accuracy(results), logprobs(results), ablation(results))
    return joined(map(section, _there(found)))


def gap_tables(recipe: Recipe, folder: RunFolder) -> str:
    """The log-probs, weights and drifts that were measured, as Markdown."""
    results = results_of(recipe, folder)
    return joined(map(section, _there((logprobs(results), weights(results, {}), tuned(results)))))


def _there(sections: Sequence[Section | None]) -> list[Section]:
    return [one for one in sections if one]


def _spreads(results: Results) -> Spreads:
    path = results.folder.path / "gap.parquet"
    return spreads(path) if results.gap and path.is_file() else {}
