"""Coverage-guided fuzzing of every parser of the wire and of files: `python tests/fuzz/campaign.py --seconds 60`.

Each target runs in a process of its own for its time. What makes it fail is written to `tests/fuzz/crashes/TARGET/`,
and from then on `pytest tests/fuzz` replays it. Inputs that reached something new are kept in the corpus directory, so
that the next campaign goes on from there. Needs atheris, which nothing else does.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PACKAGES = ("petqc", "petqc_drivers", "petqc_simulators")
LONGEST_INPUT = 16_384
"""Bytes; longer datagrams differ only in length."""
INPUT_DEADLINE_S = 10
MEMORY_MIB = 3072
"""Of a process, with the compiler of the simulated detector in it."""
GRACE_S = 120


def compiled_modules() -> list[str]:
    """Modules that numba compiles: what counts coverage in them would not compile."""
    folders = [folder for package in PACKAGES for folder in ROOT.glob(f"*/{package}")]
    files = [(folder.parent, file) for folder in folders for file in folder.rglob("*.py")]
    return [
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for root, file in files
        if re.search(r"^(from|import) (numba|petqc\.jit)", file.read_text(), re.MULTILINE)
    ]


def run_one(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process until libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=list(PACKAGES), exclude=compiled_modules()):
        from fuzz_targets import TARGETS

    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def write_seeds(folder: Path, name: str) -> None:
    """Good input, where the corpus has none yet."""
    from fuzz_targets import seeds

    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (folder / f"seed-{number:02}").write_bytes(seed)


def campaign(name: str, seconds: float, corpus: Path, log: Path) -> tuple[bool, str]:
    """Fuzz one target in a process of its own; whether nothing was found, and a line about it."""
    crashes = HERE / "crashes" / name
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(crashes.iterdir())
    write_seeds(corpus / name, name)
    options = (
        f"-max_total_time={seconds:.0f}",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={INPUT_DEADLINE_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={crashes}{os.sep}",
        "-print_final_stats=1",
    )
    with log.open("w") as file:
        code = subprocess.run(
            [sys.executable, __file__, "--inside", name, *options, str(corpus / name)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=seconds + GRACE_S,
            check=False,
        ).returncode
    said = log.read_text(errors="replace")
    found = sorted(file.name for file in set(crashes.iterdir()) - before)
    if not any(crashes.iterdir()):
        crashes.rmdir()
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
    peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", said)
    covered = re.findall(r"cov: (\d+)", said)
    words = (
        f"{name:<22} {int(runs[1]) if runs else 0:>11,} inputs  {covered[-1] if covered else '?':>6} points reached  "
        f"{peak[1] if peak else '?':>5} MB at most  {'found ' + ', '.join(found) if found else 'nothing found'}"
    )
    if code and not found:
        words += f"; ended with code {code}, see {log}"
    return not code and not found, words


def main() -> int:
    """Run campaigns; 1 if anything was found."""
    if sys.argv[1:2] == ["--inside"]:
        run_one(sys.argv[2], sys.argv[3:])
        return 0
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all, one after the other")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--corpus", type=Path, help="kept from one campaign to the next; default: begin afresh")
    given = parser.parse_args()
    is_fine = True
    with tempfile.TemporaryDirectory(prefix="petqc-fuzz-") as scratch:
        for name in given.target or TARGETS:
            corpus = given.corpus or Path(scratch, "corpus")
            fine, words = campaign(name, given.seconds, corpus, Path(tempfile.gettempdir(), f"petqc-fuzz-{name}.log"))
            sys.stdout.write(words + "\n")
            sys.stdout.flush()
            is_fine &= fine
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
