"""A run as a browser shows it: on the real MLflow server, and on its own pages, whose viewer is used there."""

import asyncio
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from distseg.data.datasets import town
from distseg.review import comparison_page, run_page
from distseg.runs import read_review
from tests import programs
from tests.browser import Page, opened_browser
from tests.canaries import PLANTED, files, found, secrets_of
from tests.small_town import arguments, pack_town

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]

NUM_SHOWN = 2 * len(town.CONDITIONS)  # each condition has two images: both are always shown, and both are the worst


@pytest.fixture(scope="module")
def trained(mlflow_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> programs.Ended:
    """A training of four steps, which ended well."""
    folder = tmp_path_factory.mktemp("seen")
    pack_town(folder)
    fields = arguments(**{"name": "seen", "optim.max_steps": 4})
    ended = programs.run(folder, programs.alone() | PLANTED | mlflow_server, "distseg.train", *fields)
    assert ended.code == 0, ended.err
    return ended


def test_nothing_of_a_run_shows_what_it_was_given_to_reach_its_servers(
    trained: programs.Ended, mlflow_server: dict[str, str], tracking_uri: str, tmp_path: Path
) -> None:
    run_folder, client = Path(trained.printed("run")), mlflow.MlflowClient(tracking_uri)
    run = client.get_run(trained.printed("MLflow run"))
    mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=str(tmp_path), tracking_uri=tracking_uri)
    assert len(list(files(tmp_path))) > 10 and "config.json" in {path.name for path in files(run_folder)}
    models = [model.to_dictionary() for model in client.search_logged_models([run.info.experiment_id])]
    shown = {"of_the_run": json.dumps(run.to_dictionary()), "of_its_models": json.dumps(models, default=repr)}
    server = (Path(mlflow_server["MLFLOW_STATE"]) / "server.log").read_text()
    secrets = {*secrets_of(PLANTED), *secrets_of(mlflow_server)}
    assert found(secrets, run_folder, tmp_path, **shown, server=server, out=trained.out, err=trained.err) == []


def test_the_pages_of_a_run_name_the_nine_conditions(trained: programs.Ended, mlflow_server: dict[str, str]) -> None:
    run_name = Path(trained.printed("run")).name
    run_page, _, mode = trained.printed("open it").partition("?")

    async def look() -> None:
        async with opened_browser() as page:
            await page.log_in(mlflow_server["MLFLOW_TRACKING_USERNAME"], mlflow_server["MLFLOW_TRACKING_PASSWORD"])
            await page.remember("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true")  # it takes a third of the page
            await page.open(trained.printed("open it"))
            text = await page.text_with(run_name, "Description", "Show more", "Metrics (")
            assert text.index("Description") < text.index("Metrics ("), "this is not the page of a training"
            await page.click("Show more")
            text = await page.text_with("Show less")
            for condition in town.CONDITIONS:
                assert re.search(rf"^{condition}\s+2\s+0\.\d{{3}}\b", text.partition("Metrics (")[0], re.M), text
            await page.has_picture("condition_miou")
            await page.screenshot("run")
            await page.open(f"{run_page}/artifacts/report/index.html?{mode}")
            await page.text_with(run_name, "Worst condition", *town.CONDITIONS, f"{NUM_SHOWN} of {NUM_SHOWN} images")
            await page.screenshot("report")
            await page.open(f"{run_page.rpartition('/')[0]}?{mode}")
            await page.text_with("matching run", run_name)
            await page.screenshot("runs")

    asyncio.run(look())


def test_the_viewer_of_a_run_and_of_two_runs(trained: programs.Ended, tmp_path: Path) -> None:
    """From files, without a network: classes, layers, order, hovering, keys, swiping, and no script at all."""
    found = sorted(Path(trained.printed("run")).glob("checkpoint_0*"))
    reviews = [replace(read_review(str(each)), name=each.name) for each in (found[0], found[-1])]
    (tmp_path / "run.html").write_text(run_page(reviews[-1]))
    (tmp_path / "one_site.html").write_text(run_page(reviews[-1]).replace("highway", "new-york"))
    (tmp_path / "compared.html").write_text(comparison_page(reviews))

    async def look() -> None:
        async with opened_browser() as page:
            await opened(page, tmp_path / "run.html")
            await looks_into_a_run(page)
            assert await page.axe_violations() == []
            await opened(page, tmp_path / "one_site.html")
            assert await page.evaluate("document.querySelector('[data-filter=site]')") is None
            assert len(await page.evaluate(LISTED)) == NUM_SHOWN
            await opened(page, tmp_path / "compared.html")
            await swipes(page)
            for width_px in (1440, 400):
                await page.resize(width_px, dark=width_px == 400)
                assert await page.axe_violations() == []
                assert await page.evaluate("document.documentElement.scrollWidth") == width_px
            await page.without_scripts(True)
            await page.open((tmp_path / "run.html").as_uri())
            text = await page.text_with("Images of each condition", "confidence, white is sure")
            assert text.count("prediction") >= NUM_SHOWN and "Sort by" not in text

    asyncio.run(look())


def test_the_gallery_that_predict_writes(trained: programs.Ended, tmp_path: Path) -> None:
    """It has no truth: what needs one is not there, and what is there works."""
    data = Path(trained.printed("run")).parents[2] / "town"
    images = tmp_path / "images"
    for shard in sorted(data.glob("val/*-highway-*.tar")):
        with tarfile.open(shard) as tar:
            photographs = [each for each in tar if re.fullmatch(r"[^.]+\.(jpg|png)", each.name)]
            tar.extractall(images / shard.name.partition("-highway")[0], photographs, filter="data")
    options = ("--checkpoint", trained.printed("run"), "--images", str(images), "--out", "predicted")
    ended = programs.run(tmp_path, programs.plain_environment(), "distseg.predict", *options)
    assert ended.code == 0, ended.err

    async def look() -> None:
        async with opened_browser() as page:
            await opened(page, tmp_path / "predicted/index.html")
            text = await page.text_with("Mean confidence", "What to label next", "share of this image")
            assert "IoU" not in text and "errors" not in text
            assert await page.evaluate("document.querySelector('[name=layer][value=truth]')") is None
            assert len(await page.evaluate(LISTED)) == len(town.CONDITIONS)
            seen = await page.evaluate(PIXELS)
            await page.evaluate("document.querySelector('[name=layer][value=confidence]').click()")
            assert await page.evaluate(PIXELS) != seen
            await page.evaluate("document.querySelector('[data-classes=none]').click()")
            await choose(page, "sort", "confidence")
            sure = [float(text.split()[-1]) for text in await page.evaluate(LISTED)]
            assert sure == sorted(sure) and len(sure) == len(town.CONDITIONS)
            await choose(page, "condition", "night")
            await page.until(f"{LISTED}.length === 1 && {LISTED}[0].startsWith('night ')")
            await page.evaluate(
                f"{CANVAS}.dispatchEvent(new PointerEvent('pointermove', {{clientX: 400, clientY: 500}}))"
            )
            assert re.fullmatch(r"prediction: .+, confidence [01]\.\d\d", await page.evaluate(READOUT))
            for width_px in (1440, 400):
                await page.resize(width_px, dark=width_px == 400)
                assert await page.axe_violations() == []
                assert await page.evaluate("document.documentElement.scrollWidth") == width_px

    asyncio.run(look())


async def opened(page: Page, file: Path) -> None:
    await page.open(file.as_uri())
    await page.until("document.querySelector('#viewer')?.dataset.shown !== undefined")


async def looks_into_a_run(page: Page) -> None:
    seen = await page.evaluate(PIXELS)
    await page.evaluate("document.querySelectorAll('.classes button').forEach(b => b.click())")
    assert await page.evaluate(PIXELS) != seen, "the classes are switched off"
    await page.evaluate("document.querySelector('[data-classes=all]').click()")
    assert await page.evaluate(PIXELS) == seen
    await page.evaluate("document.querySelector('[name=layer][value=errors]').click()")
    assert await page.evaluate(PIXELS) != seen
    await choose(page, "sort", "iou")
    ious = [float(text.split()[-1]) for text in await page.evaluate(LISTED)]
    assert len(ious) == NUM_SHOWN and ious == sorted(ious)
    await choose(page, "condition", "night")
    await page.until(f"{LISTED}.length > 0 && {LISTED}.every(text => text.startsWith('night '))")
    await page.evaluate(f"{CANVAS}.dispatchEvent(new PointerEvent('pointermove', {{clientX: 400, clientY: 400}}))")
    told = re.compile(r"truth: .+ · prediction: .+, confidence [01]\.\d\d")
    before = await page.evaluate(READOUT)
    assert told.fullmatch(before), before
    await page.evaluate("document.querySelector('[data-see=opacity]').focus()")
    for _ in range(30):  # with the keyboard alone
        if await page.evaluate(f"document.activeElement === {CANVAS}"):
            break
        await page.press("Tab")
    await page.press("n")
    await page.until(f"{READOUT}.startsWith('Point at')")  # another image was chosen
    await page.press("ArrowRight")
    assert told.fullmatch(await page.evaluate(READOUT))


async def swipes(page: Page) -> None:
    pictures = []
    for share in (0, 1):
        slider = "document.querySelector('[data-see=swipe]')"
        await page.evaluate(f"(s => {{ s.value = {share}; s.dispatchEvent(new Event('input')) }})({slider})")
        pictures.append(await page.evaluate(PIXELS))
    assert pictures[0] != pictures[1], "both runs predict the same"
    listed = await page.evaluate(LISTED)
    await choose(page, "sort", "differ")
    await page.until(f"{LISTED}.join() !== {json.dumps(','.join(listed))}")
    assert sorted(await page.evaluate(LISTED)) == sorted(listed)


CANVAS = "document.querySelector('#viewer canvas')"
PIXELS = f"{CANVAS}.toDataURL()"
READOUT = "document.querySelector('.readout').textContent"
LISTED = "[...document.querySelectorAll('.strip button')].map(b => b.textContent)"


async def choose(page: Page, name: str, value: str) -> None:
    select = f"document.querySelector('[data-filter={name}]')"
    await page.evaluate(f"(s => {{ s.value = '{value}'; s.dispatchEvent(new Event('input')) }})({select})")
