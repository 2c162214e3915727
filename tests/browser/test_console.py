"""The console in a real Chromium: what people do with it, by mouse, by keyboard, in light and dark, on a phone."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from tests.browser.conftest import EXPECT_MS, RUNS, WORDS
from tests.system.broker import free_port
from tests.system.conftest import petqc_command
from tests.system.test_daemon_dies import daemon
from tests.unit.test_calibration_sets import origin, tdc_tables
from tests.unit.test_checks import Toy

from petqc.calibrate.sets import create_set
from petqc.formats.petsys_config import load_config
from petqc.qc_input import RunContext
from petqc.so_far import NO_VERDICT, so_far
from petqcd.security.sessions import PROVED_S
from petqcd.web.actions import ACTIONS
from petqcd.web.console import devices, today

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Page
    from tests.browser.conftest import Console

    from petqcd.app import Daemon

PAGES = {
    "today": "/",
    "history": "/runs",
    "run": "/runs/run-5",
    "compare": "/compare?a=run-0&b=run-5",
    "trends": "/trends?kind=source&check=ctr_fit&node=scanner",
    "devices": "/devices",
    "alarms": "/alarms",
    "calibrations": "/calibrations",
    "faults": "/faults",
    "audit": "/audit",
    "login": "/login",
}
LATER = (
    '[[device]]\nname = "later"\nkind = "julabo"\nmodel = "FL"\naddress = "socket://127.0.0.1:9"\nsimulated = true\n'
)
SHOTS = os.environ.get("PETQC_SCREENSHOTS")
"""Folder for pictures of every page, for whoever wants to look at them."""


def complete(page: Page, name: str) -> None:
    """Wait until everything that scripts add is there."""
    if name == "trends":
        page.locator("#trend canvas").wait_for()
    if name == "run":
        page.get_by_role("button", name="energy scanner").click()
        page.locator("#spectrum canvas").wait_for()
        expect(page.locator("#map-scale")).to_contain_text("Dark")
        page.locator("#map").focus()
        page.keyboard.press("ArrowRight")
        page.locator("#channel-plot canvas").wait_for()


def test_every_page_is_tested() -> None:
    pages = {p for (method, p) in ACTIONS if method == "GET" and not p.startswith(("/api/", "/static/"))}
    asked = {re.sub(r"/run-5$", "/{run_id}", path.partition("?")[0]) for path in PAGES.values()}
    assert pages - {"/metrics", "/healthz", "/readyz"} == asked


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 390)], ids=["light", "dark", "phone"])
def test_everybody_can_use_every_page(visit: Callable[..., Any], *, dark: bool, width: int) -> None:
    visitor = visit(dark=dark, width=width)
    page = visitor.login("engineer")
    for name, path in PAGES.items():
        visitor.open(path)
        complete(page, name)
        if SHOTS:
            page.screenshot(path=Path(SHOTS) / f"{name}-{'dark' if dark else 'light'}-{width}.png", full_page=True)
        if width > 1000:  # a phone has the same elements
            found = Axe().run(page).response["violations"]
            assert [(name, v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the screen"


def measures(daemon: Daemon) -> None:
    """The run that goes on has frames, and tells what they show."""
    shown = so_far(Toy(n_pairs=5000, n_singles=50_000).histograms().summed(), RunContext("toy", live_time_s=10.0))
    figures = [figure.document() for figure in shown.figures]
    active = daemon.runs._active
    active.spectra_so_far = lambda: shown.spectra
    about = {"remark": NO_VERDICT, "simulated": True, "live_time_s": 10.0, "frames_not_analysed": 0}
    active._tell("acquire", 0.5, "5 s left", {"prompts": 5000}, {**about, "figures": figures})


def test_a_run_is_started_followed_and_stopped(visit: Callable[..., Any], console: Console) -> None:
    visitor = visit()
    page = visitor.login("physicist")
    expect(page.get_by_role("heading", level=2).first).to_contain_text(re.compile("Pass|Fail|Could not"))
    expect(page.get_by_text("ago").first).to_be_visible()
    page.get_by_label("Kind").select_option("source")
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("#progress-stage")).to_have_text("connect")
    expect(page.get_by_role("button", name="Start the run")).to_be_hidden()
    expect(page.locator("#so-far")).to_be_hidden()
    visitor.open("/runs")
    expect(page.get_by_role("row").nth(1).get_by_role("link")).to_have_text(["going on"])
    page.get_by_role("link", name="going on").click()
    console.loop.call_soon_threadsafe(measures, console.daemon)  # this board never answers
    expect(page.locator("#so-far-remark")).to_have_text("So far, not a verdict, simulated")
    expect(page.locator("#so-far-about")).to_contain_text("after 10.0 s of live time")
    expect(page.locator("#so-far-figures div").filter(has_text="CTR")).to_contain_text(re.compile(r"2\d\d.* ± .* ps"))
    expect(page.locator("#so-far-energy canvas")).to_be_visible()
    expect(page.locator("#so-far-time canvas")).to_be_visible()
    page.get_by_role("button", name="Stop the run").click()
    expect(page.get_by_role("button", name="Start the run")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_hidden()
    stopped = console.daemon.store.line("last")
    assert (stopped.verdict, stopped.kind) == ("invalid", "source")
    visitor.open("/audit")
    expect(page.get_by_role("row", name=re.compile("abort.*one-physicist|one-physicist.*abort")).first).to_be_visible()


def test_a_page_that_stays_open_does_not_say_pass_for_ever(
    visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = visit()
    visitor.page.clock.install()
    page = visitor.open("/")
    heading = page.locator("#verdict")
    expect(heading).to_contain_text(re.compile("Pass|Fail|Could not"))
    link = page.get_by_role("link", name="source run")
    link.focus()
    monkeypatch.setattr(today, "HOLDS_S", 1.0)  # a day passes
    page.clock.fast_forward(11_000)
    expect(heading).to_contain_text("Old: no QC in the last 24 hours")
    expect(page).to_have_title(re.compile("^Today"))
    expect(link).to_be_focused()
    expect(page.locator("#lost")).to_be_hidden()


@pytest.mark.slow
def test_what_a_daemon_showed_that_hangs_or_is_gone_is_marked_as_old(
    browser: Browser, console: Console, tmp_path: Path
) -> None:
    config, port = tmp_path / "petqc.toml", free_port()
    board = f'udp://127.0.0.1:9"\nconfiguration = "{console.daemon.config.board.configuration}"\nsimulated = true'
    config.write_text(f'[[device]]\naddress = "{board}\n[api]\nlisten = "127.0.0.1:{port}"\n')
    context = browser.new_context()
    context.set_default_timeout(EXPECT_MS)
    today_, devices = context.new_page(), context.new_page()

    def expect_old(*, old: bool) -> None:
        """Today asks every ten seconds, and waits for events for fifteen: its own time passes quickly."""
        today_.clock.fast_forward(20_000)
        expect(today_.locator("#untold")).to_be_visible(visible=old)
        for page in (today_, devices):
            expect(page.locator("#lost")).to_be_visible(visible=old)
            expect(page.locator("body.all-stale")).to_have_count(int(old))

    with daemon(petqc_command(), config, tmp_path / "state") as process:
        today_.clock.install()
        today_.goto(f"http://127.0.0.1:{port}/")
        devices.goto(f"http://127.0.0.1:{port}/devices")
        expect_old(old=False)
        process.send_signal(signal.SIGSTOP)  # every connection stays as it is, and nothing comes any more
        expect_old(old=True)
        process.send_signal(signal.SIGCONT)
        expect_old(old=False)
        process.send_signal(signal.SIGKILL)
        process.wait()
        expect_old(old=True)
    expect(devices.get_by_role("heading", name="later")).to_have_count(0)
    config.write_text(config.read_text() + LATER)
    with daemon(petqc_command(), config, tmp_path / "state"):
        expect_old(old=False)
        expect(devices.get_by_role("heading", name="later")).to_be_visible()
        context.close()


def test_who_may_not_is_not_offered(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open("/")
    expect(page.get_by_role("button")).to_have_count(0)
    expect(page.get_by_role("link", name="Log in").first).to_be_visible()
    page = visitor.login("observer")
    expect(page.get_by_role("button", name="Start the run")).to_have_count(0)
    expect(page.get_by_role("button", name="All bias off")).to_have_count(0)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in").first).to_be_visible()


def test_a_wrong_password_is_told(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open("/login")
    page.get_by_label("User").fill("one-engineer")
    page.get_by_label("Password").fill("not this one at all")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("user or password is wrong")
    assert any("401" in problem for problem in visitor.problems)
    visitor.problems.clear()


def test_by_keyboard_alone(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open("/runs/run-5")
    expect(page.locator("#map-scale")).to_contain_text("Dark")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#channel-name")).to_contain_text("channel:")
    expect(page.locator("#channel-counts")).to_contain_text("keV")
    page.locator("#channel-plot canvas").wait_for()
    page.locator("#channel-neighbours").get_by_role("button").first.focus()
    beside = page.evaluate("document.activeElement.dataset.channel")
    page.keyboard.press("Enter")
    expect(page.locator("#channel-name")).to_have_text(beside)
    page.locator("#map-table summary").focus()
    page.keyboard.press("Enter")
    page.get_by_role("region", name="Channels of the module").get_by_role("button").last.focus()
    last = page.evaluate("document.activeElement.dataset.channel")
    page.keyboard.press("Enter")
    expect(page.locator("#channel-name")).to_have_text(last)
    assert page.url.endswith(f"#{last}")
    page.reload()  # the address leads to the same channel
    expect(page.locator("#channel-name")).to_have_text(last)
    page.get_by_role("button", name="energy module:0.0.1").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#spectrum figcaption")).to_contain_text("energy module:0.0.1")
    page.locator("#report-box summary").focus()
    page.keyboard.press("Enter")
    expect(page.frame_locator("#report-box iframe").get_by_role("heading", level=1)).to_be_visible()


def test_a_fault_is_planted_and_taken_away(visit: Callable[..., Any], console: Console) -> None:
    visitor = visit()
    page = visitor.login("engineer")
    page.get_by_role("link", name="Simulator").click()
    planted = page.get_by_role("region", name="Planted faults")
    expect(planted.get_by_role("row")).to_have_count(2)
    page.get_by_label("Fault", exact=True).select_option("F06")
    expect(page.locator("#means")).to_have_text("warmer by K; at most 40")
    page.locator("input[name=size]").fill("7")
    page.locator("input[name=place]").fill("module:0.0.9")
    page.get_by_role("button", name="Plant it").click()
    expect(page.locator("#fault-result")).to_contain_text("there is no module:0.0.9")
    page.locator("input[name=place]").fill("module:0.0.1")
    page.get_by_role("button", name="Plant it").click()
    expect(page.locator("#fault-result")).to_have_text("Planted: number 2, F06=7:module:0.0.1.")
    expect(planted.get_by_role("row", name="F06")).to_contain_text("acts")
    page.get_by_role("button", name="Take away fault 2").click()
    expect(planted.get_by_role("row")).to_have_count(2)
    visitor.open("/audit")
    expect(page.get_by_role("row", name=re.compile("one-engineer.*fault.*F06=7:module:0.0.1")).first).to_be_visible()
    assert any("409" in problem for problem in visitor.problems)
    visitor.problems.clear()
    page = visitor.login("physicist")
    visitor.open("/faults")
    expect(page.get_by_role("button", name="Take away fault 1")).to_have_count(0)


def test_two_runs_are_chosen_and_compared(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.open("/runs?kind=source")
    page.get_by_label("compare from run-0").check()
    page.get_by_label("compare to run-3").check()
    page.get_by_role("button", name="Compare A with B").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("What moved")
    expect(page.locator("main")).to_contain_text("calibration")


def test_a_trend_has_its_values_and_a_remark_stays(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.login("physicist")
    visitor.open(PAGES["trends"])
    page.locator("#trend canvas").wait_for()
    page.get_by_text("The values as a table").click()
    expect(page.get_by_role("region", name="Values").get_by_role("row")).to_have_count(RUNS + 1)
    page.get_by_label("About").select_option("service")
    page.get_by_role("textbox", name="Remark").fill("a new power supply <b>")
    page.get_by_role("button", name="Write the remark").click()
    expect(page.get_by_role("listitem").filter(has_text="a new power supply <b>")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="one-physicist")).to_be_visible()


def test_without_scripts_everything_is_still_said(visit: Callable[..., Any]) -> None:
    visitor = visit(scripts=False)
    for path, said in (
        ("/", "CTR"),
        ("/runs", "photopeak position"),
        ("/runs/run-5", "Photopeak"),
        (PAGES["trends"], "Last:"),
    ):
        expect(visitor.open(path).locator("main")).to_contain_text(said)


def test_bias_goes_off_from_every_page(visit: Callable[..., Any]) -> None:
    visitor = visit()
    page = visitor.login("physicist")
    visitor.open("/trends")
    page.get_by_role("button", name="All bias off").click()
    # The board is silent: the page says that nothing is known, and does not say that its bias is off.
    expect(page.locator("#off-result")).to_contain_text("board: unknown")
    expect(page.locator("#off-result")).to_contain_text("hv: in safe state")


def test_what_energises_asks_for_the_password_again(visit: Callable[..., Any], console: Console) -> None:
    visitor = visit()
    page = visitor.login("physicist")
    visitor.open("/devices")
    for session in console.daemon.accounts.sessions._sessions.values():
        session.proved_s -= PROVED_S + 1
    commands = page.get_by_role("group", name="Commands to hv")
    result = commands.locator(".result")
    commands.get_by_label("Voltage, V").fill("56.5")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Your password again")
    expect(dialog.get_by_label("Password of one-physicist")).to_be_focused()
    assert Axe().run(page).response["violations"] == []
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / "again.png")
    page.keyboard.type("not this one at all")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_have_text("the password is wrong")
    page.keyboard.press("Escape")
    expect(result).to_contain_text("give the password again")
    commands.get_by_role("button", name="Energise hv").click()
    dialog.get_by_label("Password of one-physicist").fill(WORDS)
    dialog.get_by_role("button", name="Go on").click()
    expect(result).to_contain_text("outside the operating limits 45 to 56 V")
    # Somebody else has commanded it meanwhile: what this page knows is old, until it asks again.
    commands.get_by_label("Voltage, V").fill("50")
    commands.get_by_role("button", name="Energise hv").evaluate(
        "button => { document.querySelector('[id^=v-]').value = '0123456789abcdef'; button.click(); }"
    )
    expect(result).to_contain_text("was changed meanwhile")
    assert not console.supplies.hv.is_on
    visitor.problems[:] = [p for p in visitor.problems if "401" not in p and "409" not in p]


def test_of_many_devices_the_readings_that_somebody_opens_are_shown(
    visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "MANY", 0)
    visitor = visit()
    page = visitor.login("observer")
    visitor.open("/devices")
    hv, chiller = (page.get_by_role("region", name=f"Readings of {name}") for name in ("hv", "chiller"))
    expect(page.get_by_text("readings of hv")).to_be_visible()
    expect(hv).to_have_count(0)
    page.get_by_role("link", name="Show the readings of hv").click()
    expect(hv.get_by_role("row").filter(has_text="bias_voltage")).to_be_visible()
    page.get_by_role("link", name="Show the readings of chiller").click()
    expect(chiller).to_be_visible()
    expect(hv).to_be_visible()
    page.get_by_role("link", name="Hide the readings of hv").click()
    expect(hv).to_have_count(0)
    expect(chiller).to_be_visible()
    assert Axe().run(page).response["violations"] == []


def test_calibration_sets_and_baselines_are_chosen_and_given_up(visit: Callable[..., Any], console: Console) -> None:
    parent = load_config(console.daemon.config.board.configuration)
    made = create_set(console.daemon.store.sets, "tdc", parent, tdc_tables(parent), origin(parent))
    visitor = visit()
    page = visitor.login("engineer")
    visitor.open("/calibrations")
    expect(page.get_by_role("button", name="Use the device's own configuration")).to_have_count(0)
    page.get_by_label(f"Reason to use {made.id}").fill("new tables")
    page.get_by_role("button", name=f"Use {made.id}").click()
    expect(page.get_by_text(f"In use: {made.id}")).to_be_visible()
    page.get_by_label("Reason to use the device's own configuration").fill("they were worse")
    page.get_by_role("button", name="Use the device's own configuration").click()
    expect(page.get_by_text("In use: the device's own configuration")).to_contain_text("they were worse")
    assert console.daemon.calibrations.in_use is None

    page.get_by_label("Kind").select_option("source")
    page.get_by_label("Last runs").fill("2")
    page.get_by_label("the scanner as it was accepted").check()
    page.get_by_label("Reason to accept a baseline").fill("acceptance test")
    page.get_by_role("button", name="Accept a baseline").click()
    row = page.get_by_role("region", name="Baselines").get_by_role("row").nth(1)
    expect(row).to_contain_text("acceptance test")
    expect(row).to_contain_text("in use")
    accepted = console.daemon.baselines.current("source", is_acceptance=True)
    assert accepted is not None
    assert Axe().run(page).response["violations"] == []
    row.get_by_label("Reason to end baseline").fill("another detector")
    row.get_by_role("button", name="End").click()
    expect(row).to_contain_text("another detector")
    assert console.daemon.baselines.current("source", is_acceptance=True) is None


def test_bias_is_energised_trips_and_is_reset(visit: Callable[..., Any], console: Console) -> None:
    hv, chiller = console.supplies.hv, console.supplies.chiller
    visitor = visit()
    page = visitor.login("physicist")
    visitor.open("/devices")
    card = page.locator("section.device").filter(has=page.get_by_role("heading", name="hv hamamatsu"))
    commands = page.get_by_role("group", name="Commands to hv")
    result = commands.locator(".result")

    commands.get_by_label("Voltage, V").fill("56.5")
    commands.get_by_role("button", name="Energise hv").click()
    expect(result).to_contain_text("outside the operating limits 45 to 56 V")
    assert not hv.is_on
    commands.get_by_label("Voltage, V").fill("50")
    commands.get_by_label("Reason").fill("daily QC")
    commands.get_by_role("button", name="Energise hv").click()
    expect(card).to_contain_text("50 V commanded")
    expect(card.locator(".bias.on")).to_be_visible()
    assert hv.is_on

    expect(card.get_by_role("button", name="trip")).to_have_count(0)
    chiller.bath_degc = 25.0
    expect(card).to_contain_text("Trip: ")
    expect(card).to_contain_text("cooling")
    card.get_by_role("button", name="Reset the trip of hv").click()
    expect(result).to_contain_text("acknowledge it first")
    chiller.bath_degc = 18.0
    card.get_by_role("button", name="Acknowledge the trip of hv").click()
    expect(result).to_have_text("Done.")
    card.get_by_text("Permits (").click()
    # What was opened stays open while the page asks again and again how things are.
    expect(card.get_by_role("listitem").filter(has_text="✔ cooling: given")).to_be_visible()
    card.get_by_role("button", name="Reset the trip of hv").click()
    expect(result).to_have_text("Done.")
    expect(card).not_to_contain_text("Trip: ")
    assert not hv.is_on  # nothing energises by itself

    visitor.open("/alarms")
    page.get_by_role("button", name="Acknowledge trip.hv").click()
    expect(page.get_by_role("row").filter(has_text="trip.hv").get_by_text("not acknowledged")).to_have_count(0)
    visitor.problems[:] = [p for p in visitor.problems if "409" not in p]
