"""MkDocs hooks: pages from outside this folder, the help pages of the commands, and the list of public functions.

READMEs and cards of weights become pages of the site, with the files that they link to. The page of commands gets the
help page of each command, and the page of functions an entry for each public name, so that nothing is written twice.
"""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PATTERNS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "csrc/README.md",
    "pretrained/**/*.md",
    "projects/*/README.md",
)
LINK = re.compile(r"\]\(([^)#\s]+)")
HELP_PAGES = "<!-- help pages -->"
PUBLIC_NAMES = "<!-- public names -->"
PRINT_HELP = """
import importlib, json, click
from stylegan_toon.cli import COMMANDS
pages = {}
for name in COMMANDS:
    main = importlib.import_module(f"stylegan_toon.{name}").main
    pages[name] = main.get_help(click.Context(main, info_name=f"python -m stylegan_toon.{name}"))
print(json.dumps(pages))
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere in the repository, and the files that pages link to."""
    pages = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
    linked = [target for page in [*pages, *sorted(DOCS.rglob("*.md"))] for target in _targets(page)]
    for path in dict.fromkeys([*pages, *linked]):
        if files.get_file_from_path(_on_site(path)) is None:
            files.append(File.generated(config, _on_site(path), abs_src_path=str(path)))
    return files


def _targets(page: Path) -> list[Path]:
    """The files of the repository that a page links to with a relative address."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    targets = ((page.parent / link).resolve() for link in links if "://" not in link)
    return [path for path in targets if path.is_file() and path.is_relative_to(ROOT)]


def _on_site(path: Path) -> str:
    """The path of a file of the repository on the site: files of docs/ are at the top, all others beside them."""
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the help pages and the public names, and rewrite relative links for the site."""
    name = page.file.src_uri
    if name == "commands.md":
        return markdown.replace(HELP_PAGES, _help_pages())
    if name == "api/functions.md":
        return markdown.replace(PUBLIC_NAMES, _public_names())
    folder = (ROOT if page.file.generated_by else DOCS).joinpath(name).parent

    def turned(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if "://" in match[1] or not target.is_relative_to(ROOT):
            return match[0]
        target = target / "README.md" if target.is_dir() else target
        return f"]({posixpath.relpath(_on_site(target), posixpath.dirname(name))}"

    return LINK.sub(turned, markdown)


def _help_pages() -> str:
    """The help page of each command, from a new process, so that ``mkdocs serve`` sees edited sources."""
    done = subprocess.run([sys.executable, "-c", PRINT_HELP], check=True, capture_output=True, text=True, cwd=ROOT)
    sections = [f"## {name}\n\n```text\n{text.strip()}\n```\n" for name, text in json.loads(done.stdout).items()]
    return "\n".join(sections)


def _public_names() -> str:
    """An entry of the reference for each public name: functions first, then classes."""
    from stylegan_toon import _NAMES

    names = sorted((name[0].isupper(), name, module) for name, module in _NAMES.items() if name != "ops")
    return "\n".join(f"::: stylegan_toon.{module}.{name}" for _, name, module in names)
