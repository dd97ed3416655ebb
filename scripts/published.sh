#!/usr/bin/env bash
# Makes again what the repository holds of other people's results: the tidy tables in measurements/published from their
# transcriptions, the fits in fits/published, and what these say in docs/published.txt (docs/published.md explains).
# usage: published.sh    (BIN: the folder that holds the tslaw program and python, .venv/bin after `make install`)
set -euo pipefail
cd "$(dirname "$0")/.."
tslaw() { "${BIN:+$BIN/}tslaw" "$@"; }
data=measurements/published fits=fits/published text=docs/published.txt
mkdir -p "$fits"

# fit NAME TABLE [OPTION ...]
fit() {
  local name=$1 table=$2 status=0
  shift 2
  printf '\n== fit %s\n' "$name"
  tslaw fit "$data/$table.csv" --out "$fits/$name.nc" --samples 800 --overwrite "$@" || status=$?
  [ "$status" -le 1 ] || exit "$status" # 1: diagnostics failed; such a fit is kept and says so
}

# ask NAME PARAMETERS BITS ...: the crossover, and a size and bits that may not have been run
ask() {
  local name=$1 params=$2 bits
  shift 2
  printf '\n== ask %s\n' "$name"
  for bits; do tslaw crossover "$fits/$name.nc" --weight-bits "$bits" 2>/dev/null; done
  for bits; do tslaw predict "$fits/$name.nc" --params "$params" --weight-bits "$bits" --token-budget 32768 2>/dev/null; done
}

"${BIN:+$BIN/}python" scripts/published_tables.py --overwrite
{
  tslaw validate "$data"/*.csv
  # Each takes a core for some minutes, so the first two run side by side. Two of Qwen3's five benchmarks: those that
  # R1-Distill was asked too.
  fit r1-distill-qwen r1-distill-qwen >"$text.r1" 2>&1 & first=$!
  fit qwen3 qwen3 --task AIME24 --task GPQA-D >"$text.qwen3" 2>&1 & second=$!
  wait "$first"
  cat "$text.r1"
  fit qwen3-after-r1 qwen3 --task AIME24 --task GPQA-D --prior "$fits/r1-distill-qwen.nc" >"$text.after" 2>&1
  wait "$second"
  cat "$text.qwen3" "$text.after"
  rm "$text.r1" "$text.qwen3" "$text.after"
  ask r1-distill-qwen 4e9 16 8 4
  ask qwen3 6e9 16 8 4
  ask qwen3-after-r1 6e9 16 8 4
} | tee "$text.new"
mv "$text.new" "$text"
