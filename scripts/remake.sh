#!/usr/bin/env bash
# Makes again what the repository holds in fits/ and docs/figures/ from the sweep in measurements/ (docs/kv_findings.md
# names the command of kv_*.png). How the measurements were made is in measurements/README.md.
# usage: remake.sh [TASK ...]    (BIN: the folder that holds the tslaw program, .venv/bin after `make install`)
set -euo pipefail
cd "$(dirname "$0")/.."
tslaw() { "${BIN:+$BIN/}tslaw" "$@"; }

# ask TASK: what the fit says, and its figures
ask() {
  local fit=fits/ladder-$1 figures
  {
    for bits in 4 8 16; do tslaw crossover "$fit.nc" --weight-bits "$bits"; done
    tslaw findings "$fit.nc"
    tslaw recommend "$fit.nc" --memory 1MiB --memory 4MiB --memory 16MiB
    tslaw predict "$fit.nc" --params 30e6 --weight-bits 8 --token-budget 256
  } | tee -a "$fit.txt"
  figures=$(mktemp -d)
  tslaw plot "$fit.nc" --out "$figures" --overwrite
  mkdir -p docs/figures
  for kind in memory_accuracy crossover posterior_predictive; do cp "$figures"/*-"$kind".png docs/figures/; done
  rm -r "$figures"
}

[ $# -gt 0 ] || set -- math knowledge
for task; do
  data=measurements/ladder-$task.nc
  tslaw validate "$data"
  status=0
  tslaw fit "$data" --out "fits/ladder-$task.nc" --warmup 300 --samples 1000 --overwrite |
    tee "fits/ladder-$task.txt" || status=$?
  [ "$status" -le 1 ] || exit "$status"  # 1: diagnostics failed; such a fit is kept and says so
  ask "$task"
done
