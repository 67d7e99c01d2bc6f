"""The pages of docs/: links, the glossary's words, the index."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
WORDS = {
    "population",
    "cohort",
    "client",
    "round",
    "step",
    "tree",
    "update",
    "diff",
    "stack",
    "broadcast",
    "oracle",
    "mechanism",
    "ledger",
    "clock",
    "pace",
    "staleness",
    "codec",
    "graph",
    "peer",
    "clip_norm",
    "noise_multiplier",
    "noise_std",
    "sampling_prob",
    "epsilon",
    "delta",
    "mu",
    "canary",
    "executor",
    "worker",
    "width",
    "scenario",
    "study",
    "arm",
    "claim",
    "unit",
    "sensitivity",
    "PLD",
    "RDP",
    "BandMF",
    "BLT",
    "f-DP",
    "budget",
    "strategy",
    "aggregator",
    "task",
    "knob",
    "settings",
    "accountant",
    "audit",
    "verdict",
}
PHRASES = [
    "batch plan",
    "step rule",
    "client selection",
    "neighbouring relation",
    "Zero-out",
    "Replace-one",
    "Add/remove",
    "trade-off function",
    "matrix factorisation",
]


def heading_anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]+))?\)", page.read_text()):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        if anchor:
            assert anchor in heading_anchors(linked), f"{target}#{anchor}"


def test_the_glossary_has_the_words_of_the_project():
    bold = set(re.findall(r"\*\*`?([^*`]+)`?\*\*", (DOCS / "glossary.md").read_text()))
    assert WORDS - bold == set()


@pytest.mark.parametrize("phrase", PHRASES)
def test_the_glossary_has_the_phrases_of_the_project(phrase):
    assert phrase in (DOCS / "glossary.md").read_text()


def test_each_word_of_the_glossary_names_the_file_that_defines_it():
    entries = re.split(r"^\* ", (DOCS / "glossary.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    for entry in entries:
        (target,) = re.findall(r"\]\(([^)]+)\)", entry)
        assert (DOCS / target).exists(), target


def test_the_index_lists_every_page():
    index = (DOCS / "index.md").read_text()
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)#:]+)[#)]", index)}
    assert {page.resolve() for page in PAGES} - linked == {DOCS / "index.md"}
