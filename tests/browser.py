"""Chromium without a window, driven by its DevTools protocol: what a user of a web page sees, as text and as pictures.

async with opened_browser() as page:
    await page.open(url)
    text = await page.text_with("what must be there")
    await page.screenshot("name")       into the folder of DISTSEG_SCREENSHOTS, if there is one
"""

import asyncio
import base64
import contextlib
import importlib.resources
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.conftest import lacking
from tests.programs import PATIENCE_S, kill_tree

SIZE = (1440, 1200)  # px
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # refuses root otherwise; the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",  # 64 MB in many containers
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-features=IsolateSandboxedIframes",  # MLflow shows artifacts in such frames, whose text is wanted too
    f"--window-size={SIZE[0]},{SIZE[1]}",
    "--remote-debugging-port=0",
)


class Page:
    """A tab. Its calls wait for what they are about, and fail with what is there instead."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json(timeout=PATIENCE_S)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    async def remember(self, name: str, value: str) -> None:
        """Pages opened from now on find this in their storage, as if they had put it there on an earlier visit."""
        await self.run_first(f"try {{ localStorage.setItem({json.dumps(name)}, {json.dumps(value)}) }} catch {{}}")

    async def run_first(self, script: str) -> None:
        """On pages opened from now on, before their own scripts."""
        await self._call("Page.enable")
        await self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def log_in(self, user: str, password: str) -> None:
        """Pages opened from now on are asked for as this user, as if he had filled in the browser's form."""
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        await self._call("Network.enable")
        await self._call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {basic}"})

    async def open(self, url: str) -> None:
        answer = await self._call("Page.navigate", url=url)
        assert not answer.get("errorText"), f"{url}: {answer['errorText']}"

    async def text(self) -> str:
        """What is to be read, in the page and in the frames in it; what scripts draw later is not there yet."""
        tree = (await self._call("Page.getFrameTree"))["frameTree"]
        return "\n".join([await self._text_of(frame) for frame in _frames(tree)])

    async def _text_of(self, frame_id: str) -> str:
        try:
            world = await self._call("Page.createIsolatedWorld", frameId=frame_id)
            answer = await self._call(
                "Runtime.evaluate",
                expression="document.body ? document.body.innerText : ''",
                contextId=world["executionContextId"],
            )
        except AssertionError:  # the frame was replaced meanwhile
            return ""
        return str(answer["result"].get("value", ""))

    async def text_with(self, *wanted: str) -> str:
        """The text, as soon as all of `wanted` is in it."""
        end_s = time.monotonic() + PATIENCE_S
        while missing := [words for words in wanted if words not in (text := await self.text())]:
            assert time.monotonic() < end_s, f"the page has no {missing}:\n{text}"
            await asyncio.sleep(0.25)
        return text

    async def has_picture(self, name: str) -> None:
        """Waits until a picture with `name` in its address has been loaded and drawn."""
        drawn = f"[...document.images].some(i => i.src.includes({json.dumps(name)}) && i.naturalWidth > 0)"
        end_s = time.monotonic() + PATIENCE_S
        while not (await self._call("Runtime.evaluate", expression=drawn))["result"]["value"]:
            assert time.monotonic() < end_s, f"the page shows no picture {name}:\n{await self.text()}"
            await asyncio.sleep(0.25)

    async def click(self, words: str) -> None:
        """The button of exactly these words, which must be there."""
        found = f"[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {json.dumps(words)})"
        answer = await self._call("Runtime.evaluate", expression=f"(b => b ? (b.click(), true) : false)({found})")
        assert answer["result"]["value"], f"the page has no button {words!r}"

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = await self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until the expression is true."""
        end_s = time.monotonic() + PATIENCE_S
        while not await self.evaluate(expression):
            assert time.monotonic() < end_s, f"never true: {expression}\n{await self.text()}"
            await asyncio.sleep(0.1)

    async def press(self, key: str) -> None:
        """A key of the keyboard, on what has the focus."""
        code = {"Tab": 9, "ArrowRight": 39}.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            await self._call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    async def resize(self, width_px: int, *, dark: bool = False) -> None:
        size = {"width": width_px, "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
        await self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", features=[scheme])

    async def without_scripts(self, is_off: bool) -> None:
        await self._call("Emulation.setScriptExecutionDisabled", value=is_off)

    async def axe_violations(self) -> list[str]:
        """What axe-core has against the page, for people who cannot see or use a mouse."""
        await self.evaluate(_axe())
        found = "v => `${v.id}: ${v.help}: ${v.nodes[0].html}`"
        return list(await self.evaluate(f"axe.run().then(r => r.violations.map({found}))"))

    async def screenshot(self, name: str, height_px: int = SIZE[1]) -> None:
        """`name`.png in the folder that DISTSEG_SCREENSHOTS names; nothing if it names none."""
        folder = os.environ.get("DISTSEG_SCREENSHOTS")
        if not folder:
            return
        size = {"width": SIZE[0], "height": height_px, "deviceScaleFactor": 1, "mobile": False}
        await self._call("Emulation.setDeviceMetricsOverride", **size)
        await asyncio.sleep(1)  # pictures load and charts are drawn after the text
        await self.save_picture(Path(folder, f"{name}.png"))

    async def save_picture(self, file: Path, *, is_whole: bool = False) -> None:
        """Of what the window shows, or of the whole page."""
        picture = await self._call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(picture["data"]))


def _axe() -> str:
    if importlib.util.find_spec("axe_core_python") is None:
        lacking("axe-core-python")
    return (importlib.resources.files("axe_core_python") / "axe.min.js").read_text() + "; true"


def _frames(tree: dict[str, Any]) -> Iterator[str]:
    yield tree["frame"]["id"]
    for child in tree.get("childFrames", ()):
        yield from _frames(child)


@contextlib.asynccontextmanager
async def opened_browser() -> AsyncIterator[Page]:
    """A page of a browser of its own; nothing of it outlives the block."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        lacking("chromium (a web browser)")
    profile = Path(tempfile.mkdtemp(prefix="ds-browser-"))
    with (profile / "log").open("wb") as output:
        process = subprocess.Popen(
            [str(program), *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    try:
        async with aiohttp.ClientSession() as session:
            address = await _debugger(process, profile)
            async with session.get(f"http://{address}/json/list") as answer:
                (tab,) = [target for target in await answer.json() if target["type"] == "page"]
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        kill_tree(process.pid)
        process.wait(PATIENCE_S)
        shutil.rmtree(profile, ignore_errors=True)


async def _debugger(process: "subprocess.Popen[bytes]", profile: Path) -> str:
    """host:port at which the browser takes commands: it writes the port into its profile once it does."""
    port_file = profile / "DevToolsActivePort"
    end_s = time.monotonic() + PATIENCE_S
    while not (port_file.exists() and port_file.read_text().count("\n")):
        assert process.poll() is None and time.monotonic() < end_s, (profile / "log").read_text()[-2000:]
        await asyncio.sleep(0.1)
    return f"127.0.0.1:{port_file.read_text().splitlines()[0]}"
