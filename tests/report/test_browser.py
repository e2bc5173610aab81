"""The page in a real browser: it says nothing to the console, asks for nothing, fits a phone and a wide screen, light and dark."""

import pathlib

import pytest

from cvmae.report.gather import gather
from cvmae.report.page import render
from tests.report.browser import look, open_browser, programs, requests
from tests.report.workdirs import EVIL, figures, pretrained, probed, studied, write
from tests.requirements import missing

try:
    import selenium  # noqa: F401
except ImportError:
    missing("browser", "pip install selenium")

LEGIBILITY = pathlib.Path(__file__).with_name("legibility.js").read_text(encoding="utf-8")
LONG = "a_name_without_a_place_to_break_it_" * 4
WIDTHS, LOOKS = (400, 1600), (("light", "screen"), ("dark", "screen"), ("dark", "print"))


def make_page(folder: pathlib.Path) -> pathlib.Path:
    """A page of ten runs and a study, with everything that a page can have and names that were not meant for one."""
    runs = [pretrained(folder / str(number), 1 + number, total=f"{20 + number}_steps") for number in range(8)]
    names = ("accuracy/cross_frame", "gray_accuracy/cross_frame", "knn/accuracy", "effective_rank/video", "cka/video_image")
    write(runs[1] / "report.json", {"task": "pretrain", "metrics": dict.fromkeys(names, 0.75), "baseline": {}, "details": {}})
    odd = probed(folder / EVIL.replace("/", "|"), classes=(EVIL, LONG))
    write(odd / "config.json", {"task": "linear", LONG: LONG, "total": EVIL})
    (odd / "bad_files.csv").write_text(f"path,reason\n{LONG}/{LONG}.mp4,{LONG}\n", encoding="utf-8")
    figures(odd, ("wide.png", EVIL, LONG), ("sheet.gif", "retrieval", EVIL))
    path = folder / "report.html"
    path.write_text(render(gather([*runs, odd, pretrained(folder / LONG), studied(folder / "study", LONG)])), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A browser that shows the page, with everything that is folded away opened."""
    programs()
    path = make_page(tmp_path_factory.mktemp("runs"))
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.get(path.as_uri())
        opened.execute_script("document.querySelectorAll('details').forEach(node => { node.open = true })")
        yield opened


def test_nothing_is_asked_for_and_nothing_goes_wrong(driver):
    asked = [address for address in requests(driver) if not address.startswith("data:")]
    assert asked == [driver.current_url]
    assert driver.get_log("browser") == []
    assert driver.title.endswith("CrossVideoMAE report") and driver.execute_script("return document.scripts.length") == 0
    assert EVIL in driver.find_element("css selector", "#differences").text.replace("\n", "")


def test_every_picture_is_shown(driver):
    sizes = driver.execute_script("return [...document.images].map(image => [image.complete, image.naturalWidth])")
    assert len(sizes) == 13 and all(complete and width > 0 for complete, width in sizes)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out(driver, width):
    look(driver, width, "light")
    assert driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    wider = """return [...document.body.querySelectorAll("*:not(svg *, svg, .scroll, .legend)")]
        .filter(node => node.clientWidth && node.scrollWidth > node.clientWidth + 1).map(node => node.outerHTML.slice(0, 99))"""
    assert driver.execute_script(wider) == []  # what is wider than its box and does not scroll
    smallest = "return Math.min(...[...document.querySelectorAll('.plot')].map(plot => plot.getBoundingClientRect().width))"
    assert 300 <= driver.execute_script(smallest) <= 700  # of 400 units, in which text is 11 high


@pytest.mark.parametrize(("scheme", "media"), LOOKS)
def test_all_of_it_is_legible(driver, scheme, media):
    look(driver, 1600, scheme, media)
    found = driver.execute_script(LEGIBILITY)
    assert len(found["texts"]) > 500 and len(found["lines"]) > 50
    assert [text for text in found["texts"] if text[0] < 4.5] == []
    assert [line for line in found["lines"] if line[0] < 3] == []


def test_dark_is_dark_and_print_is_white(driver):
    def background(*how):
        look(driver, 1600, *how)
        return driver.execute_script("return getComputedStyle(document.body).backgroundColor")

    assert background("light") == "rgb(246, 247, 249)" and background("dark") == "rgb(15, 20, 27)"
    assert background("dark", "print") == "rgb(255, 255, 255)"
    assert driver.execute_script("return getComputedStyle(document.querySelector('.legend')).position") == "static"


def test_pointing_at_a_chart_tells_its_values(driver):
    from selenium.webdriver import ActionChains

    look(driver, 1600, "light")
    strip = driver.find_elements("css selector", ".plot[aria-label^='loss/mse_video'] .strip")[7]
    tip = strip.find_element("css selector", ".tip")
    assert tip.value_of_css_property("visibility") == "hidden"
    ActionChains(driver).move_to_element(strip.find_element("css selector", ".hit")).perform()
    assert tip.value_of_css_property("visibility") == "visible" and "step 8" in tip.get_attribute("textContent")
