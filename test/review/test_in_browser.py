"""The review page in headless Chromium, by keys alone."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('flask', reason="Flask is not installed: pip install -e '.[review]'")

from semanom_ros.core.progress import SILENT
from semanom_ros.review.cases import Cases
from semanom_ros.review.page import review_page
from semanom_ros.review.serving import bound, server_on
from semanom_ros.review.verdict_files import Opinion, VerdictFolder, standing


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    program = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if program is None:
        pytest.skip('no Chromium is installed (apt install chromium)')
    described = importlib.util.spec_from_file_location('chromium', Path(__file__).with_name('chromium.py'))
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules['chromium'] = module
    described.loader.exec_module(module)
    with module.Chromium(program, tmp_path / 'profile') as one:
        yield one


def test_a_person_judges_by_keys(drive: Any, browser: Any, tmp_path: Path) -> None:
    (tmp_path / 'pictures').mkdir()
    cases = Cases([drive.results], tmp_path / 'pictures', SILENT)
    verdicts = VerdictFolder(tmp_path / 'verdicts', 'anna', 'desk')
    server = server_on(bound('127.0.0.1', 0, ''), review_page(cases, verdicts))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        browser.open(f'http://127.0.0.1:{server.port}/')
        browser.wait('document.querySelector("#drawing .case") && !document.querySelector("#nearest").hidden')
        assert browser.value('document.querySelector("#picture").naturalWidth') == 128
        assert 'score' in browser.value('document.querySelector("#facts").textContent')
        browser.press('a')
        browser.wait('document.querySelector("#asking").open')
        browser.type('red box')
        browser.press('Enter')
        browser.wait('document.querySelector("#history").textContent.includes("anomaly: red box")')
        browser.press('u')
        browser.wait('document.querySelector("#history .gone")')
        browser.press('n')
        browser.wait('document.querySelector("#verdict").textContent === "nominal"')
        frame = cases.cases[0].frame
        browser.press('ArrowDown')
        browser.wait(f'document.querySelector("#where").textContent.includes("frame {frame + 2} of 20")')
        browser.press('m')
        browser.wait('document.querySelector("#drawing .drawn")')
        browser.press('ArrowRight')
        browser.press('ArrowDown', shift=True)
        browser.press('Enter')
        browser.wait('document.querySelector("#asking").open')
        browser.type('dog')
        browser.press('Enter')
        browser.wait('document.querySelector("#drawing .missed")')
        assert not browser.errors
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    counts = standing(verdicts.read())
    assert counts[cases.thing(cases.cases[0])]['anna'].opinion is Opinion.NOMINAL
    (thing, by_author), = [one for one in counts.items() if one[1]['anna'].opinion is Opinion.MISSED]
    assert (by_author['anna'].kind, thing.stamp_ns) == ('dog', cases.sources[0].frames[frame + 1].stamp_ns)
    assert thing.box == (63, 39, 19, 27)  # a fifth of the height in the middle, moved by 8, and 8 taller
