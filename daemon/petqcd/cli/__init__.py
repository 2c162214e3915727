"""The `petqc` command: its entry point, and how it ends."""

from __future__ import annotations

import json
import os
import sys
import traceback

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""Linear algebra in several threads adds in another order: the last digits of results would depend on how many cores
a machine has. Read by these libraries when they are loaded."""


def main() -> None:
    """Run a command; what people did wrong is told in one line, with the exit code that scripts rely on."""
    if sys.argv[1:2] == ["version"] and sys.argv[2:] in ([], ["--json"]):
        # Scripts ask this often, and loading the machinery of options takes five times as long as the answer.
        from petqcd.cli.tools import tell_version

        tell_version(as_json="--json" in sys.argv)
        return
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    from petqc.errors import QcError
    from petqc.loading import collect_seldom
    from petqcd.cli import kernel_cache
    from petqcd.cli.commands import app
    from petqcd.cli.common import say
    from petqcd.errors import EXIT_INVALID, EXIT_UNREACHABLE, EXIT_USAGE, DaemonError

    collect_seldom()
    kernel_cache.provide(say)
    try:
        app()
    except DaemonError as error:
        _end(str(error), error.code, error.exit_code)
    except QcError as error:
        _end(str(error), error.code, EXIT_USAGE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; nothing is left to say to it
        sys.exit(EXIT_UNREACHABLE)
    except KeyboardInterrupt:
        _end("interrupted", "interrupted", 130)
    except OSError as error:
        _end(f"{error.filename or 'system'}: {error.strerror or error}", "os-error", EXIT_USAGE)
    except Exception as error:  # noqa: BLE001 - the interpreter's own exit code, 1, would read as the verdict `fail`
        traceback.print_exc()
        _end(f"internal error: {error}", "internal-error", EXIT_INVALID)


def _end(message: str, code: str, exit_code: int) -> None:
    sys.stderr.write(f"petqc: {message}\n")
    if "--json" in sys.argv[1:]:
        sys.stdout.write(json.dumps({"code": code, "error": message}) + "\n")
    sys.exit(exit_code)
