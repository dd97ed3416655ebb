#!/usr/bin/env bash
# Makes again what the repository holds in measurements/cpu/, fits/ and docs/figures/: about half an hour on two cores.
# usage: remake.sh [--fit-only]    (BIN: the folder that holds the tslaw program, .venv/bin after `make install`)
set -euo pipefail
cd "$(dirname "$0")/.."
tslaw() { "${BIN:+$BIN/}tslaw" "$@"; }
data=measurements/cpu

if [ "${1:-}" != --fit-only ]; then
  tslaw measure ladder-cpu --out "$data" --overwrite
fi
tslaw validate "$data"/*.nc

# fit_and_ask TASK SAMPLES: the posterior of one task, what it says, and its figures
fit_and_ask() {
  local fit=fits/ladder-cpu-$1 figures
  tslaw fit "$data/ladder-$1.nc" --out "$fit.nc" --samples "$2" --overwrite | tee "$fit.txt"
  {
    for bits in 4 8 16; do tslaw crossover "$fit.nc" --weight-bits "$bits"; done
    tslaw recommend "$fit.nc" --memory 1MiB --memory 4MiB --memory 16MiB
    tslaw predict "$fit.nc" --params 30e6 --weight-bits 8 --token-budget 256
  } | tee -a "$fit.txt"
  figures=$(mktemp -d)
  tslaw plot "$fit.nc" --out "$figures" --overwrite
  mkdir -p docs/figures
  for kind in memory_accuracy crossover posterior_predictive; do cp "$figures"/*-"$kind".png docs/figures/; done
  rm -r "$figures"
}

fit_and_ask math 800
fit_and_ask knowledge 2200  # its steep steps between solving and not make alpha move slowly
