"""A folder sent to the Hugging Face hub as a data set: what would be sent is known first, and is sent as it was shown.

The token is the hub's own affair: it comes from the environment or its login, and goes nowhere but to the hub.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retell.errors import HubError, MissingExtraError, RecipeError, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SHARD = re.compile(r"data/train-\d{5}-of-\d{5}\.parquet")
_PRIVATE = {True: "private", False: "public"}


@dataclass(frozen=True, slots=True)
class Shipment:
    """What would be sent where: files with their sizes in bytes, and what it does to a repository that is there.

    ``head`` is the commit that the repository is at, None where there is none yet; ``replaced`` and ``removed`` are
    files there, the latter shards of an earlier export.
    """

    repo: str
    endpoint: str
    public: bool
    folder: Path
    files: tuple[tuple[str, int], ...]
    head: str | None
    replaced: tuple[str, ...]
    removed: tuple[str, ...]


def check_push(repo: str) -> None:
    """What can be known to be wrong before anything is made.

    Raises:
        RequestError: the name is none, there is no token, or the hub's library is not installed.
    """
    try:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    if repo.count("/") != 1:
        raise RecipeError(f"--push {repo!r} is no name of a data set: it is OWNER/NAME")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise RecipeError(f"--push {repo!r} is no name of a data set: {first_line(error)}") from error
    _token()


def prepare(folder: Path, repo: str, *, public: bool) -> Shipment:
    """What sending a folder comes to; the hub is asked what is there and told nothing else.

    Raises:
        RecipeError: the repository is there, and not as private or public as is asked for.
        HubError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    files = tuple(
        (path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )
    names = {name for name, _ in files}
    api = _api()
    with _asking(repo, api):
        try:
            there = api.dataset_info(repo)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return Shipment(repo, api.endpoint, public, folder, files, None, (), ())
    if bool(there.private) is public:
        raise RecipeError(
            f"{repo} is there already and {_PRIVATE[bool(there.private)]}, which sending does not change: "
            + ("say --public if everyone may see this" if not public else "leave out --public, or set it on its page")
        )
    held = [file.rfilename for file in there.siblings or ()]
    replaced = tuple(name for name in held if name in names)
    removed = tuple(name for name in held if name not in names and _SHARD.fullmatch(name))
    return Shipment(repo, api.endpoint, public, folder, files, there.sha, replaced, removed)


def send(shipment: Shipment) -> dict[str, Any]:
    """Makes the repository, if it is not there, and sends the folder; returns where it is.

    Raises:
        HubError: the hub cannot be reached, or refuses.
    """
    api = _api()
    with _asking(shipment.repo, api):
        if shipment.head is None:
            api.create_repo(shipment.repo, repo_type="dataset", private=not shipment.public)
        commit = api.upload_folder(
            repo_id=shipment.repo,
            repo_type="dataset",
            folder_path=shipment.folder,
            commit_message=f"Export of retell {version('retell')}",
            delete_patterns=list(shipment.removed) or None,
            parent_commit=shipment.head,
        )
    return {
        "repo": shipment.repo,
        "url": f"{shipment.endpoint}/datasets/{shipment.repo}",
        "visibility": _PRIVATE[not shipment.public],
        "commit": commit.oid,
    }


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(token=_token(), library_name="retell", library_version=version("retell"))


def _token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise RecipeError("the hub needs to know who you are: set HF_TOKEN, or log in with `hf auth login`")
    if not (token.isascii() and token.isprintable()) or " " in token:
        # The libraries below would show it in their complaint.
        raise RecipeError("the token for the hub holds a character that no token has: check HF_TOKEN")
    return token


@contextlib.contextmanager
def _asking(repo: str, api: "HfApi") -> Iterator[None]:
    """Turns what goes wrong with the hub into an error for people, in which the token does not stand."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or first_line(error)
        hints = {
            401: "it does not know your token: log in with `hf auth login`, or set HF_TOKEN",
            403: f"your token may not write to {repo}: choose an owner that you are or belong to, or another token",
            409: "somebody made it meanwhile: start again to see what is there",
            412: "it changed meanwhile: start again to see what is there",
        }
        hint = hints.get(status, "start again")
        raise HubError(_without(api.token, f"the hub refuses {repo}: {said} ({status}); {hint}")) from None
    except Exception as error:
        why = first_line(error.__cause__ or error)
        message = f"the hub at {api.endpoint} cannot be used: {why}; check the network, and start again"
        raise HubError(_without(api.token, message)) from None


def _without(token: str | bool | None, message: str) -> str:
    return message.replace(token, "…") if isinstance(token, str) else message
