"""The page in a real browser: clicks, search, filters, links, keyboard, a phone, print, and no error on the console."""

import shutil
from pathlib import Path

import pytest

from tests.toolkit.report.samples import HOSTILE, hostile, sample
from toolkit.base.text import plain
from toolkit.report.comparison.compare import compare, write_comparison_html
from toolkit.report.explain import explain
from toolkit.report.page import html
from toolkit.report.page.html import MOST_ROWS, write_html
from toolkit.report.page.packing import first_seen, packed_texts, steps

sync = pytest.importorskip("playwright.sync_api", reason="the test extra's playwright is not installed")
# the shell draws pages alike in half the processor time: it has no window around them
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
if BROWSER is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

COUNT = 700
CONV = "/encoder/stage3/block20/conv/Conv"


@pytest.fixture(scope="module")
def browser():
    with sync.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, report in (("large", sample(COUNT)), ("hostile", hostile())):
        write_html(report, folder / f"{name}.html")
    runs = [sample(300), sample(300, seed=4)]
    write_comparison_html(compare(runs, ["first", "second"]), folder / "compared.html", runs)
    return folder


@pytest.fixture
def opened(browser, files):
    """Opens a page; at the end of the test the console must be silent and nothing else loaded."""
    contexts, said = [], []

    def open_page(name="large", hash="", **options):
        context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("file:") else None)
        page.goto((files / f"{name}.html").as_uri() + hash)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said


def box(page, text):
    return page.locator("#canvas .box", has_text=text).first


def says_what_explain_says(page, node):
    """But for capitals: the panel fills sentences with figures."""
    told = zip(page.locator("#panel dt").all_text_contents(), page.locator("#panel dd").all_text_contents())
    known = [(fact.term.lower(), fact.text.lower()) for fact in explain(sample(COUNT), node).facts]
    assert [(term.lower(), words.lower()) for term, words in told] == known


def test_numbers_are_rounded_as_python_rounds_them(browser):
    source = (Path(html.__file__).parent / "assets" / "data.js").read_text(encoding="utf-8")
    start = source.index("const fixed = ")
    code = source[start : source.index("\n};", start) + 3]
    values = [sign * number / 64 for number in range(1, 900) for sign in (1, -1)] + [1.005, 2.675, 0.1, 1e6 + 0.25]
    page = browser.new_page()
    for digits in range(4):
        found = page.evaluate(
            f"([all, digits]) => {{ {code} return all.map((one) => fixed(one, digits)); }}", [values, digits]
        )
        assert found == [f"{one:.{digits}f}" for one in values]
    page.close()


def test_packed_columns_are_read_as_they_were(browser):
    source = (Path(html.__file__).parent / "assets" / "data.js").read_text(encoding="utf-8")
    code = source[source.index("const sums = ") : source.index("const networkOf = ")]
    texts = [
        "a1b20",
        "a2b10",
        "",
        "a2b10",
        "07",
        "7",
        "x1.05",
        "x1.15",
        "1234567890",
        "123456789",
        "٣ 1 \u2028",
        *HOSTILE,
    ]
    numbers = [0, 1, 0, 2, 2, 5, 3, 6]
    page = browser.new_page()
    found = page.evaluate(
        f"([texts, used, risen]) => {{ {code} return [textsOf(texts), seen(used), sums(risen)]; }}",
        [packed_texts(texts), first_seen(numbers), steps(numbers)],
    )
    assert found == [texts, numbers, numbers]
    page.close()


def test_a_group_opens_and_closes_and_a_layer_tells_all_that_is_known(opened):
    page = opened()
    drawn = page.locator("#canvas .box").count()
    box(page, "stage3").click()
    assert page.locator("#canvas .box").count() > drawn
    box(page, "block20").click()
    page.locator(f'#canvas .box:has(title:text-is("{CONV}"))').click()
    panel = page.locator("#panel")
    assert panel.is_visible() and CONV in panel.inner_text()
    for word in (
        "Requested",
        "Runs in",
        "Error",
        "Time",
        "Reads",
        "Feeds",
        "Weights",
        "dB below its inputs",
        "Q/DQ pair as int8",
    ):
        assert word in panel.inner_text(), word
    says_what_explain_says(page, CONV)
    assert panel.locator("svg.spark").count() >= 1
    assert page.evaluate("location.hash") == "#layer=" + CONV.replace("/", "%2F")
    # its neighbour, from the panel
    panel.locator(".ends a").last.click()
    assert "/encoder/stage3/block20/relu/Relu" in page.locator("#panel-title").inner_text()
    page.keyboard.press("Escape")
    assert not panel.is_visible() and page.evaluate("location.hash") == ""
    box(page, "− stage3").click(position={"x": 20, "y": 8})
    assert page.locator("#canvas .box").count() == drawn


def test_a_link_opens_its_layer_and_one_to_a_pair_the_layer_after_it(opened):
    page = opened(hash="#layer=" + CONV)
    chosen = page.locator("#canvas .chosen title")
    assert chosen.text_content() == CONV and CONV in page.locator("#panel-title").inner_text()
    page.evaluate("location.hash = '#layer=/encoder/stage1/block8/quantizelinear/QuantizeLinear'")
    page.wait_for_function("document.querySelector('#panel-title').textContent.includes('block8')")
    assert chosen.text_content() == "/encoder/stage1/block8/conv/Conv"
    page.evaluate("location.hash = '#layer=100%'")
    assert "block8" in page.locator("#panel-title").inner_text()


def test_search_finds_by_words_and_enter_goes_there(opened):
    page = opened()
    page.fill("#find", "block33 matmul")
    assert page.locator("#finds li").count() == 1
    page.press("#find", "Enter")
    assert page.locator("#canvas .chosen title").text_content() == "/encoder/stage5/block33/matmul/MatMul"
    page.fill("#find", "nothing of this name")
    assert "No layer" in page.locator("#finds").inner_text()


def test_colours_follow_the_control(opened):
    page = opened()
    assert page.locator("#canvas .heat").count() == 0
    for value, unit in (("level", "dB"), ("time", "ms"), ("macs", "%")):
        page.select_option("#colour", value)
        assert page.locator("#canvas .heat").count() > 3
        assert unit in page.locator("#canvas .right").first.text_content()
    page.select_option("#grouping", "kernels")
    assert page.locator("#canvas .box").count() > 1


def test_the_keyboard_walks_and_opens(opened):
    page = opened()
    page.focus("#canvas .box[tabindex='0']")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    name = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "group stage" in name
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"


def test_the_table_holds_every_node_filters_and_sorts(opened):
    page = opened()
    rows = page.locator("#layers tbody tr[data-row]")
    page.uncheck("#computing")
    assert page.locator("#shown").text_content() == f"{COUNT} of {COUNT} nodes"
    assert rows.count() < MOST_ROWS and page.get_attribute("#layers", "aria-rowcount") == str(COUNT + 1)
    page.locator(".scroll:has(> #layers)").evaluate("one => { one.scrollTop = one.scrollHeight; }")
    page.wait_for_selector(f'#layers tr[data-row="{COUNT - 1}"]')
    page.fill("#text", "block33 conv/")
    assert rows.count() == 1 and page.locator("#shown").text_content().startswith("1 of")
    rows.first.click()
    assert "/block33/conv/Conv" in page.locator("#panel-title").inner_text()
    # nodes whose sentences differ in the reason alone share them, each with its own
    for block in (3, 33):
        node = f"/encoder/stage{block // 6}/block{block}/quantizelinear/QuantizeLinear"
        page.fill("#text", f"{node} ")
        rows.first.click()
        says_what_explain_says(page, node)
        assert f"folded into {node}" in page.locator("#panel").inner_text()
    page.click("#clear")
    page.click('#layers th[data-key="sqnr"] button')
    shown = [float(text) for text in page.locator("#layers td.n:nth-child(7)").all_text_contents()[:20]]
    assert shown == sorted(shown)
    page.click('.heat button[data-asked="int8"][data-actual="fp16"]')
    assert rows.count() == page.locator("#layers .status-overridden").count() > 0


def test_a_long_name_ends_in_its_column_with_dots(opened):
    page = opened()
    page.uncheck("#computing")
    name = page.locator("#layers .open", has_text="/dequantizelinear/DequantizeLinear").first
    ends = name.evaluate("one => [one.getBoundingClientRect().right, one.closest('td').getBoundingClientRect().right]")
    assert ends[0] <= ends[1] and name.evaluate("one => one.scrollWidth > one.clientWidth")
    assert name.evaluate("one => getComputedStyle(one).textOverflow") == "ellipsis"


def test_rules_of_what_was_left_alone_filter_its_table(opened):
    page = opened()
    page.locator('[data-rule="excluded"]').click()
    rules = set(page.locator("#declined td:nth-child(3)").all_text_contents())
    assert rules == {"excluded"}


def test_names_that_try_to_break_out_are_shown_as_text(opened):
    page = opened("hostile")
    page.locator("#layers button.open").first.click()
    assert plain(HOSTILE[0]) in page.locator("#panel-title").inner_text()
    assert page.evaluate("document.images.length") == 0


def test_on_a_phone_nothing_is_wider_than_the_screen(opened):
    page = opened(viewport={"width": 390, "height": 840}, hash="#layer=" + CONV)
    assert page.evaluate("document.scrollingElement.scrollWidth") == 390
    chosen, panel = page.locator("#canvas .chosen").bounding_box(), page.locator("#panel").bounding_box()
    assert chosen["y"] + chosen["height"] < panel["y"] and chosen["y"] > 0


def test_without_javascript_and_in_print_there_is_a_table_to_read(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#layers tbody tr").count() == MOST_ROWS
    assert f"first {MOST_ROWS} of {COUNT}" in page.locator("main").inner_text()
    assert not page.locator("#canvas").is_visible() and not page.locator("#tools").is_visible()
    page = opened()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#layers tbody tr").count() == MOST_ROWS and page.locator(".cut").first.is_visible()
    assert page.locator("#canvas svg").is_visible() and not page.locator("#tools").is_visible()


def test_a_comparison_draws_the_second_run_against_the_first(opened):
    page = opened("compared", "#layer=/encoder/stage1/block9/conv/Conv")
    assert "In first" in page.locator("#panel").inner_text()
    # no more boxes are drawn than there are
    drawn, _, there, *_ = page.locator("#drawn").inner_text().split()
    assert 0 < int(drawn) <= int(there) and page.locator("#canvas .box").count() == int(drawn)
    assert page.locator("#canvas .differs").count() > 0
    page.select_option("#colour", "lost")
    assert page.locator("#canvas .heat").count() > 3 and "dB" in page.locator("#canvas .right").first.text_content()
    page.keyboard.press("Escape")
    assert not page.locator("#panel").is_visible()
