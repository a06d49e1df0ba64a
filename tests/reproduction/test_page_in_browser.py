"""The page in a headless Chromium: it needs chromium and chromedriver, and is skipped where either is missing."""

import json
import shutil

import pytest
from checkout import Checkout, as_of_today

from jellyplus.reproduction import page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[test]")

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no browser here: apt-get install chromium chromium-driver"
)
DESKTOP, TABLET, PHONE = (1280, 900), (900, 1200), (390, 844)


@pytest.fixture(scope="module")
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def shown(chromium, tmp_path, make_evidence, monkeypatch):
    """The browser with the page open."""
    as_of_today(monkeypatch)
    checkout = Checkout(tmp_path, make_evidence)
    checkout.draw("small", "table2_imloss")
    checkout.draw("embedded", "figure3_dspike")
    made = page.collect(checkout.reproductions, [checkout.results])
    (tmp_path / "index.html").write_bytes(page.render(made, tmp_path)["index.html"])
    resize(chromium, DESKTOP)
    for log in ("browser", "performance"):
        chromium.get_log(log)  # what came before is not this page's
    chromium.get((tmp_path / "index.html").as_uri())
    return chromium


def resize(chromium, size):
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def find(shown, selector):
    return shown.find_elements("css selector", selector)


def methods(shown, table="table2_imloss"):
    """The methods of the rows that are to be seen, in their order."""
    cells = find(shown, f"#{table} td.method")
    return [cell.text.split("\n")[0][:5].strip() for cell in cells if cell.is_displayed()]


def choose(shown, name, value):
    (option,) = [o for o in find(shown, f"select[name={name}] option") if o.text == value]
    option.click()


def test_it_renders_without_errors_or_requests(shown):
    assert shown.title == "jellyplus: what 2 papers print, beside what we measured"
    assert methods(shown) == ["Their", "Bare", "Full", "Never", "50% &"]
    assert shown.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert shown.current_url in asked
    assert all(url.startswith("data:") for url in asked if url != shown.current_url)


def test_columns_sort_as_numbers_with_the_empty_ones_last(shown):
    def press(label):
        (button,) = [b for b in find(shown, "#table2_imloss th button") if b.text == label]
        button.send_keys("\n")  # by the keyboard
        return methods(shown), button.find_element("xpath", "..").get_attribute("aria-sort")

    # 91.5, 88, 90, 92, 128: as text, 128 would be first
    assert press("Paper") == (["Bare", "Full", "Their", "Never", "50% &"], "ascending")
    assert press("Paper") == (["50% &", "Never", "Their", "Full", "Bare"], "descending")
    assert press("Paper") == (["Their", "Bare", "Full", "Never", "50% &"], None)
    # ours: 90, 128, and none for three, one of them a stand-in's
    assert press("Ours")[0] == ["Full", "50% &", "Their", "Bare", "Never"]
    assert press("Ours")[0] == ["50% &", "Full", "Their", "Bare", "Never"]
    assert press("Method")[0] == ["50% &", "Bare", "Full", "Never", "Their"]


def test_search_and_filters_hide_rows_and_what_is_empty_then(shown):
    (search,) = find(shown, "input[name=search]")
    search.send_keys("cifarnet FULL")
    assert methods(shown) == ["Full"]
    assert not find(shown, "#table10_imloss")[0].is_displayed()
    assert not find(shown, "#dspike")[0].is_displayed()
    assert find(shown, "output")[0].text == "1 of 7 shown"
    search.send_keys(" nonsense")
    assert find(shown, "#nothing")[0].is_displayed()
    find(shown, "#nothing button")[0].click()
    assert len(methods(shown)) == 5
    for name, value, expected in [
        ("status", "stand-in", ["Bare"]),
        ("kind", "own", ["Full", "Never", "50% &"]),
        ("scale", "embedded", ["Bare"]),
        ("scale", "computed", ["50% &"]),
        ("paper", "Dspike", []),
    ]:
        choose(shown, name, value)
        assert methods(shown) == expected, (name, value)
        find(shown, "form button[type=reset]")[0].click()
    choose(shown, "status", "stand-in")  # a figure has several
    assert find(shown, "#figure3_dspike")[0].is_displayed()
    choose(shown, "status", "reported")
    assert not find(shown, "#figure3_dspike")[0].is_displayed()
    assert shown.get_log("browser") == []


def test_numbers_on_stand_ins_show_when_they_are_switched_on(shown):
    def seen(selector):
        return [element.is_displayed() for element in find(shown, selector)]

    assert not any(seen("#table2_imloss .of-stand-in, #figure3_dspike img"))
    assert seen("#figure3_dspike .no-stand-in") == [True]
    find(shown, "#stand-ins")[0].click()
    assert seen("#table2_imloss td .of-stand-in")[0]
    assert seen("#figure3_dspike img") == [True]
    assert seen("#figure3_dspike .no-stand-in") == [False]


def test_details_open(shown):
    (details,) = [d for d in find(shown, "#table2_imloss .how details") if "row bare" in d.get_attribute("textContent")]
    (content,) = details.find_elements("css selector", "dl")
    assert not content.is_displayed()
    details.find_element("css selector", "summary").send_keys("\n")
    assert content.is_displayed()
    assert "stand-in data" not in content.text
    switch = find(shown, "#stand-ins")[0]
    switch.click()
    assert "stand-in data" in content.text
    picture = find(shown, "#table2_imloss .picture")[0]
    picture.find_element("css selector", "summary").click()
    assert shown.execute_script("return arguments[0].querySelector('img').naturalWidth", picture) == 1
    switch.click()


def test_on_a_phone_nothing_sticks_out(shown):
    for details in find(shown, "details"):
        shown.execute_script("arguments[0].open = true", details)
    for size in (DESKTOP, TABLET, PHONE):
        resize(shown, size)
        assert shown.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert not any(
        shown.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", table)
        for table in find(shown, ".wide")
    )
    assert methods(shown) == ["Their", "Bare", "Full", "Never", "50% &"]
    (label,) = {
        shown.execute_script("return getComputedStyle(arguments[0], '::before').content", cell)
        for cell in find(shown, "#table2_imloss tbody:not(.reported) td[data-label=Ours]")
    }
    assert label == '"Ours"'


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_told_from_its_ground(shown, scheme):
    """Every status and the small print have the contrast of 4.5 that WCAG 2 asks for."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    shown.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for selector in [".note", "p.faint", "a", *{f".status.{name}" for name in page.STATUSES}]:
        (element, *_) = [e for e in find(shown, selector) if e.is_displayed()] or [None]
        if element:
            ink, ground = shown.execute_script(
                "return [getComputedStyle(arguments[0]).color, getComputedStyle(document.body).backgroundColor]",
                element,
            )
            lighter, darker = sorted((luminance(ink), luminance(ground)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, selector


def luminance(color):
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
