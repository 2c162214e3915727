"""user, token, audit: who may use the console and the interface, and who did what."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from petqcd.cli.common import ConfigFile, Json, StateDir, configuration, give_json, say
from petqcd.errors import ConfigError, UnreachableError

Role = Annotated[str, typer.Option("--role", help="observer, physicist or engineer.")]
UserName = Annotated[str, typer.Argument(metavar="NAME", help="Of the user.")]
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Of the token: what it is for.")]
FromStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Take the password from the first line of stdin, do not ask for it.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    users = typer.Typer(help="Users of the console.", no_args_is_help=True)
    users.command("add")(add_user)
    users.command("list")(list_users)
    users.command("password")(set_password)
    users.command("remove")(remove_user)
    app.add_typer(users, name="user")
    tokens = typer.Typer(help="Tokens of programs.", no_args_is_help=True)
    tokens.command("create")(create_token)
    tokens.command("list")(list_tokens)
    tokens.command("revoke")(revoke_token)
    app.add_typer(tokens, name="token")
    log = typer.Typer(help="The audit log: who did what.", invoke_without_command=True)
    log.callback()(audit)
    log.command("verify")(verify_audit)
    app.add_typer(log, name="audit")


def add_user(
    name: UserName,
    role: Role,
    *,
    password_stdin: FromStdin = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Add a user. The first one makes the console take commands; without one it only shows."""
    body = {"name": name, "role": role, "password": _password(from_stdin=password_stdin)}
    found = _post("/api/v1/users", body, config, state_dir)
    _tell(found, f"user {name}, {role}", as_json=as_json)


def list_users(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Every user."""
    found = _get("/api/v1/users", config, state_dir)
    if as_json:
        give_json(found)
        return
    for user in found["users"]:
        sys.stdout.write(f"{user['name']}\t{user['role']}\tsince {user['created_at'][:10]}, by {user['created_by']}\n")


def set_password(
    name: UserName,
    *,
    password_stdin: FromStdin = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Give a user another password; sessions with the old one end."""
    body = {"name": name, "password": _password(from_stdin=password_stdin)}
    found = _post("/api/v1/users/password", body, config, state_dir)
    _tell(found, f"user {name} has another password", as_json=as_json)


def remove_user(
    name: UserName, *, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False
) -> None:
    """Remove a user; sessions end at once."""
    found = _post("/api/v1/users/remove", {"name": name}, config, state_dir)
    _tell(found, f"user {name} is removed", as_json=as_json)


def create_token(
    name: TokenName,
    role: Role,
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Action it is limited to, such as view; may be repeated. Default: its role."),
    ] = None,
    days: Annotated[float, typer.Option(help="How long it holds, at most 366.")] = 90.0,
    network: Annotated[
        list[str] | None, typer.Option(help="From where it may be used, such as 10.1.0.0/16; may be repeated.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Bias source it may command; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Kind of run it may start; may be repeated.")] = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Make a token and show it, this once: only its hash is kept."""
    body = {"name": name, "role": role, "scope": scope or None, "days": days}
    body |= {"networks": network or None, "devices": device or None, "kinds": kind or None}
    found = _post("/api/v1/tokens", body, config, state_dir)
    if as_json:
        give_json(found)
        return
    sys.stdout.write(f"{found['token']}\n")
    say(f"token {name}, {role}, until {found['expires_at'][:10]}; it is not shown again")


def list_tokens(*, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False) -> None:
    """Every token, without its secret."""
    found = _get("/api/v1/tokens", config, state_dir)
    if as_json:
        give_json(found)
        return
    for token in found["tokens"]:
        scope = " ".join(token["scope"]) if token["scope"] is not None else "all of its role"
        for name in ("networks", "devices", "kinds"):
            scope += f", {name}: {' '.join(token[name])}" if token[name] is not None else ""
        end = f"revoked {token['revoked_at'][:10]}" if token["revoked_at"] else f"until {token['expires_at'][:10]}"
        used = f"used {token['used_at'][:10]}" if token["used_at"] else "never used"
        sys.stdout.write(f"{token['name']}\t{token['role']}\t{scope}\t{end}\t{used}\n")


def revoke_token(
    name: TokenName, *, config: ConfigFile = None, state_dir: StateDir = None, as_json: Json = False
) -> None:
    """End a token now."""
    found = _post("/api/v1/tokens/revoke", {"name": name}, config, state_dir)
    _tell(found, f"token {name} is revoked", as_json=as_json)


def audit(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=500, help="How many rows.")] = 30,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """The audit log, newest first: who did what, and what came of it."""
    if context.invoked_subcommand is not None:
        return
    loaded, folder = configuration(config, state_dir)
    from petqcd.client import Client

    try:
        rows = Client(folder).get(f"/api/v1/audit?limit={limit}")["entries"]
    except UnreachableError as error:
        from petqcd.security.audit import entries
        from petqcd.store import database_of, read_only

        with read_only(database_of(loaded.store, folder)) as reader:
            say(f"petqc: {error}; reading the history itself")
            rows = entries(reader, limit=limit)
    if as_json:
        give_json({"entries": rows})
        return
    for row in rows:
        sys.stdout.write(f"{row['number']:>6}  {row['at'][:19]}  {_words(row)}\n")


def verify_audit(
    *,
    known: Annotated[
        str | None, typer.Option(metavar="NUMBER:HASH", help="A row noted earlier; it must still be there, as it was.")
    ] = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
    as_json: Json = False,
) -> None:
    """Check that no row of the audit log was changed, removed or put in; works without the daemon."""
    from petqcd.security.audit import Head, verify
    from petqcd.store import database_of, read_only

    noted = None
    if known is not None:
        number, colon, digest = known.partition(":")
        if not colon or not number.isdecimal() or not digest:
            raise ConfigError(f"--known {known!r} is not NUMBER:HASH")
        noted = Head(int(number), digest)
    loaded, folder = configuration(config, state_dir)
    with read_only(database_of(loaded.store, folder)) as reader:
        head = verify(reader, known=noted)
    if as_json:
        give_json({"rows": head.number, "hash": head.hash})
    else:
        sys.stdout.write(f"{head.number} rows, unbroken; note the last one elsewhere: {head.number}:{head.hash}\n")


def _words(row: dict[str, Any]) -> str:
    """A row for people; what somebody sent is shown escaped, so that it cannot pretend to be a row."""
    by = row["by"]
    said = f"{by['name']} ({by['proof']}) {row['phase']} {row['action']} {row['target']}"
    for key in ("old", "new", "reason", "outcome", "error"):
        if row.get(key) is not None:
            said += f"  {key}: {row[key]}"
    return said.encode("unicode_escape").decode("ascii")


def _password(*, from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise ConfigError("the password is asked for on a terminal; elsewhere give --password-stdin")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))


def _get(path: str, config: Any, state_dir: Any) -> Any:
    from petqcd.client import Client

    return Client(configuration(config, state_dir)[1]).get(path)


def _post(path: str, body: dict[str, Any], config: Any, state_dir: Any) -> Any:
    from petqcd.client import Client

    return Client(configuration(config, state_dir)[1]).post(path, body)


def _tell(document: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        give_json(document)
    else:
        sys.stdout.write(text + "\n")
