"""The page of a real server in a real browser: Debian's chromium, driven by Playwright."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import flagai
from tests.serve.processes import ServerProcess

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
POEM = "江水东流千万里，星河北斗一千家。玉箫吹彻秋风夜，明月飞升仙桂花。"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no browser: apt-get install chromium")  # not in tests/skips.py: .ci/run installs it
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page of the server in Chinese, at a width; it writes no errors, and asks nobody but the server."""
    width = getattr(request, "param", 1200)
    opened = browser.new_page(viewport={"width": width, "height": 800}, locale="zh-CN", reduced_motion="reduce")
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(server.address) else None)
    opened.goto(server.address)
    opened.wait_for_selector("[role=tab]")
    yield opened
    opened.close()
    assert [entry for entry in wrong if not entry.startswith(("data:", "Failed to load resource"))] == []


def answered(page: Any, task: str, **fields: str) -> str:
    """What the page shows as the answer of a task."""
    page.click(f"#tab-{task}")
    for name, value in fields.items():
        if name == "model":
            page.select_option("#in-model", value)
        else:
            page.fill(f"#in-{name}", value)
    page.click("#run")
    page.wait_for_selector("#meta:not(:empty)")
    return str(page.inner_text("#out"))


@pytest.mark.parametrize("page", [1200, 390], indirect=True, ids=["wide", "narrow"])
def test_a_poem_is_shown_line_by_line(page: Any) -> None:
    answered(page, "poem", theme="春江花月夜", seed="0")
    assert page.inner_text("h2") == "春江花月夜"
    lines = [line.text_content() for line in page.query_selector_all(".poem .line")]
    assert lines == [f"{part}。" for part in POEM.split("。") if part]
    tops = {half.bounding_box()["y"] for half in page.query_selector_all(".poem .half")}
    assert len(tops) == (4 if page.viewport_size["width"] < 760 else 2)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is wider than the page"


def test_titles_and_continuations_are_shown(page: Any) -> None:
    text = "第一条 为了规范事业单位登记管理，制定本条例。"
    wanted = flagai.load("title", "GLM-mini-ch")(text, num_return_sequences=2)
    shown = answered(page, "title", text=text, count="2")
    assert shown.split("\n")[::2] == [each.text for each in wanted]
    shown = answered(page, "completions", model="GLM-mini-ch", text="春眠不觉晓，", length="6", creative="0")
    assert shown == "春眠不觉晓，" + flagai.load("lm", "GLM-mini-ch")("春眠不觉晓，", max_new_tokens=6)


def test_blanks_are_filled_in_place_with_alternatives(page: Any) -> None:
    answered(page, "fill", model="GLM-mini-ch", text="春眠不觉晓，[sMASK]。", count="3")
    marks = []
    for choice in page.query_selector_all(".choice"):
        choice.click()
        assert choice.get_attribute("aria-pressed") == "true"
        marks.append(page.inner_text("mark"))
        assert page.inner_text(".filled") == f"春眠不觉晓，{marks[-1]}。"
    wanted = flagai.load("masklm", "GLM-mini-ch")("春眠不觉晓，[sMASK]。", num_return_sequences=3, out_max_length=12)
    assert marks == [each.fillings[0] for each in wanted]


def test_entities_are_coloured_and_similarities_are_bars(page: Any, server: ServerProcess) -> None:
    text = "😀今天北京天气很好，明天上海下雨。"
    answered(page, "ner", text=text)
    found = server.answer("/v1/ner", text=text)["results"][0]["entities"]
    assert found
    assert [entity.inner_text() for entity in page.query_selector_all(".entity b")] == [each["text"] for each in found]
    assert page.text_content(".entities").startswith(text[: found[0]["start"]])
    shown = answered(page, "match", model="all-MiniLM-L6-v2", first="A man plays a guitar.", others="The sky.\nMusic.")
    assert [line for line in shown.split("\n") if line in ("Music.", "The sky.")] == ["Music.", "The sky."]
    widths = [bar.bounding_box()["width"] for bar in page.query_selector_all(".fillbar")]
    assert widths == sorted(widths, reverse=True)


def test_the_request_is_shown_as_curl_and_python(page: Any, server: ServerProcess) -> None:
    answered(page, "classify", model="GLM-mini-ch", text="春江'花月夜", labels="春，秋")
    page.click("#request summary")
    curl, python = (block.inner_text() for block in page.query_selector_all("pre"))
    body = json.loads(curl.partition("-d '")[2].rstrip("'").replace("'\\''", "'"))
    assert body == {"model": "GLM-mini-ch", "text": "春江'花月夜", "labels": ["春", "秋"]}
    found: dict[str, Any] = {}
    exec(python.replace("print(answer.json())", "found = answer.json()").replace("requests", "httpx"), found)
    assert found["found"] == httpx.post(f"{server.address}/v1/classify", json=body).json()


def test_keys_and_languages(page: Any) -> None:
    page.focus("#tab-poem")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-title"
    assert page.get_attribute("#tab-title", "aria-selected") == "true"
    page.keyboard.press("End")
    assert page.get_attribute("#tab-chat", "aria-selected") == "true"
    page.focus("#form textarea")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#meta:not(:empty)")
    page.click("#language")
    assert page.inner_text("#tab-poem") == "Poem"
    assert page.evaluate("document.documentElement.lang") == "en"


def test_an_error_is_shown(page: Any) -> None:
    page.click("#tab-poem")
    page.fill("#in-theme", "长" * 21)
    page.click("#run")
    page.wait_for_selector("[role=alert]")
    assert "is not a title for a poem" in page.inner_text("[role=alert]")
