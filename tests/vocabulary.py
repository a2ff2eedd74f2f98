"""Find phrases that a newcomer has to translate, and say what to write instead.

    python tests/vocabulary.py             # the whole project; exit status 1 if there are any
    python tests/vocabulary.py FILE ...    # these files

Prints one line per hit (file:line: phrase -> what to say instead) and the hits per folder. Skips
generated tables in Markdown: their text comes from code.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKED = (
    *("*.md", "*.py", "docs/**/*.md", "docs/**/*.py"),
    *(f"{folder}/**/*.py" for folder in ("smacv2", "ppo_plasticity", "baselines", "tests")),
    *("benchmarks/**/*.py", "benchmarks/**/*.md"),
)
NAMING = ("tests/vocabulary.py", "tests/test_docs.py")
GENERATED = re.compile(r"<!-- table: \w+ -->.*?<!-- end -->", re.DOTALL)

PER = (
    "agent|battle|chunk|command|device|dim(?:ension)?|env|environment|episode|frame|game|iteration"
    "|layer|line|loop|machine|minibatch|multiprocessor|network|process|race|row|rule|run|scenario"
    "|seed|shot|step|target|team|thread|tick|unit"
)
COUNTED = (
    r"(?:an?|one)(?: \w+(?<!s))?|two|\d{2,}|\d+\.\d+|bytes|cells|chunks|copies|dataclass|degrees"
    "|directions|environments|envs|file|files|frames|GB|KB|kernels|layers|loops|MB|numbers"
    "|rollouts|rows|steps|threads|units|values|µs"
)
PHRASES = {
    rf"\b(?:{COUNTED}) (?-i:an?) (?:{PER})\b": "per",
    r"\b(?:go(?:es|ing)?|went|gone) on\b": "resume, continue, last",
    r"\bputs? back\b": "restore",
    r"\b(?:come|comes|came) of\b": "result",
    r"\blikewise\b": "repeat the noun",
    r"(?<!there\s)\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|better\b|worse\b|one\b)\w+": (
        "is not a, has no, is NaN"
    ),
    r"\bno number\b": "NaN",
    r"\blearners? of (?:battles|action values|values)\b": "multi-agent, value-based learner",
    r"\bway back through\b": "backward pass",
    r"\bdrawn to\b": "trained towards; what it is trained towards is a TD target",
    r"\bstand(?:s|ing)? (?:apart|behind|below|beside|between|for)\b": "is, is stored, replaces",
    r"\bstand(?:s|ing)? in\b(?! the way| the centre| it\b)": "is in, replaces",
    r"\bwhere (?:\w+ ){1,3}lies?\b|\blies? (?:on|in|beside)\b(?! the (?:agent|cone)| \d)": (
        "is, is stored in"
    ),
    r"\bend of the world\b": "termination",
    r"\bcome what may\b|\banyhow\b": "whatever happens",
    r'"""(?:Return )?(?:[Ww]hat|[Ww]hich)\b': "name the thing that is returned",
    r"\b(?-i:for one(?: in|,)|one = )": "name the variable after its noun",
}
COMPILED = {
    re.compile(phrase.replace(" ", r"[\s#]+"), re.IGNORECASE): instead
    for phrase, instead in PHRASES.items()
}
"""A phrase may be broken over two lines, of a comment too."""


def main(arguments: Sequence[str]) -> int:
    """Print all hits; return the exit status."""
    counts: Counter[str] = Counter()
    for path in [Path(argument).resolve() for argument in arguments] or checked():
        name = path.relative_to(ROOT)
        for line, phrase, instead in hits(path.read_text()):
            print(f"{name}:{line}: {phrase} -> {instead}")
            counts[name.parts[0]] += 1
    if counts:
        print(", ".join(f"{folder} {count}" for folder, count in sorted(counts.items())))
    return min(1, counts.total())


def checked() -> list[Path]:
    """Return the files of the project, without those that name the phrases."""
    found = {path for pattern in CHECKED for path in ROOT.glob(pattern)}
    return sorted(found - {ROOT / name for name in NAMING})


def hits(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, phrase, what to say instead) in the order of the phrases' table."""
    text = GENERATED.sub(lambda table: "\n" * table[0].count("\n"), text)
    for phrase, instead in COMPILED.items():
        for match in phrase.finditer(text):
            found = re.sub(r"[\s#]+", " ", match[0]).strip()
            yield text.count("\n", 0, match.start()) + 1, found, instead


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
