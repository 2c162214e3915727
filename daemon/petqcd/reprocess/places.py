"""Folders by path or by URL of an object store: looked into, and copied to where they can be read as files."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from petqc.errors import BadInputError
from petqcd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSTALL = "pip install 'petqcd[reprocess]'"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder. url: a path, or a URL of any scheme that fsspec knows; without a slash at its end.

    What opens it is made anew in each process: credentials are those of the process (environment, configuration of the
    scheme's own package), and are never part of a URL.
    """

    url: str

    @classmethod
    def of(cls, given: str) -> Place:
        """The folder that somebody named; paths become absolute, since workers stand elsewhere."""
        if "://" not in given:
            return cls(str(Path(given).absolute()))
        if given.startswith("file://"):
            return cls(given.removeprefix("file://").rstrip("/"))
        return cls(given.rstrip("/"))

    @classmethod
    def matching(cls, given: str) -> list[Place]:
        """The folders whose names fit a pattern with `*`, `?` or `[…]`, by name; those of one place have its name."""
        place = cls.of(given)
        if not any(sign in place.url for sign in "*?["):
            return [place]
        system, pattern = place.opened()
        scheme, colon, _ = place.url.partition("://")
        return [cls(f"{scheme}{colon}{name}" if colon else str(name)) for name in sorted(system.glob(pattern))]

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.url).name

    @property
    def local(self) -> Path | None:
        """The folder itself, where it is one of this machine."""
        return None if "://" in self.url else Path(self.url)

    def __truediv__(self, name: str) -> Place:
        """A folder in it."""
        return Place(f"{self.url}/{name}")

    def read(self, name: str) -> bytes:
        """A file of it.

        Raises:
            FileNotFoundError: it is not there.
            OSError: the store does not answer, or refuses.
        """
        system, path = self.opened()
        content: bytes = system.cat_file(f"{path}/{name}")
        return content

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        system, path = self.opened()
        return bool(system.isfile(f"{path}/{name}"))

    def folders(self) -> list[Place]:
        """The folders in it, by name."""
        system, path = self.opened()
        found = system.ls(path, detail=True) if system.isdir(path) else []
        names = (PurePosixPath(one["name"].rstrip("/")).name for one in found if one["type"] == "directory")
        return [self / name for name in sorted(names)]

    def copy_to(self, folder: Path, wanted: Callable[[str], bool]) -> None:
        """Copy those of its files that are wanted, by name relative to it, with their folders.

        Raises:
            BadInputError: the store names a file outside of the folder.
            OSError: a file cannot be read or written.
        """
        system, path = self.opened()
        inside = f"{path.rstrip('/')}/"
        for found in sorted(system.find(path)):
            name = found.removeprefix(inside)
            if not found.startswith(inside) or ".." in PurePosixPath(name).parts:
                raise BadInputError(f"names {found!r}, which is outside of it", where=self.url)
            if wanted(name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                system.get_file(found, str(folder / name))

    def put(self, folder: Path, *, last: str) -> None:
        """Copy a folder's files here; one that is here already is replaced. last: the file that says that all are."""
        system, path = self.opened()
        system.makedirs(path, exist_ok=True)
        files = (file for file in folder.iterdir() if file.is_file())
        for file in sorted(files, key=lambda file: (file.name == last, file.name)):
            system.put_file(str(file), f"{path}/{file.name}")

    def opened(self) -> tuple[Any, str]:
        """What speaks to the store, and the path in it.

        Raises:
            ConfigError: the scheme is not known, or needs a package that is not here.
        """
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ConfigError(f"{self.url}: needs the packages of petqc reprocess: {INSTALL}") from error
        try:
            system, path = url_to_fs(self.url)
        except ImportError as error:
            scheme = self.url.partition("://")[0]
            raise ConfigError(
                f"{self.url}: {scheme}:// needs another package here and on every worker: {error}"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{self.url}: {error}") from error
        return system, str(path)


@contextmanager
def as_files(place: Place, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """A folder as files: itself, where it is one of this machine; else a copy of what is wanted, gone afterwards.

    Raises:
        BadInputError: it is one of this machine, and not there.
        OSError: it cannot be copied.
    """
    if place.local is not None:
        if not place.local.is_dir():
            raise BadInputError(f"there is no such folder on {os.uname().nodename}", where=place.url)
        yield place.local
        return
    with scratch() as folder:
        copy = folder / place.name
        copy.mkdir()
        place.copy_to(copy, wanted)
        yield copy


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for a while; that of a worker is in Dask's own, which is cleared away even if the worker was killed."""
    within: str | None = None
    try:
        from distributed import get_worker

        within = get_worker().local_directory
    except (ImportError, ValueError):
        pass  # not called by a worker
    with tempfile.TemporaryDirectory(prefix="petqc-", dir=within) as folder:
        yield Path(folder)
