"""A run on the real MLflow server, as a browser shows it: the nine conditions are on its page and in its report."""

import asyncio
import re
from pathlib import Path

import pytest

from distseg.data.datasets import town
from tests import programs
from tests.browser import opened_browser
from tests.small_town import arguments, pack_town

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def trained(mlflow_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> programs.Ended:
    """A training of four steps, which ended well."""
    folder = tmp_path_factory.mktemp("seen")
    pack_town(folder)
    fields = arguments(**{"name": "seen", "optim.max_steps": 4})
    ended = programs.run(folder, programs.alone() | mlflow_server, "distseg.train", *fields)
    assert ended.code == 0, ended.err
    return ended


def test_the_pages_of_a_run_name_the_nine_conditions(trained: programs.Ended) -> None:
    run_name = Path(trained.printed("run")).name
    run_page, _, mode = trained.printed("open it").partition("?")

    async def look() -> None:
        async with opened_browser() as page:
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
            await page.text_with(run_name, "Worst condition", *town.CONDITIONS)
            await page.screenshot("report")
            await page.open(f"{run_page.rpartition('/')[0]}?{mode}")
            await page.text_with("matching run", run_name)
            await page.screenshot("runs")

    asyncio.run(look())
