"""Headless Chromium clicks on the pages of keep-maps and app. Screenshots are left in work_dirs/browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from scenes import ROOT, at

from mmsparse.cli.building import build_model, read_pictures, read_test_set
from mmsparse.cli.viewing import visualizer_of
from mmsparse.configs import read_config
from mmsparse.visualization.looking import look
from mmsparse.visualization.page import document

pytestmark = pytest.mark.browser
APP = ROOT / ".app"
SHOTS = ROOT / "work_dirs/browser"
CHROMIUM = shutil.which("chromium")
DEMO = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
EVIL = "<img src=x onerror=hit()>${hit()}{{hit}}"
LARGE = "<b onclick=hit()>large.png"
SECONDS = 120_000  # of a busy machine, in ms


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or not (APP / ".ready").is_file():
        pytest.skip("Chromium, or Gradio and Playwright in .app, are not there: `make test-browser` installs them")
    sys.path.append(str(APP))
    from playwright.sync_api import Error, sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-dev-shm-usage", *sandbox])
        except Error as error:
            pytest.skip(f"Chromium does not start here: {error.message.splitlines()[0]}")
        yield browser
    sys.path.remove(str(APP))


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport=dict(width=1400, height=1000))
    page.set_default_timeout(SECONDS)
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.add_init_script("window.hits = 0; window.hit = () => { window.hits += 1; return 'was hit' }")
    yield page
    assert page.evaluate("window.hits") == 0 and page.wrong == []
    page.close()


def veils(page) -> list[str]:
    """The keep maps that are seen, by their classes."""
    return [veil.get_attribute("class") for veil in page.locator("img.keep").all() if veil.is_visible()]


def test_keep_maps_can_be_switched_and_enlarged(page, scenes, tmp_path):
    cfg = read_config(DEMO, at(scenes))
    cfg.model.test_cfg.score_thr = 0.0
    torch.manual_seed(0)
    model, pictures = build_model(cfg), read_pictures(cfg, 2)
    classes = (EVIL, *read_test_set(cfg).metainfo["classes"][1:])
    visualizer = visualizer_of(cfg, dict(classes=classes, palette="random"))
    looks = [look(model, visualizer, picture, EVIL, score_thr=0.0) for picture in pictures]
    (tmp_path / "page.html").write_text(document(looks, EVIL))
    page.goto(f"file://{tmp_path}/page.html")
    assert page.locator("h2").all_inner_texts() == [EVIL, EVIL] and page.title() == EVIL
    places = ["all places", *looks[0].places]
    assert [re.sub(r"\s+\d+\s%$", "", tab) for tab in page.locator("nav label").all_inner_texts()] == places
    assert veils(page) == ["keep place-0"] * 2
    seen = set()
    for number, tab in enumerate(page.locator("nav label").all()):
        tab.click()
        assert veils(page) == [f"keep place-{number}"] * 2
        seen.add(page.locator("figure").nth(1).screenshot())
    assert len(seen) == len(places)  # each looks different
    page.locator("nav label").first.click()
    page.screenshot(path=SHOTS / "keep_maps.png")
    page.keyboard.press("ArrowRight")
    assert veils(page) == ["keep place-1"] * 2
    figure = page.locator("figure").nth(1)
    before = figure.bounding_box()["width"]
    figure.locator("label").click()
    assert figure.bounding_box()["width"] > 3 * before
    loaded = page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert loaded
    assert page.asked == [f"file://{tmp_path}/page.html", *(url for url in page.asked if url.startswith("data:"))]


@pytest.fixture
def served(scenes, tmp_path) -> Iterator[str]:
    """The address of ``mmsparse app`` with random weights and three pictures, one of them too large."""
    torch.manual_seed(0)
    torch.save({"state_dict": build_model(read_config(DEMO)).state_dict()}, tmp_path / "weights.pth")
    pictures = [picture["data_samples"].img_path for picture in read_pictures(read_config(DEMO, at(scenes)), 2)]
    Image.new("RGB", (400, 400)).save(tmp_path / LARGE)
    (tmp_path / "heavy.png").write_bytes(bytes(1_100_000))
    (tmp_path / "text.png").write_text("none")
    pictures.append(str(tmp_path / LARGE))
    command = [sys.executable, "-m", "mmsparse", "app", DEMO, str(tmp_path / "weights.pth"), *pictures]
    limits = ["--port", "0", "--max-pixels", "20000", "--max-mb", "1", "--rounds", "1"]
    found = os.pathsep.join([str(ROOT), str(APP)])
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, *limits], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "PYTHONPATH": found, "http_proxy": "http://127.0.0.1:9", "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        try:
            yield next((line.split()[0] for line in process.stdout if line.startswith("http")), None)
            assert "Traceback" not in (tmp_path / "log").read_text()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.stdout.close()


def share(page) -> int:
    return int(re.match(r"(\d+)\s% of the arithmetic", page.locator("h1").inner_text())[1])


def test_the_app_shows_pictures_budgets_and_refusals(page, served, tmp_path):
    assert served, (tmp_path / "log").read_text()[-3000:]
    page.goto(served)
    page.locator(".look table").wait_for()
    names = [page.locator("h2").inner_text()]
    assert veils(page) == ["keep place-0"]
    page.locator("nav label").nth(2).click()
    assert veils(page) == ["keep place-2"]
    assert re.search(r"Routed [\d.]+ ms, dense [\d.]+ ms: .* on this machine", page.locator(".look").inner_text())
    page.screenshot(path=SHOTS / "app.png")
    own = share(page)

    slider = page.locator("input[type=range]")
    slider.focus()
    slider.press("End")
    page.get_by_role("heading", name="100 % of the arithmetic").wait_for()
    page.get_by_role("checkbox", name="the budget of the config", checked=False).wait_for()
    slider.press("Home")
    page.wait_for_function(f"/^\\d+/.exec(document.querySelector('h1').innerText)[0] < {own}")
    page.get_by_label("the budget of the config").check()
    page.get_by_role("heading", name=f"{own} % of the arithmetic").wait_for()

    page.get_by_label("or choose one").click()
    page.get_by_role("option").nth(1).click()
    page.wait_for_function(f"document.querySelector('h2').innerText != '{names[0]}'")
    names.append(page.locator("h2").inner_text())

    Image.new("RGB", (100, 80), "red").save(tmp_path / "own.png")
    page.locator("input[type=file]").set_input_files(tmp_path / "own.png")
    page.get_by_role("heading", name="own.png").wait_for()
    page.get_by_label("or choose one").click()
    page.get_by_role("option").nth(2).click()
    page.get_by_text(f"{LARGE} has more than 0.02 million pixels (--max-pixels)").wait_for()
    page.locator("input[type=file]").wait_for(state="attached")  # the own one is put away
    page.locator("input[type=file]").set_input_files(tmp_path / "text.png")
    page.get_by_text("text.png cannot be read as a picture").wait_for()
    assert page.locator(".look").count() == 0  # nothing of the picture before
    page.get_by_label("Clear").first.click()
    page.locator("input[type=file]").set_input_files(tmp_path / "heavy.png")
    page.get_by_text('exceed the maximum allowed size of 976.6 Kb: "heavy.png"').wait_for()
    page.screenshot(path=SHOTS / "app_refused.png")
    assert {url.split("/")[2] for url in page.asked if url.startswith("http")} == {served.split("/")[2]}
