"""The documentation: examples run, tables are current, links lead somewhere, prose is wrapped."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "results" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
WITH_EXAMPLES = ("README.md", "docs/environments.md", "docs/performance.md")
WIDTH = 100
FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def blocks(page, language):
    return [match[2] for match in FENCED.finditer(page.read_text()) if match[1] == language]


def examples():
    for page in (ROOT / name for name in WITH_EXAMPLES):
        for number, code in enumerate(blocks(page, "python")):
            yield pytest.param(page, code, id=f"{page.stem}-{number}")


def load(path):
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_tables():
    return load(ROOT / "docs" / "tables.py")


def load_vocabulary():
    return load(ROOT / "tests" / "vocabulary.py")


def prose(text):
    """Yield (line number, line) without code, tables, images and comments."""
    text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(("|", "![", "<!--")):
            yield number, line


@pytest.mark.parametrize(("page", "code"), list(examples()))
def test_the_examples_run(page, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in blocks(page, "toml"):  # files the examples read, named in their first line
        tmp_path.joinpath(text.partition("\n")[0].removeprefix("# ")).write_text(text)
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("name", load_tables().PAGES)
def test_the_generated_tables_are_current(name):
    text = (ROOT / name).read_text()
    assert load_tables().updated(text) == text, "run python docs/tables.py"


def test_every_option_is_explained():
    tables = load_tables()
    assert tables.field_docs(tables.Options).keys() == tables.Options.__dataclass_fields__.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    targets = [page.parent / target for target in LINK.findall(page.read_text())]
    assert [target for target in targets if not target.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped(page):
    long = [number for number, line in prose(page.read_text()) if len(line) > WIDTH]
    assert long == [], f"wrap these lines at {WIDTH} columns"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_the_words_of_the_field(page):
    assert list(load_vocabulary().hits(page.read_text())) == []


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("a row of weights, one a seed", "one a seed"),
        ("# two kernels\n# a step", "kernels a step"),
        ("a chunk a thread", "a chunk a thread"),
        ("Training goes\n    on.", "goes on"),
        ("a loss that is no number", "is no number"),
        ("where the run folder lies", "where the run folder lies"),
        ('"""Return what the agents saw."""', '"""Return what'),
        ("for one in runs:", "for one in"),
    ],
)
def test_the_vocabulary_check_finds_a_phrase(text, phrase):
    assert phrase in [found for _, found, _ in load_vocabulary().hits(text)]


@pytest.mark.parametrize(
    "text",
    [
        "18 thousand steps a second",
        "it plays a battle and gets a seed; one plays a battle",
        "there is no battle",
        "a unit that stands in the way lies in the cone",
        "<!-- table: ppo -->\n| one a seed |\n<!-- end -->",
    ],
)
def test_the_vocabulary_check_leaves_good_english_alone(text):
    assert list(load_vocabulary().hits(text)) == []
