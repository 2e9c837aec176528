"""Models push and pull: share models through the Hugging Face Hub."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nilr.checkpoint import read_manifest
from nilr.config.models import ImportSettings, PullSettings, PushSettings
from nilr.data.pack import open_pack
from nilr.errors import NilrError, StoreError, UsageError
from nilr.recipes.common.packs import find_training_pack
from nilr.recipes.models import FILES, Pushed, check_file, importing
from nilr.recipes.models.card import write_card
from nilr.reporting import Reporter
from nilr.results.commands import ImportMetrics
from nilr.results.result import Result
from nilr.store import CHECKPOINTS, TRAINING_STATE, Store

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CARD = "README.md"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"hf://({_PART}/{_PART})(?:@([A-Za-z0-9._/-]+))?")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def push(settings: PushSettings, reporter: Reporter) -> Pushed:
    """Check a model and upload it in one commit; its training state stays here."""
    if settings.model is None:
        raise UsageError("no model is named", hint="write NAME hf://USER/REPO")
    repo, revision = _repository(settings.repo)
    if revision is not None:
        raise UsageError(f"`{settings.repo}` names a revision", hint="leave @REVISION out; a push makes a new one")
    if settings.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", settings.licence):
        raise UsageError(f"`{settings.licence}` is not the name of a licence", hint="use one such as cc-by-4.0 or mit")
    store = Store(settings.home)
    directory = store.require_model(settings.model)
    files = [directory / name for name in FILES if (directory / name).is_file() and name != TRAINING_STATE]
    for file in files:
        check_file(file)
    ref = store.find_model(settings.model)
    manifest = read_manifest(ref.file)
    pack = find_training_pack(store, manifest.data.name, manifest.data.digest)
    card = write_card(
        ref.name,
        repo,
        manifest,
        licence=settings.licence,
        data_licence=open_pack(pack).info.licence if pack else None,
    )
    notes = []
    with _hub(repo) as api:
        from huggingface_hub import CommitOperationAdd, get_token

        if get_token() is None:
            raise NilrError("uploading to the Hugging Face Hub needs a token", hint=_LOG_IN)
        url = api.create_repo(repo, private=settings.private, exist_ok=True)
        contents = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files]
        if _CARD in api.list_repo_files(repo) and not settings.force:
            notes.append(f"The repository keeps its {_CARD}; --force replaces it.")
        else:
            contents.append(CommitOperationAdd(path_in_repo=_CARD, path_or_fileobj=card.encode()))
        reporter.stage("upload", len(contents), unit="files")
        api.create_commit(repo, contents, commit_message=f"Add the model {ref.name}")
    return Pushed(str(url), [content.path_in_repo for content in contents], notes)


def pull(settings: PullSettings, reporter: Reporter) -> Result[ImportMetrics]:
    """Download the files of a model, and import them as from any directory."""
    repo, revision = _repository(settings.repo)
    name = settings.name or repo.partition("/")[2]
    Store(settings.home).model_dir(name)
    with tempfile.TemporaryDirectory(prefix="nilr-pull-") as place:
        directory = Path(place) / name
        with _hub(repo) as api:
            there = api.list_repo_files(repo, revision=revision)
            names = [file for file in FILES if file in there]
            if not set(names) & set(CHECKPOINTS.values()):
                expected = " or ".join(CHECKPOINTS.values())
                raise StoreError(f"`{repo}` contains no model of nilr", hint=f"expected {expected} in the repository")
            reporter.stage("download", len(names), unit="files")
            for file in names:
                api.hf_hub_download(repo, file, revision=revision, local_dir=directory)
                reporter.advance()
        return importing.run(
            ImportSettings(sources=(directory,), name=name, force=settings.force, home=settings.home), reporter
        )


def _repository(text: str | None) -> tuple[str, str | None]:
    """Return user/repo and the revision, if any."""
    found = _REPO.fullmatch(text or "")
    if found is None or "--" in found[1] or ".." in found[1]:
        what = "no repository is named" if text is None else f"`{text}` is not a repository"
        raise UsageError(what, hint="write hf://USER/REPO, with letters, digits, - _ and .")
    return found[1], found[2]


@contextlib.contextmanager
def _hub(repo: str) -> Iterator["HfApi"]:
    """Yield the client of the Hub; its errors become one clear error."""
    try:
        from huggingface_hub import HfApi, errors
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise NilrError("huggingface_hub is not installed", hint="install it: pip install 'nilr[hub]'") from error
    disable_progress_bars()
    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="nilr")
    except NilrError:
        raise
    except errors.RevisionNotFoundError as error:
        raise StoreError(f"`{repo}` has no such revision", hint="use a branch, a tag or a commit") from error
    except errors.GatedRepoError as error:
        raise StoreError(f"access to `{repo}` must be requested on the Hub", hint=_LOG_IN) from error
    except errors.RepositoryNotFoundError as error:
        hint = f"check the name; if it is private, {_LOG_IN}"
        raise StoreError(f"there is no repository `{repo}`, or it is private", hint=hint) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"check the token's rights; {_LOG_IN}" if status in (401, 403) else "try again later"
        raise StoreError(f"the Hugging Face Hub refused: {_line(error.server_message or error)}", hint=hint) from error
    except Exception as error:  # of the network, of types that depend on the version of huggingface_hub
        raise StoreError(
            f"the Hugging Face Hub cannot be reached: {_line(error)}",
            hint="check the network, HF_ENDPOINT and HF_HUB_OFFLINE",
        ) from error


def _line(error: object) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
