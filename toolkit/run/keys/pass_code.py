"""A pass's identity, settings and code, for the keys of steps that use it."""

from __future__ import annotations

from uuid import uuid4

from toolkit.base.given import code_print
from toolkit.base.modules import OWN_PACKAGES, module_fingerprint
from toolkit.contract.installed import installed_passes, named
from toolkit.contract.passes import Pass

SETTINGS = 3
"""Index of the first code entry in the list that ``pass_code`` returns; class and settings come before."""


def pass_code(step: Pass) -> list[str]:
    """The pass's class, its settings, and its code unless it is qtool's own, which is in every key anyway."""
    kind = type(step)
    try:
        settings = step.model_dump_json()
    except Exception:
        # settings that cannot be written as JSON: a random key, so no result is reused
        settings = uuid4().hex
    found = [kind.__module__, kind.__qualname__, settings]
    for module in (kind.__module__, *(name.partition(":")[0] for name in step.code_named())):
        if module.partition(".")[0] not in OWN_PACKAGES:
            found.append(code_print(kind) if module == "__main__" else module_fingerprint(module))
    found += [named(entry.dist) for entry in installed_passes().values()
              if entry.dist is not None and entry.value == f"{kind.__module__}:{kind.__name__}"]  # fmt: skip
    return found
