"""The browser that other tests look through: what it sees, what it refuses, what it leaves behind."""

import subprocess

import pytest

from browser import Browser, BrowserError, available

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not available(), reason="needs chromium and chromedriver")]

PAGE = """<!doctype html><title>t</title><body style="height: 3000px"><p>plain</p><p style="display:none">gone</p>
<p style="visibility:hidden">unseen</p><div id="host"><b slot="s">slotted</b><i>unslotted</i></div>
<details><summary>more</summary>folded</details><script>
const root = document.getElementById('host').attachShadow({mode: 'open'});
root.innerHTML = '<style>p { color: red }</style><p>shadow</p><slot name="s"></slot>';
setTimeout(() => { window.late = {value: 42}; }, 300);
console.error('a console error');
</script>"""


def test_browser_sees_what_a_person_sees_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    with Browser(width=800, height=600) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        assert browser.visible_text().split() == ["plain", "shadow", "slotted", "more"]
        assert browser.wait_for("window.late.value", 10, "the late value") == 42
        assert browser.evaluate("return arguments[0] + 1", 2) == 3
        assert any("a console error" in message for message in browser.console())
        with pytest.raises(AssertionError, match=r"waited 0.2 s for a miracle; .*None(.|\n)*plain"):
            browser.wait_for("window.miracle", 0.2, "a miracle")
        browser.wait_for_text("slotted", 1)
        with pytest.raises(AssertionError, match="the text 'folded'"):
            browser.wait_for_text("folded", 0.2)
        with pytest.raises(BrowserError, match="nowhere is not defined"):
            browser.evaluate("return nowhere")
        with pytest.raises(BrowserError, match="ERR_NAME_NOT_RESOLVED"):
            browser.open("http://example.com/")
        browser.open((tmp_path / "page.html").as_uri())
        browser.screenshot(tmp_path / "whole.png")
        browser.screenshot(tmp_path / "window.png", whole_page=False)
        profile = browser._profile
    heights = [int.from_bytes((tmp_path / f"{name}.png").read_bytes()[20:24]) for name in ("whole", "window")]
    assert heights[0] >= 3000 > heights[1]
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert profile not in processes
