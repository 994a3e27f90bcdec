# On the GPU host, in the repository's root, after gpu-host/unpack.sh: `. tests/benchmarks/gpu_env.sh`.
# Adds to TensorRT's environment the run-time compiler, this repository and the entry points of its passes.
. /tmp/gpu/env.sh
nvrtc=$(find / -name 'libnvrtc.so*' -not -path '/proc/*' 2>/dev/null | head -n 1 || true)
[ -z "$nvrtc" ] || export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$(dirname "$nvrtc")
export PYTHONPATH=$PYTHONPATH:$PWD PYTHONUNBUFFERED=1 POLYGRAPHY_AUTOINSTALL_DEPS=0
[ -d /tmp/gpu/site/qtool-*.dist-info ] || python3.10 - <<'E2'
import pathlib
import tomli
project = tomli.loads(pathlib.Path("pyproject.toml").read_text())["project"]
info = pathlib.Path("/tmp/gpu/site") / f"qtool-{project['version']}.dist-info"
info.mkdir(parents=True, exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: qtool\nVersion: {project['version']}\n")
lines = ["[qtool.passes]", *(f"{k} = {v}" for k, v in project["entry-points"]["qtool.passes"].items())]
(info / "entry_points.txt").write_text("\n".join(lines) + "\n")
E2
# Its command, whose first line names the interpreter of the machine that packed it.
mkdir -p /tmp/gpu/commands && export PATH=/tmp/gpu/commands:$PATH
printf '#!/bin/sh\nexec python3.10 -c "from polygraphy.tools import main; main()" "$@"\n' > /tmp/gpu/commands/polygraphy
chmod +x /tmp/gpu/commands/polygraphy
