"""Arrays in mapped files, looked at by several threads."""

from __future__ import annotations

import sys
import threading

import numpy as np

from toolkit.base.mapped import map_file, release_pages

ROUNDS = 40


def test_pages_are_let_go_of_while_other_threads_map_files(tmp_path):
    path, errors, mapping = tmp_path / "values", list[Exception](), [True, True]
    path.write_bytes(np.arange(1024, dtype=np.int32).tobytes())

    def maps():
        try:
            for _ in range(ROUNDS):
                with path.open("rb") as stream:
                    held = [map_file(stream, path) for _ in range(50)]
                assert np.frombuffer(held[0], np.int32)[-1] == 1023
        finally:
            mapping.pop()

    def releases():
        try:
            while mapping and not errors:
                release_pages()
        except RuntimeError as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for work in (maps, maps, releases, releases)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors
