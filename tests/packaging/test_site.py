"""The site is built without a warning; no page is wider than a phone, and every picture says what it shows."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.docs, pytest.mark.xdist_group("site")]
# pages in frames as wide as a phone, and what they would need
FRAMES = """<body><script>
const pages = %s, found = {};
function show(i) {
  if (i == pages.length) { document.body.textContent = JSON.stringify(found); return; }
  const frame = document.createElement("iframe");
  frame.style = "width: 420px; height: 900px";
  frame.onload = () => {
    found[pages[i]] = frame.contentDocument.documentElement.scrollWidth;
    frame.remove();
    show(i + 1);
  };
  frame.src = pages[i];
  document.body.append(frame);
}
show(0);
</script></body>"""
PHONE = 420


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: the gallery writes beside its sources."""
    place = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__", "gallery", "_build", ".git", "_native*")
    for name in ("docs", "examples", "benchmarks", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, place / name)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "docs", "out"], cwd=place, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return place / "out"


def pages(site: Path) -> list[str]:
    found = (path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    return sorted(name for name in found if not name.startswith(("_", "genindex", "search")))


class Images(HTMLParser):
    """The images of a page that say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img" and len(found.get("alt") or "") < 10 and found.get("aria-hidden") is None:
            self.silent.append(str(found.get("src")))


def test_every_picture_says_what_it_shows(site: Path) -> None:
    assert len(pages(site)) > 50
    for name in pages(site):
        images = Images()
        images.feed((site / name).read_text())
        assert not images.silent, name


def test_pages_ask_no_other_server(site: Path) -> None:
    for name in pages(site):
        loaded = re.findall(
            r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]+)"',
            (site / name).read_text(),
        )
        assert not loaded, name


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_no_page_scrolls_sideways_on_a_phone(site: Path) -> None:
    (site / "frames.html").write_text(FRAMES % json.dumps(pages(site)))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files")
    command = ["chromium", *options, "--disable-web-security", "--virtual-time-budget=120000"]
    done = subprocess.run(
        [*command, "--dump-dom", (site / "frames.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    widths = json.loads(re.search(r"\{.*\}", done.stdout)[0])  # type: ignore[index]
    assert set(widths) == {*pages(site)} - {"frames.html"}
    wide = {name: width for name, width in widths.items() if width > PHONE}
    assert not wide
