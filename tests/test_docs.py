"""The documentation: its examples run, its tables are current, its links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def blocks(page, language):
    return [match[2] for match in FENCED.finditer(page.read_text()) if match[1] == language]


def examples():
    for page in (ROOT / "README.md", ROOT / "docs" / "environments.md"):
        for number, code in enumerate(blocks(page, "python")):
            yield pytest.param(page, code, id=f"{page.stem}-{number}")


def load_tables():
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
