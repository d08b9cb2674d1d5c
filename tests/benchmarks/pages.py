"""How heavy pages are, and how soon a browser shows them.

    python -m tests.benchmarks.pages FILE.html … [--pictures FOLDER]

Of each page one JSON line: the MB of its file, and of what a server sends that compresses it; the milliseconds from
opening it to the first contentful paint, and until its viewer shows an image. Medians of LAPS, the pages in turn, read
from files by Chromium without a window. `--pictures` saves each whole page at 1440 and 400 px, light and dark.
"""

import argparse
import asyncio
import gzip
import json
import statistics
from pathlib import Path

from tests.browser import Page, opened_browser

LAPS = 5
VIEWS = ((1440, False), (1440, True), (400, False), (400, True))  # width in px, dark
LOOKED = "document.querySelector('#viewer')?.dataset.shown !== undefined"
NOTE_WHEN = f"""
new MutationObserver(() => {{ if (!window.looked && {LOOKED}) window.looked = performance.now(); }})
  .observe(document, {{subtree: true, childList: true, attributes: true}});
"""
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"


async def lap(page: Page, file: Path) -> tuple[float, float]:
    """Milliseconds to the first paint, and to the viewer's first image."""
    await page.open("about:blank")
    await page.open(file.as_uri())
    await page.until(f"window.looked > 0 && ({PAINTED}) > 0")
    return float(await page.evaluate(PAINTED)), float(await page.evaluate("window.looked"))


async def measured(files: list[Path], pictures: Path | None) -> None:
    async with opened_browser() as page:
        await page.run_first(NOTE_WHEN)
        laps = [[await lap(page, file) for file in files] for _ in range(LAPS)]
        for number, file in enumerate(files):
            data = file.read_bytes()
            painted, looked = (statistics.median(times) for times in zip(*(each[number] for each in laps), strict=True))
            size = {"MB": len(data) / 1e6, "compressed_MB": len(gzip.compress(data)) / 1e6}
            times = {"first_paint_ms": round(painted), "viewer_ms": round(looked)}
            print(json.dumps({"page": file.name, **{k: round(v, 2) for k, v in size.items()}, **times}), flush=True)
        for file in files if pictures else ():
            for width_px, dark in VIEWS:
                await page.resize(width_px, dark=dark)
                await lap(page, file)
                name = f"{file.stem}-{width_px}-{'dark' if dark else 'light'}.png"
                await page.save_picture((pictures or Path()) / name, is_whole=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    asyncio.run(measured([file.resolve() for file in options.files], options.pictures))
