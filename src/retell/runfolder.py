"""The run folder: one command at a time, whole files or none, and which stages are up to date."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from retell.errors import RunFolderError, StorageError
from retell.hashing import digest
from retell.processes import agreed, rank
from retell.recipe import Recipe, dump_recipe, is_text, load_recipe

_RECIPE, _MANIFEST, _LOCK = "recipe.resolved.toml", "manifest.json", ".lock"
_ALWAYS = (
    "journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "report.html", "report.md", "contamination.json",
    "problems.parquet", _RECIPE, _MANIFEST,
)  # fmt: skip
"""What is retell's own in a run folder beside the outputs that the manifest lists."""
_FOLDERS = ("checkpoints", "eval", "export", "gap")


class RunFolder:
    """A folder that holds one run. Used as a context: it is locked against a second command while open.

    With ``restart``, what another run left is discarded once the new one is known to be sound (see `claim`).

    Of processes that train together only the lead locks and changes it; in the others, what is written goes nowhere.
    """

    def __init__(self, path: Path, *, restart: bool = False) -> None:
        self.path = path
        self._restart = restart
        self._lock: int | None = None
        self._new = False

    def __enter__(self) -> Self:
        if not is_text(str(self.path)):
            raise RunFolderError(f"the name {str(self.path)!r} is no valid UTF-8: choose another --out")
        if rank() > 0:
            return self
        self._take_lock()
        return self

    def _take_lock(self) -> None:
        try:
            self._new = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise _unusable(self.path, error) from error
            raise RunFolderError(f"another retell is running in {self.path}: wait for it, or choose --out") from None
        self._lock = lock

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """While the block runs, a command that this one has started may use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        yield
        self._take_lock()

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
        if self._new and [path.name for path in self.path.iterdir()] == [_LOCK]:
            with contextlib.suppress(OSError):  # a request that was refused leaves nothing behind
                (self.path / _LOCK).unlink()
                self.path.rmdir()

    @property
    def restarting(self) -> bool:
        """Whether what is here will be discarded."""
        return self._restart

    def recipe(self) -> Recipe | None:
        """The resolved recipe stored here, if there is one."""
        path = self.path / _RECIPE
        return load_recipe(path) if path.is_file() else None

    def store_recipe(self, recipe: Recipe) -> None:
        """Stores the resolved recipe."""
        self.write_text(_RECIPE, dump_recipe(recipe))

    def claim(self, stage: str, identity: Mapping[str, object]) -> None:
        """Binds the folder to what a stage's stored results rest on; called when everything given has been checked.

        Raises:
            RunFolderError: the folder is bound to something else; the difference and the way out are named.
        """
        self.check(stage, identity)
        if self._restart:
            self._discard()
            self._restart = False
        manifest = self._manifest()
        manifest["identity"].setdefault(stage, dict(identity))
        self._write_manifest(manifest)

    def check(self, stage: str, identity: Mapping[str, object]) -> None:
        """Whether `claim` will do, without doing it: for what must be known before something slow is started.

        Raises:
            RunFolderError: as there.
        """
        bound = identity if self._restart else self._manifest()["identity"].get(stage, identity)
        changed = [name for name in identity if bound.get(name) != identity[name]]
        if changed:
            name = changed[0]
            also = f" (also {', '.join(changed[1:])})" if changed[1:] else ""
            raise RunFolderError(
                f"{self.path} is a run with another {name}: {bound.get(name)!r} there, {identity[name]!r} now{also}: "
                "choose another --out, or --restart to discard what is there"
            )

    def spare(self, path: Path) -> None:
        """Refuses a restart that would discard something which the new run needs.

        Raises:
            RunFolderError: ``path`` lies in the folder that is about to be discarded.
        """
        if self._restart and path.exists() and path.resolve().is_relative_to(self.path.resolve()):
            raise RunFolderError(f"--restart would discard {path}, which this run needs: choose another --out")

    def is_fresh(self, stage: str, inputs: object) -> bool:
        """Whether a stage was finished with these inputs and its files are still there, and will be.

        Raises:
            RunFolderError: the lead of the processes that train together sees other inputs than this one.
        """
        mine = digest(inputs)

        def look() -> tuple[bool, str]:
            entry = None if self._restart else self._manifest()["stages"].get(stage)
            fresh = (
                entry is not None
                and entry["inputs"] == mine
                and all((self.path / name).exists() for name in entry["outputs"])
            )
            return fresh, mine

        fresh, of_the_lead = agreed(look)  # the manifest changes while others might still read it
        if of_the_lead != mine:
            raise RunFolderError(
                f"process {rank()} finds another model, data or recipe for {stage} than process 0: "
                "start all with the same options, on the same files"
            )
        return fresh

    def begin(self, stage: str) -> None:
        """Notes that a stage's files, and what was made from them, are about to be replaced."""
        manifest = self._manifest()
        if stage == "rewrite":
            rest_on_it = {name for name in manifest["stages"] if name not in ("preview", "evaluate/base")}
        else:
            rest_on_it = {stage, *(stage.replace("train/", later) for later in ("evaluate/", "gap/"))}
            if stage == "evaluate/base":  # the drift of tuned models is measured on what it drew
                rest_on_it |= {name for name in manifest["stages"] if name.startswith("gap/")}
        manifest["stages"] = {name: entry for name, entry in manifest["stages"].items() if name not in rest_on_it}
        self._write_manifest(manifest)

    def finished(self, stage: str, inputs: object, outputs: list[str], seconds: float | None = None) -> None:
        """Notes that a stage is done, and how long that took; called last, after its files are in place."""
        manifest = self._manifest()
        manifest["stages"][stage] = {"inputs": digest(inputs), "outputs": outputs, "seconds": seconds}
        manifest["files"] = sorted({*manifest["files"], *outputs})
        self._write_manifest(manifest)

    def stages(self) -> list[str]:
        """The stages whose files are up to date with those before them."""
        return list(self._manifest()["stages"])

    def seconds(self) -> dict[str, float]:
        """How long the starts took that finished these stages, as far as that was noted."""
        entries = self._manifest()["stages"].items()
        return {stage: entry["seconds"] for stage, entry in entries if entry.get("seconds") is not None}

    def _discard(self) -> None:
        """Removes what retell wrote here, and nothing else; a folder that is no run folder is left alone."""
        if rank() > 0 or not (self.path / _MANIFEST).is_file():
            return
        files: list[str] = []
        with contextlib.suppress(RunFolderError):  # a manifest that cannot be read goes too
            files = self._manifest()["files"]
        try:
            for name in (*files, *_ALWAYS, "training", "samples", ".gap"):
                if not Path(name).is_absolute() and ".." not in Path(name).parts:  # a manifest may be somebody else's
                    _remove(self.path / name)
            for name in _FOLDERS:
                with contextlib.suppress(OSError):
                    (self.path / name).rmdir()  # what somebody else put there keeps it
        except OSError as error:
            raise _unusable(self.path, error) from error

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Gives a temporary path beside ``name`` and moves it into place when the block ends well.

        Raises:
            StorageError: it cannot be written, as on a full disk.
        """
        if rank() > 0:
            with tempfile.TemporaryDirectory() as nowhere:
                yield Path(nowhere) / Path(name).name
            return
        target = self.path / name
        temporary = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove(temporary)
            yield temporary
            if target.is_dir():
                _remove(target)
            os.replace(temporary, target)
        except OSError as error:
            with contextlib.suppress(OSError):
                _remove(temporary)
            raise StorageError(f"cannot write {target}: {error.strerror or error}; nothing stored is lost") from error
        except BaseException:
            _remove(temporary)
            raise

    @contextlib.contextmanager
    def spool(self, name: str) -> Iterator[Path]:
        """Gives a temporary path beside ``name``; it is gone when the block ends, unless `place` has moved it there."""
        temporary = self.path / f".{name}.tmp"
        _remove(temporary)
        try:
            yield temporary
        finally:
            _remove(temporary)

    def place(self, spool: Path, name: str) -> Path:
        """Moves what was spooled into place.

        Raises:
            StorageError: it cannot be moved.
        """
        target = self.path / name
        try:
            os.replace(spool, target)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror or error}; nothing stored is lost") from error
        return target

    def write_text(self, name: str, text: str) -> None:
        """Writes a whole text file, or leaves the old one."""
        with self.replacing(name) as path:
            path.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the run, or None where it was not written yet."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"cannot read {path}: {error}: mend it, or --restart") from error
        if not isinstance(value, dict):
            raise RunFolderError(f"cannot read {path}: it is no JSON object: mend it, or --restart")
        return value

    def _manifest(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"identity": {}, "stages": {}, "files": []}
        manifest = self.read_json(_MANIFEST) or empty
        if any(type(manifest.get(name)) is not type(value) for name, value in empty.items()):
            raise RunFolderError(f"{self.path / _MANIFEST} was not written by retell: remove it, or --restart")
        return manifest

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        self.write_json(_MANIFEST, manifest)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _unusable(path: Path, error: OSError) -> RunFolderError | StorageError:
    if error.errno == errno.ENOSPC:
        return StorageError(f"cannot write into {path}: the disk is full; make room and start again")
    return RunFolderError(f"cannot write into {path}: {error.strerror or error}: choose another --out")
