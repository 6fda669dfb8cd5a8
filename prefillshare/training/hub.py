"""Finished results on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from prefillshare.errors import ConfigError, PrefillShareError
from prefillshare.training.settings import RunSettings


def repositories(repository: str, directories: Sequence[Path]) -> dict[str, Path]:
    """The repository of each result: `repository`, or of several `repository-NAME`.

    Several decoders lie in `NAME/decoder` each; beside them a module, if there is one,
    which is `repository`.
    """
    if len(directories) == 1:
        return {repository: directories[0]}
    return {
        f"{repository}-{each.parent.name}"
        if each.name == "decoder"
        else repository: each
        for each in directories
    }


def require_publishable(settings: RunSettings, directories: Sequence[Path]) -> None:
    """Ask the hub, before a run, whether its results may be uploaded after it.

    Raises:
        ConfigError: a repository's name is not one, or the hub cannot be reached, has
            no token of this machine's user, or has one that may only read.
    """
    if settings.push_to_hub is None:
        return
    wanted = repositories(settings.push_to_hub, directories)
    try:
        for repository in wanted:
            validate_repo_id(repository)
        token = HfApi().whoami()["auth"].get("accessToken", {})
    except HFValidationError as error:
        raise ConfigError(
            f"push_to_hub gives {', '.join(wanted)}: {error}; choose another name"
        ) from error
    # What the hub's HTTP client raises has no base that the hub exports.
    except Exception as error:
        raise ConfigError(
            f"push_to_hub names {', '.join(wanted)}, but nothing can be uploaded: "
            f"{error}; log in by `hf auth login` or HF_TOKEN, or leave push_to_hub out"
        ) from error
    if token.get("role") == "read":
        raise ConfigError(
            f"push_to_hub names {', '.join(wanted)}, but the token may only read; use "
            "one that may write, or leave push_to_hub out"
        )


def publish(settings: RunSettings, directories: Sequence[Path]) -> None:
    """Upload finished results, where `push_to_hub` says so.

    Raises:
        PrefillShareError: an upload failed; the directories are as they were, and the
            message says how to upload by hand what is not on the hub yet.
    """
    if settings.push_to_hub is None:
        return
    left = repositories(settings.push_to_hub, directories)
    for repository, directory in list(left.items()):
        try:
            _upload(repository, directory, private=settings.hub_private)
        # Whatever went wrong, the result is saved and the user has to be told so.
        except Exception as error:
            raise PrefillShareError(
                f"{directory} is saved, but was not uploaded to {repository}: {error}; "
                f"to upload by hand: {_by_hand(left, settings.hub_private)}"
            ) from error
        del left[repository]


def _upload(repository: str, directory: Path, *, private: bool) -> None:
    api = HfApi()
    # The hub completes a name without a namespace by the user's.
    made = api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=made.repo_id,
        folder_path=directory,
        commit_message="Upload by prefillshare",
    )


def _by_hand(left: dict[str, Path], private: bool) -> str:
    option = " --private" if private else ""
    return " && ".join(f"hf upload {r} {d} .{option}" for r, d in left.items())
