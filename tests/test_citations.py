"""The rules that comments cite exist: every (mechanics N.M) and (interface N.M) leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CITING = sorted((*ROOT.glob("smacv2/**/*.py"), *ROOT.glob("tests/smacv2/**/*.py")))
PAGES = ("mechanics", "interface")
NUMBER = r"\d+(?:\.\d+)?"
LIST = rf"{NUMBER}(?:(?:, | and | to ){NUMBER})*"
CITATION = re.compile(rf"\b({'|'.join(PAGES)})\s+({LIST})", re.IGNORECASE)
NUMBERED = re.compile(rf"^(?:#+ |\*\*)({NUMBER})\b", re.MULTILINE)
OTHER_FORMS = (
    re.compile(rf"\bspec {NUMBER}", re.IGNORECASE),
    re.compile(r"\b(?:mechanics|interface)[,:]? sections? "),
    re.compile(r"(?<= )\(\d+\.\d+(?:(?:, | and | to )\d+\.\d+)*\)\."),  # a number alone
)
"""Citations that do not say where to look."""


def numbers(page):
    return set(NUMBERED.findall((ROOT / "docs" / f"{page}.md").read_text()))


def citations(text):
    """Yield (page, number) of every citation; of "2.3 to 2.8" both ends."""
    for page, listed in CITATION.findall(text):
        for number in re.findall(NUMBER, listed):
            yield page.lower(), number


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*CITING, *sorted(ROOT.glob("docs/*.md"))], ids=relative)
def test_every_citation_leads_to_a_numbered_paragraph(path):
    known = {page: numbers(page) for page in PAGES}
    lost = [cited for cited in citations(path.read_text()) if cited[1] not in known[cited[0]]]
    assert lost == []


@pytest.mark.parametrize("path", CITING, ids=relative)
def test_citations_have_one_form(path):
    text = path.read_text()
    found = [match[0] for form in OTHER_FORMS for match in form.finditer(text)]
    assert found == [], "write (mechanics 5.4) or (interface 2.6)"


@pytest.mark.parametrize("page", PAGES)
def test_no_number_is_given_twice(page):
    found = NUMBERED.findall((ROOT / "docs" / f"{page}.md").read_text())
    assert sorted(found) == sorted(set(found))


def test_the_engine_says_where_its_citations_lead():
    text = (ROOT / "smacv2" / "engine" / "__init__.py").read_text()
    assert [page for page in PAGES if f"docs/{page}.md" not in text] == []


def test_citations_are_found_in_all_their_forms():
    text = "(mechanics 7.2) (interface 2.9, mechanics 11.7) (mechanics 6.1 to 6.5) (mechanics 7)"
    cited = [("mechanics", "7.2"), ("interface", "2.9"), ("mechanics", "11.7")]
    cited += [("mechanics", "6.1"), ("mechanics", "6.5"), ("mechanics", "7")]
    assert list(citations(text)) == cited
