"""What user code may read according to its source: environment variables, files named in it, libraries."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from toolkit.base.modules import OWN_PACKAGES, imported_names, is_stdlib, sources_of
from toolkit.base.needs import Needs, digest_of, variable_digest, version_of

_NATIVE = frozenset({
    "cv2", "h5py", "tables", "lmdb", "netCDF4", "rasterio", "osgeo", "av", "decord", "soundfile", "torchaudio",
    "torchvision", "tensorflow", "jax", "pyarrow", "polars", "duckdb", "tokenizers", "transformers", "sentencepiece",
    "ctypes", "cffi", "lxml", "pyvips", "skimage", "SimpleITK", "rocksdb", "multiprocessing", "joblib", "loky", "dask",
    "ray",
})  # fmt: skip
"""Packages that open files in native code or in other processes, which Python does not observe."""
_TEXT = re.compile(r"""(["'])((?:(?!\1)[^\\\n]){1,200})\1""")
_FILE = re.compile(r"[\w./ ~+=@-]*[\w~-]\.[A-Za-z][\w-]{0,8}")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_MOST = 400
"""Most file names to check per source file; a source with more consists of data."""


def source_needs(modules: Iterable[str], loaded: Iterable[str], base: Path) -> Needs:
    """The needs of modules that no audit hook observes, as far as their sources mention them.

    Args:
        modules: names of modules that the recipe names, or that define its objects.
        loaded: source files that were loaded for these modules.
        base: folder of the recipe.
    """
    found = Needs()
    files = {str(file) for name in modules for file in sources_of(name).files.values()} | set(loaded)
    for file in sorted(files):
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        _names_in(text, (Path(file).parent, base, Path.cwd()), found)
        for name in imported_names(text):
            top = name.partition(".")[0]
            if top in _NATIVE:
                found.unknown.append(f"{Path(file).name} imports {top}, which reads what Python does not see")
            if not is_stdlib(top) and top not in OWN_PACKAGES:
                for distribution in _distributions().get(top, ()):
                    found.libraries[distribution] = version_of(distribution)
    found.unknown = list(dict.fromkeys(found.unknown))
    return found


def _names_in(text: str, folders: Iterable[Path], found: Needs) -> None:
    """Add the environment variables and files whose names appear in a source text."""
    words = list(dict.fromkeys(match[2] for match in _TEXT.finditer(text)))
    if "environ" in text or "getenv" in text:
        found.environment.update({word: variable_digest(word) for word in words if _VARIABLE.fullmatch(word)})
    names = [word for word in words if _FILE.fullmatch(word)][:_MOST]
    # existence of a file can be checked without opening it
    for path in {str(folder / Path(name)) for name in names for folder in folders}:
        found.files[path] = digest_of(path)


@functools.lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()
