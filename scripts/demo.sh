#!/usr/bin/env bash
# Everything tslaw exists for, end to end: measure a small family with real vLLM on the CPU, fit, crossover, recommendations, plots.
# usage: demo.sh OUT    (BIN: the folder that holds the tslaw program)
set -euo pipefail
out=${1:?usage: demo.sh OUT}
tslaw() { "${BIN:+$BIN/}tslaw" "$@"; }
step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "measure: four models, 16, 8 and 4 bits, two tasks"
tslaw measure ladder-demo --out "$out" --resume
step "fit: posterior of the accuracy-versus-memory surface"
# A fit that fails its diagnostics (status 1) is still shown, marked as failed; the demo then ends with its status.
status=0
tslaw fit "$out"/ladder-*.nc --out "$out/fit.nc" --warmup 400 --samples 2000 --overwrite || status=$?
[ "$status" -le 1 ] || exit "$status"
step "crossover: memory to weights or to thinking?"
for bits in 4 8 16; do tslaw crossover "$out/fit.nc" --weight-bits "$bits" --task ladder-math; done
step "the best configuration at three memory budgets"
tslaw recommend "$out/fit.nc" --task ladder-math --memory 1MiB --memory 2MiB --memory 4MiB
step "plots"
tslaw plot "$out/fit.nc" --out "$out/plots" --overwrite
step "done"
printf 'datasets  %s\nfit       %s\nplots     %s\n' "$(ls "$out"/ladder-*.nc | tr '\n' ' ')" "$out/fit.nc" "$out/plots"
exit "$status"
