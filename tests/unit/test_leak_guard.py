"""The guard itself: each kind of leftover fails a test, and a clean test passes."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

LEAKS = {
    "thread": "import threading\nthreading.Thread(target=threading.Event().wait, args=(8,), daemon=True).start()",
    "descriptor": "import os\nos.open('.', os.O_RDONLY)",
    "process": "import subprocess\nglobal kept\nkept = subprocess.Popen(['sleep', '8'])",
    "task": (
        "import asyncio\nasync def forget():\n    global kept\n    kept = asyncio.create_task(asyncio.sleep(8))\n"
        "    await asyncio.sleep(0)\nasyncio.run(forget())"
    ),
}


@pytest.mark.parametrize("kind", sorted(LEAKS))
def test_a_leftover_fails_the_test(pytester: pytest.Pytester, request: pytest.FixtureRequest, kind: str) -> None:
    pytester.makeconftest((request.config.rootpath / "tests" / "conftest.py").read_text())
    body = "\n".join("    " + line for line in LEAKS[kind].splitlines())
    pytester.makepyfile(f"def test_leaks():\n{body}\n\ndef test_clean():\n    assert 1 + 1 == 2\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    text = result.stdout.str()
    assert "left behind" in text or "left running" in text, text
    result.assert_outcomes(passed=2, errors=1)
    assert result.ret != 0
