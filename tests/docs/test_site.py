"""The documentation builds without a warning, and nothing in it leads nowhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from doc_pages import DOCS, pages

from handcraft import cli
from handcraft.recipe import recipe_names

SITES = {"arxiv.org", "doi.org", "github.com", "pradyunsg.me", "www.sphinx-doc.org", "zenodo.org"}
"""Other sites that pages may link to; nothing is fetched from them, and no page needs them to be read."""


class Links(HTMLParser):
    """What a page leads to, what it loads by itself, and the names that lead into it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.loads, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[name] for name in ("id", "name") if found.get(name)}
        loaded = tag == "link" and {"stylesheet", "icon"} & set((found.get("rel") or "").split())
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif loaded or (found.get("src") and tag in ("img", "script", "iframe", "source")):
            self.loads.append(found.get("src") or found["href"])


def build(out: Path) -> dict[Path, Links]:
    """The built pages; a warning is an error."""
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", out / "doctrees", DOCS, out / "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {page: Links(page.read_text(encoding="utf-8")) for page in sorted((out / "html").rglob("*.html"))}


def test_site(tmp_path):
    """One test, so that the pages are built once however many processes share the tests."""
    pytest.importorskip("sphinx", reason="the documentation's packages are not installed (extra [docs])")
    site = build(tmp_path)
    assert len(site) > len(pages())
    assert broken(site) == []
    links = {link for found in site.values() for link in found.links if urlsplit(link).scheme}
    assert [link for link in links if urlsplit(link).scheme not in ("https", "http") or " " in link] == []
    assert {urlsplit(link).netloc for link in links} <= SITES
    loads = {load for found in site.values() for load in found.loads}
    assert [load for load in loads if urlsplit(load).scheme not in ("", "data")] == []
    linked = {urlsplit(link).path for link in site[tmp_path / "html" / "index.html"].links}
    assert {page.relative_to(DOCS).with_suffix(".html").as_posix() for page in pages()} - linked <= {"index.html"}


def broken(site: dict[Path, Links]) -> list[str]:
    """Links within the pages that lead to no file, or to no place in it."""
    return [
        f"{page.name}: {link}"
        for page, found in site.items()
        for link in found.links + found.loads
        if not urlsplit(link).scheme and not leads_somewhere(link, page, site)
    ]


def leads_somewhere(link: str, page: Path, site: dict[Path, Links]) -> bool:
    parts = urlsplit(link)
    target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    names = site[target].names if target in site else set()
    return target.is_file() and (not parts.fragment or unquote(parts.fragment) in names)


def test_broken_links_are_found(tmp_path):
    text = (
        '<a href="#here"><a href="b.html#there"><a href="b.html#gone"><a href="c.html"><img src="d.png"><p id="here">'
    )
    one, other = tmp_path / "a.html", tmp_path / "b.html"
    one.write_text(text)
    other.write_text('<h1 id="there">')
    site = {page: Links(page.read_text()) for page in (one, other)}
    assert broken(site) == ["a.html: b.html#gone", "a.html: c.html", "a.html: d.png"]


def test_every_command_option_and_recipe_is_on_its_page(capsys, monkeypatch):
    """Every option that a command's own help names."""
    monkeypatch.syspath_prepend(DOCS)
    import help_pages

    commands, recipes = help_pages.commands_page(), help_pages.recipes_page()
    for words, (_, _, recipe) in cli.COMMANDS.items():
        with pytest.raises(SystemExit):
            cli.main([*words, *(["demo"] if recipe else []), "--help"])
        shown = set(re.findall(r"^[ │]{1,3}(--(?!recipe)[a-z][a-z0-9-]*)", capsys.readouterr().out, re.MULTILINE))
        section = commands.split(f"\n## handcraft {' '.join(words)}\n")[1].split("\n## ")[0]
        assert shown == set(re.findall(r"`(--(?!recipe|no-)[a-z0-9-]+)`", section)), words
    for name in recipe_names():
        assert f"| `{name}` |" in recipes
    assert "\n## generator.train\n" in recipes
    assert "`checkpoint_every`: `50`" in recipes
