"""The links that train.py prints open in a browser with one curve a schedule."""

import re
import shutil
import time

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
# On GitHub's runners the driver is that of Chrome.
BROWSER = shutil.which("google-chrome") or shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)
ROWS, CURVES = "runs-data-table tb-data-table-content-row", "line-chart .series-view > svg > path"


@pytest.fixture
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # Without WebGL, TensorBoard draws each curve as a path of SVG, which can be counted.
    for flag in ("headless=new", "no-sandbox", "disable-3d-apis", "window-size=1600,1200"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def test_each_link_shows_one_named_curve_a_schedule(whole, tensorboard, browser):
    def look():
        """Return the names of the runs that are listed, and the number of curves."""
        # By one script, because elements that were found may be replaced before they are asked.
        find = "s => [...document.querySelectorAll(s)].map(e => e.innerText)"
        names, curves = browser.execute_script(f"return [...arguments].map({find})", ROWS, CURVES)
        return [name.strip() for name in names], len(curves)

    links = re.findall(r"http://localhost:6006/(\S+)", (whole / "stdout").read_text())
    for link, run in zip(links, ("seed-0", "mean"), strict=True):
        wanted = [f"{label}/{run}/validation" for label in ("exp", "linear_warmup")], 2
        browser.get("about:blank")
        browser.get(tensorboard + link)
        end = time.monotonic() + 60
        while look() != wanted:
            assert time.monotonic() < end, look()
            time.sleep(0.5)
        # Nor do others come later.
        time.sleep(1)
        assert look() == wanted
