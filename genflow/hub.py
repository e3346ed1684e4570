"""Generators on the Hugging Face hub: fetched as a stranger's files, and pushed with a card in its form.

huggingface_hub, which is imported on use, knows the endpoint, the cache, the token and whether to be offline.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from genflow.errors import GenflowError
from genflow.model_card import Card
from genflow.progress import Progress
from genflow.schema import brief
from genflow.storage.files import MAX_JSON, read_text, write_bytes
from genflow.version import __version__

#: a repository, user/name, and perhaps a branch, tag or commit behind it
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,200}))?")
#: what a name begins with that can be nothing else
PREFIX = "hf://"
README = "README.md"
#: the last line of a README that may be written anew
MARK = "<!-- Written by genflow from generator.json. Without this line, it is left as it is. -->"
#: the most measurements in a README; generator.json has all
MAX_ROWS = 50
LIBRARY = "genflownet"
#: the most bytes of a file that is downloaded, by its suffix
MAX_BYTES = {".json": MAX_JSON, ".safetensors": 2**32}


def download(
    repository: str,
    files: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch files of a repository, or find them in the cache of huggingface_hub, and return their folder.

    Args:
        repository: ``user/name``.
        files: the names of the files, of which all must be there; no other is fetched.
        revision, token, cache_dir, local_files_only: as for ``huggingface_hub.snapshot_download``.

    Raises:
        GenflowError: the repository cannot be had, lacks one of the files, or has one that is too large.
    """
    whole = repository if revision is None else f"{repository}@{revision}"
    with _told(f"cannot download {whole}, which is no folder here"):
        import huggingface_hub

        if not local_files_only:
            _check_sizes(repository, files, revision, token)
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            local_files_only=local_files_only,
            allow_patterns=list(files),
            library_name=LIBRARY,
            library_version=__version__,
        )
    missing = [name for name in files if not os.path.isfile(Path(folder) / name)]
    if missing:
        raise GenflowError(f"{whole} on the hub holds no generator: {missing[0]} is missing")
    return Path(folder)


def _check_sizes(
    repository: str, files: Sequence[str], revision: str | None, token: str | bool | None
) -> None:
    found: list[Any] = []
    # what does not work is said by the download, or does not matter to it if all is in the cache
    with contextlib.suppress(Exception):
        found = _api(token).get_paths_info(repository, list(files), revision=revision)
    for each in found:
        size, most = getattr(each, "size", 0), MAX_BYTES.get(os.path.splitext(each.path)[1], math.inf)
        if size > most:
            raise GenflowError(
                f"{repository} on the hub: {brief(each.path)} has {size:,} bytes, more than {most:,}; nothing"
                " was downloaded, as no generator is so large"
            )


def create_repository(
    repository: str, *, private: bool | None = None, token: str | bool | None = None
) -> str:
    """Create a repository, unless it is there, and return its whole name.

    Args:
        repository: ``user/name``, or a name for one of the user whose token it is.
        private, token: as for ``huggingface_hub.create_repo``.

    Raises:
        GenflowError: the hub cannot be reached, or refuses.
    """
    with _told(f"cannot push to {brief(repository)}"):
        return str(_api(token).create_repo(repository, private=private, exist_ok=True).repo_id)


def upload(
    folder: Path,
    files: Sequence[str],
    repository: str,
    *,
    message: str,
    branch: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
) -> str:
    """Commit files of a folder to a repository, and return the address of the commit.

    Args:
        folder: where the files are.
        files: their names.
        repository: ``user/name``.
        message: of the commit.
        branch: to commit to, which is created if it is not there; None means the main one.
        create_pr: open a pull request instead.
        token: as for ``huggingface_hub``.

    Raises:
        GenflowError: the hub cannot be reached, or refuses.
    """
    with _told(f"cannot push to {brief(repository)}"):
        api = _api(token)
        if branch is not None and not create_pr:
            api.create_branch(repository, branch=branch, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message=message,
            revision=branch,
            create_pr=create_pr,
        )
    return str(commit.pr_url if create_pr else commit.commit_url)


def write_readme(folder: Path, card: Card, name: str | None = None) -> None:
    """Write the README of a generator to its folder, unless there is one that is not ours.

    Args:
        folder: of the generator.
        card: its card.
        name: what the README calls it, by default the name of the folder.

    Raises:
        GenflowError: the file cannot be written.
    """
    path = folder / README
    if not os.path.exists(path) or _is_ours(path):
        write_bytes(path, readme(card, name or Path(os.path.abspath(folder)).name).encode())


def _is_ours(path: Path) -> bool:
    try:
        return read_text(path).rstrip().endswith(MARK)
    except GenflowError:  # ours is a text in UTF-8 that can be read
        return False


def readme(card: Card, name: str) -> str:
    """Return the model card in the hub's form, Markdown under YAML, for a generator of this name.

    If the name is the id of a repository, the example loads it from there, else from a folder to fill in.
    """
    import huggingface_hub

    name = _plain(name)
    source = name if HUB_ID.fullmatch(name) else "path/to/generator"
    shown = sorted(card.quality, key=lambda entry: entry.role != "test")[:MAX_ROWS]
    results = [
        huggingface_hub.EvalResult(
            task_type="reinforcement-learning",
            task_name="generated GFlowNet policies",
            dataset_type=card.env,
            dataset_name=card.env,
            dataset_config=_plain(entry.name),
            dataset_split=entry.role,
            metric_type=_plain(metric),
            metric_name=f"{_plain(metric)}, mean of {entry.num} generated policies",
            metric_value=value,
        )
        for entry in shown
        for metric, value in entry.metrics.items()
        if value is not None
    ]
    license_name = card.provenance.get("license")
    data = huggingface_hub.ModelCardData(
        library_name=LIBRARY,
        license=_plain(license_name) if license_name else None,
        tags=["gflownet", "weight-generation", "hypernetwork", "diffusion", card.env],
        model_name=name if results else None,
        eval_results=results or None,
    )
    num = len(card.training_structures)
    example = _plain(shown[0].name) if shown else "STRUCTURE"
    lines = [
        f"# {name}",
        "",
        f"A generator of GFlowNet policies for the environment `{card.env}`, architecture `{card.policy}`. It"
        f" was trained on policies of {num:,} structure{'s' * (num != 1)}, and makes the weights of policies"
        " for these and for others.",
        "",
        "```python",
        "import genflow  # the distribution is called genflownet",
        "",
        f'policies = genflow.generate("{card.env}", "{example}", num=8, generator="{source}")',
        "```",
    ]
    if card.coverage:
        lines += ["", "## What it covers", "", "| field | from | to |", "|---|---|---|"]
        lines += [f"| `{_plain(key)}` | {low:g} | {high:g} |" for key, (low, high) in card.coverage.items()]
    if shown:
        metrics = list(dict.fromkeys(metric for entry in shown for metric in entry.metrics))
        lines += [
            "",
            "## How good its policies are",
            "",
            "Means, in brackets those of untrained policies. No structure here was trained on.",
            "",
            f"| structure | role | policies | {' | '.join(map(_plain, metrics))} |",
            "|---" * (3 + len(metrics)) + "|",
        ]
        for entry in shown:
            figures = [_figure(entry.metrics.get(m), entry.untrained.get(m)) for m in metrics]
            cells = [_plain(entry.name), entry.role, str(entry.num), *figures]
            lines.append(f"| {' | '.join(cells)} |")
        if more := len(card.quality) - len(shown):
            lines += ["", f"`generator.json` has {more} more."]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join([*lines, "", MARK, ""])


def _plain(text: object) -> str:
    """A text of a file in one cell of a table."""
    return re.sub(r"[|`<>\"\\]", "", brief(str(text), 200))


def _figure(value: float | None, untrained: float | None) -> str:
    own, other = ("-" if each is None else f"{each:.3g}" for each in (value, untrained))
    return own if untrained is None else f"{own} ({other})"


def _api(token: str | bool | None) -> Any:
    import huggingface_hub

    return huggingface_hub.HfApi(token=token, library_name=LIBRARY, library_version=__version__)


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Say in one line what goes wrong at the hub, whose library is quiet meanwhile.

    Raises:
        GenflowError: `where`, why, and what to do. Mistakes in code are raised as they are.
    """
    from huggingface_hub import errors, utils

    quiet = not sys.stderr.isatty() or Progress.current().quiet
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    hide = quiet and not utils.are_progress_bars_disabled()
    if hide:
        utils.disable_progress_bars()
    try:
        yield
    except errors.GatedRepoError as error:
        raise GenflowError(f"{where}: access is restricted; ask for it at the hub and log in") from error
    except errors.RevisionNotFoundError as error:
        raise GenflowError(f"{where}: the repository has no such branch, tag or commit") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise GenflowError(
            f"{where}: the hub has no such repository, or not for you; check the spelling"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise GenflowError(f"{where}: the hub cannot be reached; go online") from error
    except errors.LocalTokenNotFoundError as error:
        raise GenflowError(f"{where}: log in with `hf auth login`, or set HF_TOKEN") from error
    except (GenflowError, AttributeError, LookupError, NameError, TypeError):
        raise
    except Exception as error:  # those of requests, httpx and hf_xet have no class in common
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise GenflowError(
                f"{where}: you may not; run `hf auth login`, or set HF_TOKEN to a token that may write"
            ) from error
        # httpx's and requests' errors derive from OSError or Exception by version
        if any(cls.__name__ == "TransportError" for cls in type(error).__mro__):
            raise GenflowError(f"{where}: the hub cannot be reached; go online") from error
        raise GenflowError(f"{where}: {type(error).__name__}: {brief(str(error))}") from error
    finally:
        logger.setLevel(level)
        if hide:
            utils.enable_progress_bars()
