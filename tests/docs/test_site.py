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

SITES = {"arxiv.org", "github.com", "www.sphinx-doc.org", "pradyunsg.me"}
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


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Links]:
    """The built pages."""
    pytest.importorskip("sphinx", reason="the documentation's packages are not installed")
    out = tmp_path_factory.mktemp("site")
    words = ["-W", "--keep-going", "-q", "-b", "html", "-d", out / "doctrees", DOCS, out / "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {page: Links(page.read_text(encoding="utf-8")) for page in sorted((out / "html").rglob("*.html"))}


def test_every_link_leads_somewhere(site):
    assert len(site) > 10
    broken = []
    for page, found in site.items():
        for link in found.links + found.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
            named = not parts.fragment or (target in site and unquote(parts.fragment) in site[target].names)
            if not target.is_file() or not named:
                broken.append(f"{page.name}: {link}")
    assert broken == []


def test_links_to_other_sites_are_of_known_sites(site):
    found = {link for links in site.values() for link in links.links if urlsplit(link).scheme}
    strange = [link for link in found if urlsplit(link).scheme not in ("https", "http") or " " in link]
    assert strange == []
    assert {urlsplit(link).netloc for link in found} <= SITES


def test_pages_load_nothing_from_other_sites(site):
    assert [load for found in site.values() for load in found.loads if urlsplit(load).scheme not in ("", "data")] == []


def test_every_page_is_in_the_navigation(site):
    wanted = {page.relative_to(DOCS).with_suffix(".html").as_posix() for page in pages()}
    start = min((page for page in site if page.name == "index.html"), key=lambda page: len(page.parts))
    linked = {urlsplit(link).path for link in site[start].links}
    assert wanted - linked <= {"index.html"}


def test_every_command_and_recipe_is_on_its_page(site, capsys):
    """Also every option that a command's own help names."""
    text = {page.name: page.read_text(encoding="utf-8") for page in site}
    for words, (_, _, recipe) in cli.COMMANDS.items():
        assert f'id="handcraft-{"-".join(words)}"' in text["commands.html"]
        with pytest.raises(SystemExit):
            cli.main([*words, *(["demo"] if recipe else []), "--help"])
        shown = capsys.readouterr().out
        section = text["commands.html"].split(f'id="handcraft-{"-".join(words)}"')[1].split("<section")[0]
        named = set(re.findall(r"│ (--(?!recipe)[a-z-]+)", shown))
        assert {option for option in named if f">{option}<" not in section} == set(), words
    for name in recipe_names():
        assert f">{name}<" in text["recipes.html"]
    assert ">checkpoint_every<" in text["recipes.html"]
