"""The pages of this project as a reader meets them: their blocks, the commands in their prose, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w+-]*)[ \t]*\n(?P<text>.*?)^ *```[ \t]*$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )?(?:orchestrator|make|cp|kubectl|sbatch|python) [a-z\-]")
_OPTIONAL = re.compile(r"\[(-[\w-]+|[A-Z]+)\]")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is that of its first line in the page, ``before`` the block above it."""

    page: Path
    line: int
    language: str
    text: str
    before: Block | None = None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages for readers: those at the top, and docs/ with all below it."""
    return sorted([*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[Block]:
    text, found = page.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        lines = [line[indent:] if not line[:indent].strip() else line for line in match["text"].splitlines()]
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"], "\n".join(lines) + "\n", found[-1] if found else None))
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> Iterator[Block]:
    """The commands in the prose, each as a block of one line: what stands in backticks and begins like `_COMMAND`.

    ``orchestrator logs S TRIAL [-f]`` means with ``-f`` or without; it is taken with.
    """
    text = page.read_text(encoding="utf-8")
    without = _FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)  # line numbers stay
    for match in _SPAN.finditer(without):
        words = " ".join(match[1].split())
        if _COMMAND.match(words) and "|" not in words and "…" not in words:
            yield Block(page, without.count("\n", 0, match.start()) + 1, "sh", _OPTIONAL.sub(r"\1", words) + "\n")


def is_output(block: Block) -> bool:
    """A block without a language that shows what the commands of the one above print."""
    return block.language == "" and block.before is not None and block.before.language == "sh"


def commands_only(text: str) -> str:
    """A block of commands without its comments: what must be the same in the README of every language."""
    return "\n".join(line.rstrip() for line in _COMMENT.sub("", text).splitlines() if line.strip())


def links(page: Path) -> Iterator[str]:
    """The targets of links and pictures."""
    yield from _LINK.findall(_SPAN.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """What ``#…`` may name in a page: its headings, as GitHub writes them in addresses."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", _LINK.sub(lambda m: m[0][1 : m[0].index("]")], heading).strip().lower())
        slug, number = slug.replace(" ", "-"), 0
        while (anchor := slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(anchor)
    return found
