"""Stand-ins for the programs that job scripts call: `sbatch`, `srun`, `scontrol`, and `mtl` without its start-up.

`sbatch` runs a script at once, each task of an array in turn with SLURM's variables; an option, or a `#SBATCH` line,
that is not known is an error. `mtl` is run by a process forked from one that has imported everything.
"""

import json
import os
import socketserver
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.processes import environment, start
from helpers.shared_search import command

SBATCH = r"""#!/usr/bin/env bash
set -euo pipefail
known='job-name|array|gpus|gpus-per-node|nodes|ntasks-per-node|cpus-per-task|time|requeue|mem|partition'
parsable='' array='' nodes=1 gpus=1 wrap='' script='' jobs="$STANDIN/jobs"
take() {
  case $1 in
    --array=*) array=${1#*=} ;;
    --nodes=*) nodes=${1#*=} ;;
    --gpus-per-node=*) gpus=${1#*=} ;;
    --dependency=after*:*) grep -qx "${1##*:}" "$jobs" || { echo "sbatch: no job ${1##*:}" >&2; exit 1; } ;;
    *) [[ ${1%%=*} =~ ^--($known)$ ]] || { echo "sbatch: unknown option $1" >&2; exit 1; } ;;
  esac
}
while (($#)); do
  case $1 in
    --parsable) parsable=1 ;;
    --wrap) wrap=$2; shift ;;
    --*) take "$1" ;;
    *) script=$1 ;;
  esac
  shift
done
if [[ $wrap ]]; then printf '#!/bin/sh\n%s\n' "$wrap" > "$STANDIN/wrapped"; script=$STANDIN/wrapped; fi
while read -r option; do take "$option"; done < <(sed -n 's/^#SBATCH //p' "$script")
touch "$jobs"
job=$(($(wc -l < "$jobs") + 1))
echo "$job" >> "$jobs"
export SLURM_JOB_ID=$job SLURM_NNODES=$nodes SLURM_JOB_NODELIST="node[1-$nodes]" SLURM_GPUS_ON_NODE=$gpus
if [[ $array ]]; then
  export SLURM_ARRAY_TASK_MIN=${array%-*} SLURM_ARRAY_TASK_MAX=${array#*-} SLURM_ARRAY_TASK_STEP=1
  export SLURM_ARRAY_TASK_COUNT=$((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1))
  for task in $(seq "$SLURM_ARRAY_TASK_MIN" "$SLURM_ARRAY_TASK_MAX"); do
    SLURM_ARRAY_TASK_ID=$task bash "$script" >&2
  done
else
  bash "$script" >&2
fi
if [[ $parsable ]]; then echo "$job"; else echo "Submitted batch job $job"; fi
"""
SRUN = r"""#!/usr/bin/env bash
case $1 in -*) echo "srun: unknown option $1" >&2; exit 1 ;; esac
pids=()
for node in $(seq "${SLURM_NNODES:-1}"); do SLURM_NODEID=$((node - 1)) "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit $?; done
"""
SCONTROL = r"""#!/usr/bin/env bash
[[ "$1 $2" == "show hostnames" && $3 == node* ]] || exit 1
echo 127.0.0.1; echo node2
"""
TORCHRUN = r"""#!/usr/bin/env bash
exec PYTHON -m torch.distributed.run "$@"
"""
MTL = r"""#!/usr/bin/env -S python3 -S
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link, link.makefile("rw") as file:
    link.connect(os.environ["STANDIN"] + "/socket")
    slurm = {name: value for name, value in os.environ.items() if name.startswith(("SLURM", "PG"))}
    print(json.dumps([sys.argv[1:], os.getcwd(), slurm]), file=file, flush=True)
    code, out, err = json.loads(file.readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""
PROGRAMS = {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL, "torchrun": TORCHRUN, "mtl": MTL}


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        words, folder, variables = json.loads(self.rfile.readline())
        ended = start(command, *words, cwd=Path(folder), env=environment(**variables)).end()
        self.wfile.write((json.dumps(ended) + "\n").encode())


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def stand_ins(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which they are found; `folder` is theirs."""
    for name, text in PROGRAMS.items():
        path = folder / name
        path.write_text(text.replace("PYTHON", sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    server = _Server(str(folder / "socket"), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}", STANDIN=str(folder))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
