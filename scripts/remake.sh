#!/usr/bin/env bash
# Makes again what the repository holds in fits/ and docs/figures/ from the sweep in measurements/ (docs/kv_findings.md
# names the command of kv_*.png). How the measurements were made is in measurements/README.md.
# usage: remake.sh [--keep-fits] [TASK ...]    --keep-fits: no sampling, only what the fits that are there say
# BIN: the folder that holds the tslaw program (.venv/bin after `make install`). A fit takes minutes on a GPU, where JAX
# finds one, and about an hour on two cores; one that was interrupted goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
tslaw() { "${BIN:+$BIN/}tslaw" "$@"; }

# ask TASK: what the fit says, and its figures
ask() {
  local fit=fits/ladder-$1 figures
  {
    tslaw show "$fit.nc" || true  # 1: it failed its diagnostics, and says so
    for bits in 4 8 16; do tslaw crossover "$fit.nc" --weight-bits "$bits"; done
    tslaw findings "$fit.nc"
    tslaw recommend "$fit.nc" --memory 1MiB --memory 4MiB --memory 16MiB
    tslaw predict "$fit.nc" --params 30e6 --weight-bits 8 --token-budget 256
  } | tee "$fit.txt"
  figures=$(mktemp -d)
  tslaw plot "$fit.nc" --out "$figures" --overwrite
  mkdir -p docs/figures
  for kind in memory_accuracy crossover posterior_predictive; do cp "$figures"/*-"$kind".png docs/figures/; done
  rm -r "$figures"
}

# refit TASK
refit() {
  local status=0 settings=(--warmup 400 --samples 700 --target-accept 0.8)
  tslaw fit "measurements/ladder-$1.nc" --out "fits/ladder-$1.nc" "${settings[@]}" --overwrite || status=$?
  [ "$status" -le 1 ] || exit "$status"  # 1: diagnostics failed; such a fit is kept and says so
}

keep=no
if [ "${1-}" = --keep-fits ]; then keep=yes && shift; fi
[ $# -gt 0 ] || set -- math knowledge
for task; do
  tslaw validate "measurements/ladder-$task.nc"
  [ "$keep" = yes ] || refit "$task"
  ask "$task"
done
