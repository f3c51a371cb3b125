"""What mkdocs is told beside mkdocs.yml: pages that lie outside of docs/, and links between them and docs/."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
# File of the repository -> page of the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "examples/README.md": "examples.md",
    "benchmarks/README.md": "benchmark-scripts.md",
}
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside of docs/."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=with_links_of_site(text, posixpath.dirname(source))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ into links of the site."""
    return markdown if page.file.src_uri in OUTSIDE.values() else with_links_of_site(markdown, "docs")


def with_links_of_site(markdown: str, folder: str) -> str:
    """Links from a file in a folder of the repository, as links between pages, which lie in one folder."""

    def link(match: re.Match[str]) -> str:
        source = posixpath.normpath(posixpath.join(folder, match[1]))
        page = OUTSIDE.get(source) or source.removeprefix("docs/")
        return f"]({page}{match[2] or ''})"

    return _LINK.sub(link, markdown)
