#!/usr/bin/env bash
# Makes again what the repository holds in measurements/cpu/, fits/ and docs/figures/: about half an hour on two cores.
# usage: remake.sh [--fit-only]    (BIN: the folder that holds the tslaw program, .venv/bin after `make install`)
set -euo pipefail
cd "$(dirname "$0")/.."
tslaw() { "${BIN:+$BIN/}tslaw" "$@"; }
data=measurements/cpu fit=fits/ladder-cpu

if [ "${1:-}" != --fit-only ]; then
  tslaw measure ladder-cpu --out "$data" --overwrite
fi
tslaw validate "$data"/*.nc
tslaw fit "$data"/*.nc --out "$fit.nc" --overwrite | tee "$fit.txt"
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
