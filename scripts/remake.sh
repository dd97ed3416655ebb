#!/usr/bin/env bash
# Makes again what the repository holds in fits/ and docs/figures/ from the sweep in measurements/ (docs/kv_findings.md
# names the command of kv_*.png). How the measurements were made is in measurements/README.md.
# usage: remake.sh [--keep-fits] [TASK ...]    --keep-fits: no sampling, only what the fits that are there say
# A TASK is math, knowledge, or kv-knowledge: full and compressed KV caches together, for which a GPU is needed.
# BIN: the folder that holds the tslaw program (.venv/bin after `make install`). A fit takes minutes on a GPU, where JAX
# finds one, and about an hour on two cores; one that was interrupted goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
tslaw() { "${BIN:+$BIN/}tslaw" "$@"; }

# fit_of TASK: the file a task's fit is in
fit_of() { case $1 in kv-*) echo "fits/$1" ;; *) echo "fits/ladder-$1" ;; esac; }

# ask TASK: what the fit says
ask() {
  local fit bits cache
  fit=$(fit_of "$1")
  {
    tslaw show "$fit.nc" || true  # 1: it failed its diagnostics, and says so
    case $1 in
      kv-*)
        tslaw findings "$fit.nc" --batch 16
        tslaw recommend "$fit.nc" --batch 16 --memory 256KiB --memory 1MiB --memory 4MiB
        for cache in full quantized:3 rkv:96 streaming:48; do
          tslaw predict "$fit.nc" --params 5e6 --kv-policy "$cache" --token-budget 192
        done
        ;;
      *)
        for bits in 4 8 16; do tslaw crossover "$fit.nc" --weight-bits "$bits"; done
        tslaw findings "$fit.nc"
        tslaw recommend "$fit.nc" --memory 1MiB --memory 4MiB --memory 16MiB
        tslaw predict "$fit.nc" --params 30e6 --weight-bits 8 --token-budget 256
        ;;
    esac
  } | tee "$fit.txt"
}

# draw TASK: the figures that the documents show
draw() {
  local figures
  figures=$(mktemp -d)
  tslaw plot "$(fit_of "$1").nc" --out "$figures" --overwrite
  mkdir -p docs/figures
  for kind in memory_accuracy crossover posterior_predictive; do cp "$figures"/*-"$kind".png docs/figures/; done
  rm -r "$figures"
}

# refit TASK
refit() {
  local status=0 data=("measurements/ladder-${1#kv-}.nc") settings=(--warmup 400 --samples 700 --target-accept 0.8)
  case $1 in kv-*)
    data+=("measurements/kv/ladder-${1#kv-}.nc" --compressed-kv --weight-bits 16 --problems 64)
    settings=(--chains 8 --warmup 300 --samples 900 --thin 6 --target-accept 0.8)
    ;;
  esac
  tslaw fit "${data[@]}" --out "$(fit_of "$1").nc" "${settings[@]}" --overwrite || status=$?
  [ "$status" -le 1 ] || exit "$status"  # 1: diagnostics failed; such a fit is kept and says so
}

keep=no
if [ "${1-}" = --keep-fits ]; then keep=yes && shift; fi
[ $# -gt 0 ] || set -- math knowledge kv-knowledge
for task; do
  tslaw validate "measurements/ladder-${task#kv-}.nc"
  [ "$keep" = yes ] || refit "$task"
  ask "$task"
  case $task in kv-*) ;; *) draw "$task" ;; esac
done
