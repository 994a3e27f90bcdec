"""What the verdicts of a command of the user's depend on, as far as it can be known."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from toolkit.base.needs import Needs, digest_of


def command_needs(command: str, reads: Sequence[Path]) -> Needs:
    """The content of the files that the command's words name and that it is said to read.

    Args:
        command: the command; its first word is looked for as a shell would.
        reads: files and folders that it reads. Without any, what else it reads is not known.
    """
    first, *rest = shlex.split(command)
    words = [shutil.which(first) or first, *rest]
    # a setting may carry a file's name: --config=limits.json
    names = {part for word in words for part in (word, word.partition("=")[2]) if part}
    files = {path.absolute() for name in names if (path := Path(name)).is_file()}
    for path in reads:
        files |= {file.absolute() for file in path.rglob("*") if file.is_file()} if path.is_dir() else {path.absolute()}
        if path.is_dir():
            # a folder with one more file is a different one
            files |= {folder.absolute() for folder in (path, *path.rglob("*")) if folder.is_dir()}
    unknown = [] if reads else ["what --command reads is not known; name it with --reads"]
    return Needs(files={str(file): digest_of(str(file)) for file in sorted(files)}, unknown=unknown)
