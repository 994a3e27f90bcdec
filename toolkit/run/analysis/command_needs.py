"""The files that the verdicts of a user's command depend on, as far as they are known."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from toolkit.base.needs import Needs, digest_of


def command_needs(command: str, reads: Sequence[Path]) -> Needs:
    """The content of the files named in the command and of the files it is declared to read.

    Args:
        command: the command; its first word is looked up on the PATH.
        reads: files and folders that it reads. If empty, it is unknown what else it reads.
    """
    first, *rest = shlex.split(command)
    words = [shutil.which(first) or first, *rest]
    # an option may carry a file name: --config=limits.json
    names = {part for word in words for part in (word, word.partition("=")[2]) if part}
    files = {path.absolute() for name in names if (path := Path(name)).is_file()}
    for path in reads:
        files |= {file.absolute() for file in path.rglob("*") if file.is_file()} if path.is_dir() else {path.absolute()}
        if path.is_dir():
            # a file that is added to the folder changes it too
            files |= {folder.absolute() for folder in (path, *path.rglob("*")) if folder.is_dir()}
    unknown = [] if reads else ["the files that --command reads are not known; name them with --reads"]
    return Needs(files={str(file): digest_of(str(file)) for file in sorted(files)}, unknown=unknown)
